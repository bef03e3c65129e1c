"""Guest RAM as a device accesses it: in place, by native code, with every store marked.

Rings and buffers are accessed directly and not through a machine's access strategy: the kernel
copies most of them, in the system calls of a disk or a socket. The marks are those of
memory/stores.py: before a store and after it.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from tagalong._native import RamRange, library
from tagalong.memory import GuestMemory, PageBitmap, Region


class RingError(Exception):
    """A driver broke the rules of the specification: the device stops, and says why.

    Never leaves this package: it becomes DEVICE_NEEDS_RESET.
    """


def address_of(data: bytearray | memoryview) -> int:
    """Return where writable bytes are; valid as long as they are. 0 if there are none."""
    return ctypes.addressof(ctypes.c_char.from_buffer(data)) if len(data) else 0


class GuestRam:
    """All RAM of a machine; its addresses stay valid as long as this object."""

    def __init__(self, memory: GuestMemory) -> None:
        self._regions = memory.regions
        self._planes = [region.raw_buffer for region in self._regions]
        self._addresses = [address_of(plane) for plane in self._planes]
        self._ranges = (RamRange * len(self._regions))(
            *(
                RamRange(region.gpa, region.size_bytes, address)
                for region, address in zip(self._regions, self._addresses, strict=True)
            )
        )

    @property
    def ranges_address(self) -> int:
        """Return where an array of `struct ta_ram_range` describes it."""
        return ctypes.addressof(self._ranges)

    @property
    def range_count(self) -> int:
        """Return the number of its regions."""
        return len(self._regions)

    def area(self, what: str, gpa: int, size_bytes: int, alignment_bytes: int) -> "RamArea":
        """Return a range that is used for long, such as a ring; `what` is for messages.

        Raises RingError if it is not in one region, or misaligned.
        """
        if gpa % alignment_bytes:
            raise RingError(f"{what} at gpa {gpa:#x} is not a multiple of {alignment_bytes}")
        for region, address in zip(self._regions, self._addresses, strict=True):
            if region.gpa <= gpa and gpa + size_bytes <= region.end:
                return RamArea(region, gpa - region.gpa, size_bytes, address)
        raise RingError(f"{what} at gpa {gpa:#x} is not in one region of guest RAM")

    @contextmanager
    def storing(self, buffers: int, count: int) -> Iterator[None]:
        """Mark the pages of `count` buffers before and after the block stores to them.

        `buffers`: the address of the first `struct ta_buffer`, which were found in this RAM.
        """
        self._mark(buffers, count)
        try:
            yield
        finally:
            self._mark(buffers, count)

    def _mark(self, buffers: int, count: int) -> None:
        for region, address in zip(self._regions, self._addresses, strict=True):
            if region.stores.is_logging:
                sizes = region.size_bytes, region.page_size_bytes
                region.stores.mark_by(partial(_set_pages, buffers, count, address, sizes))


def _set_pages(
    buffers: int, count: int, address: int, sizes: tuple[int, int], bitmap: PageBitmap
) -> None:
    """Set the pages that buffers touch of a region; `sizes`: of the region, and of a page."""
    library().ta_buffers_mark(buffers, count, address, *sizes, bitmap.words.ctypes.data)


class RamArea(NamedTuple):
    """A range in one region, `offset` bytes into it; the region begins at `region_address`."""

    region: Region
    offset: int
    size_bytes: int
    region_address: int

    @property
    def address(self) -> int:
        """Return where this process has it."""
        return self.region_address + self.offset

    @property
    def pages(self) -> tuple[int, int]:
        """Return the first page that it touches, and their number."""
        page = self.region.page_size_bytes
        first = self.offset // page
        return first, -(-(self.offset + self.size_bytes) // page) - first
