"""All RAM of a machine, addressed by gpa."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from tagalong._lazy import module_when_used
from tagalong.errors import AddressError, UsageError
from tagalong.memory.address import check_range
from tagalong.mte import PACKED_RATIO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from tagalong.memory.region import Region

    BytesLike = bytes | bytearray | memoryview | NDArray[np.uint8]
else:
    np = module_when_used("numpy")


class GuestMemory:
    """The regions of a machine, sorted by gpa; closes them when it is closed.

    `regions`: at least one, in any order. Raises UsageError if there is none, if two of
    them overlap, or if they differ in page size. A gpa range that an operation is given
    must lie wholly inside one region; otherwise it raises AddressError and has changed
    nothing. Everything but `close` raises RunStateError after close().

    >>> from tagalong.memory import Region
    >>> with GuestMemory([Region.create(0x4000_0000, 0x10000)]) as memory:
    ...     memory.write(0x4000_1000, b"guest")
    ...     memory.read(0x4000_1001, 4)
    b'uest'
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        self.regions = tuple(sorted(regions, key=lambda region: region.gpa))
        self._starts = [region.gpa for region in self.regions]
        _check_regions(self.regions)

    def locate(self, gpa: int, length_bytes: int) -> tuple[Region, int]:
        """Return the region that holds the range and the byte offset of `gpa` in it."""
        check_range(gpa, length_bytes, 1)
        index = bisect_right(self._starts, gpa) - 1
        if index >= 0:
            region = self.regions[index]
            if gpa < region.end and gpa + length_bytes <= region.end:
                return region, gpa - region.gpa
        raise AddressError(
            f"gpa range [{gpa:#x}, {gpa + length_bytes:#x}) is not in one region of guest RAM: "
            + ", ".join(f"[{region.gpa:#x}, {region.end:#x})" for region in self.regions)
        )

    def region_of_pages(self, number: int, pages: NDArray[np.int64]) -> Region:
        """Return region `number`, which has all of `pages`, numbers in ascending order."""
        region = self.regions[number]
        if pages.size and not 0 <= pages[0] <= pages[-1] < region.page_count:
            raise AddressError(
                f"pages {pages[0]:#x} to {pages[-1]:#x} are not all in {region!r}, which has "
                f"{region.page_count:#x}"
            )
        return region

    def read(self, gpa: int, length_bytes: int) -> bytes:
        """Return a copy of guest data. A page never used reads as zero and stays a hole."""
        region, offset = self.locate(gpa, length_bytes)
        return region.read_data(offset, length_bytes).tobytes()

    def write(self, gpa: int, data: BytesLike) -> None:
        """Write guest data; tags stay as they are. `data` is any contiguous bytes."""
        # The types of numpy call no array a buffer before Python 3.12.
        source = memoryview(data)  # type: ignore[arg-type]
        region, offset = self.locate(gpa, source.nbytes)
        region.write_data(offset, source.cast("B") if source.nbytes else source)

    def expect(self, gpa: int, length_bytes: int) -> None:
        """Prepare for a range that is going to be written whole: see `Region.expect_data`."""
        region, offset = self.locate(gpa, length_bytes)
        region.expect_data(offset, length_bytes)

    def view(self, gpa: int, length_bytes: int) -> NDArray[np.uint8]:
        """Return guest data without a copy, shape (length_bytes,), read-only.

        Reading a page through it fills a hole.
        """
        region, offset = self.locate(gpa, length_bytes)
        return region.data[offset : offset + length_bytes]

    def storing(self, gpa: int, length_bytes: int) -> AbstractContextManager[NDArray[np.uint8]]:
        """Yield a writable view of guest data, for stores within a `with` block.

        As `Region.storing`: the pages are in the dirty log, and no access strategy is used.
        """
        region, offset = self.locate(gpa, length_bytes)
        return region.storing(offset, length_bytes)

    def storing_bytes(self, gpa: int, length_bytes: int) -> AbstractContextManager[memoryview]:
        """Yield guest data as writable bytes: as `storing`, without loading numpy."""
        region, offset = self.locate(gpa, length_bytes)
        return region.storing_bytes(offset, length_bytes)

    def read_tags(self, gpa: int, length_bytes: int) -> NDArray[np.uint8]:
        """Return a copy of the packed tags of a range, shape (length_bytes / 32,).

        `gpa` and `length_bytes` must be multiples of 32. Holes of the tag plane read as
        zero and stay holes.

        >>> from tagalong.memory import Region
        >>> with GuestMemory([Region.create(0x4000_0000, 0x10000)]) as memory:
        ...     memory.write_tags(0x4000_0020, np.array([0x21], np.uint8))
        ...     memory.read_tags(0x4000_0000, 64).tobytes().hex()
        '0021'
        """
        region, offset = self._locate_tags(gpa, length_bytes)
        return region.read_packed_tags(offset, length_bytes)

    def write_tags(self, gpa: int, packed: NDArray[np.uint8]) -> None:
        """Set the tags from `gpa` on, a multiple of 32; data stays as it is.

        `packed`: shape (n,) for 32 n bytes of memory. Raises UsageError for an array of
        another type or dimension.
        """
        if packed.dtype != np.uint8 or packed.ndim != 1:
            raise UsageError(
                f"packed tags must be one row of uint8, not {packed.dtype} of shape {packed.shape}"
            )
        region, offset = self._locate_tags(gpa, packed.size * PACKED_RATIO)
        region.write_packed_tags(offset, packed)

    def close(self) -> None:
        """Close every region. Safe to call twice; arrays taken before stay valid."""
        for region in self.regions:
            region.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _locate_tags(self, gpa: int, length_bytes: int) -> tuple[Region, int]:
        check_range(gpa, length_bytes, PACKED_RATIO)
        return self.locate(gpa, length_bytes)


def _check_regions(regions: tuple[Region, ...]) -> None:
    if not regions:
        raise UsageError("guest memory needs at least one region")
    for below, above in pairwise(regions):
        if below.end > above.gpa:
            raise UsageError(f"regions {below!r} and {above!r} overlap")
        if below.page_size_bytes != above.page_size_bytes:
            raise UsageError(
                f"regions {below!r} and {above!r} differ in page size: "
                f"{below.page_size_bytes:#x} and {above.page_size_bytes:#x}"
            )
