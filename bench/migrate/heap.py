"""What the tags of a working heap take on the wire, here and from QEMU."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.migrate import ours, qemu
from bench.migrate.sample import Figures
from tagalong.migrate import MigrationOptions
from tagalong.soft import SoftMachine


@dataclass(frozen=True)
class Heap:
    """Guest RAM as a guest has left it; a Content for `qemu.migrate`."""

    data: NDArray[np.uint8]
    tags: NDArray[np.uint8]

    @property
    def ram_bytes(self) -> int:
        """Return the size of guest RAM."""
        return self.data.size

    def fill(self, data: NDArray[np.uint8]) -> None:
        """Fill a data plane."""
        data[:] = self.data

    def fill_tags(self, tags: NDArray[np.uint8]) -> None:
        """Fill a packed tag plane."""
        tags[:] = self.tags


def measure(machine: SoftMachine, *, with_qemu: bool) -> dict[str, Figures]:
    """Return what a whole paused guest takes, in its first and only round."""
    moved = ours.migrate(machine, MigrationOptions())
    assert moved.tag_bytes is not None and moved.data_bytes is not None  # noqa: PT018
    figures = {"tagalong, tags of the heap": _figures(moved.tag_bytes, moved.data_bytes)}
    if with_qemu:
        figures["QEMU, tags of the heap"] = _figures(*_from_qemu(machine))
    return figures


def _from_qemu(machine: SoftMachine) -> tuple[int, int]:
    """Return bytes of tags and of everything else: a migration with tags, and one without."""
    (region,) = machine.memory.regions
    heap = Heap(region.data.copy(), region.tags.copy())
    with_tags = qemu.migrate(heap, qemu.Setting()).wire_bytes
    bare = qemu.migrate(replace(heap, tags=np.zeros_like(heap.tags)), qemu.Setting()).wire_bytes
    assert with_tags is not None and bare is not None  # noqa: PT018
    return with_tags - bare, bare


def _figures(tag_bytes: int, data_bytes: int) -> Figures:
    return {
        "data_mib": data_bytes / (1 << 20),
        "tags_kib": tag_bytes / (1 << 10),
        "tags_percent_of_data": 100 * tag_bytes / data_bytes,
    }
