"""Guest RAM of the embedded machine: a region has a data plane and a tag plane of its own."""

from collections.abc import Sequence

from tagalong.machine import MachineDescription
from tagalong.memory import GuestMemory, Region, RegionSource


def create_memory(
    description: MachineDescription, sources: Sequence[RegionSource] | None
) -> GuestMemory:
    """Return RAM: new, or the content of `sources`, mapped copy-on-write."""
    page = description.page_size_bytes
    if sources is None:
        return GuestMemory(
            [Region.create(r.gpa, r.size_bytes, page_size_bytes=page) for r in description.regions]
        )
    pairs = zip(description.regions, sources, strict=True)
    return GuestMemory(
        [Region.map(r.gpa, r.size_bytes, source, page_size_bytes=page) for r, source in pairs]
    )
