"""Guest RAM for KVM: a region's data plane is what the guest runs on, its tags are in its pages.

A memfd mapped shared, without PROT_MTE, is what the guest and this process access; a second
mapping with PROT_MTE (`tagalong.access.native_host`) gives LDG and STG access to the same tags.
Kernels before 6.2 reject shared memory for a VM with MTE: there the RAM is private anonymous
memory, which has no second mapping. So is the RAM of a machine that is restored from a file that
KVM accepts mapped copy-on-write: Linux allows tags in private mappings of tmpfs, and before 6.2
of any file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from tagalong._lazy import module_when_used
from tagalong.errors import UsageError
from tagalong.memory import AnyPlane, Plane, Region
from tagalong.memory.region import check_region

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from tagalong.machine import RegionDescription
    from tagalong.memory import RegionSource, private
else:
    private = module_when_used("tagalong.memory.private")


class TagsInPages:
    """Takes the place of a region's tag plane: KVM stores tags in the pages themselves.

    There is nothing to map here, and to answer with zeros would lose tags silently.
    """

    was_reserved = False
    is_of_file = False

    @property
    def fd(self) -> int:
        """Refuse: there is no file."""
        return self._refuse()

    @property
    def size_bytes(self) -> int:
        """Refuse: there is no plane."""
        return self._refuse()

    @property
    def buffer(self) -> memoryview:
        """Refuse: there is no plane."""
        return self._refuse()

    @property
    def array(self) -> NDArray[np.uint8]:
        """Refuse: there is no plane."""
        return self._refuse()

    def write(self, offset: int, data: memoryview) -> None:
        """Refuse: there is no plane."""
        del offset, data
        self._refuse()

    def expect(self, offset: int, length_bytes: int) -> None:
        """Refuse: there is no plane."""
        del offset, length_bytes
        self._refuse()

    def read_into(self, target: NDArray[np.uint8], offset: int) -> None:
        """Refuse: there is no plane."""
        del target, offset
        self._refuse()

    def read_pages_into(
        self, target: NDArray[np.uint8], page_bytes: int, pages: NDArray[np.int64]
    ) -> None:
        """Refuse: there is no plane."""
        del target, page_bytes, pages
        self._refuse()

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield nothing: no page has a tag whose data are a hole."""
        return iter(())

    def used_pages(self, start: int, page_bytes: int, count: int) -> NDArray[np.bool_]:
        """Refuse: there is no plane."""
        del start, page_bytes, count
        self._refuse()

    def close(self) -> None:
        """Do nothing: the tags go with the pages."""

    def _refuse(self) -> NoReturn:
        raise UsageError(
            "a KVM guest's tags are in its pages: use read_tags and write_tags of the machine"
        )


def create_region(
    description: RegionDescription,
    page_size_bytes: int,
    *,
    shared: bool,
    source: RegionSource | None = None,
) -> Region:
    """Return new RAM: in a memfd if `shared`, else private memory that `source` fills.

    Raises UsageError, AddressError, HostError.
    """
    check_region(description.gpa, description.size_bytes, page_size_bytes)
    data: AnyPlane
    if shared:
        data = Plane("tagalong-ram", description.size_bytes)
    else:
        content = source.data if source is not None else None
        data = private.PrivatePlane("tagalong-ram", description.size_bytes, content)
    return Region(description.gpa, page_size_bytes, data, TagsInPages())
