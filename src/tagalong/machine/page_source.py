"""Where pages and tags come from: the narrow seam, for a guest that any VMM runs.

A `Machine` can do all that a VM does. What reads memory needs far less, and far more can offer
it: a core, a stream, a guest that another VMM runs. `PageSource` is that much: which memory
there is, its data and its tags, which pages are populated, and which have changed. Digests,
censuses, dumps and snapshots take a PageSource and know no more.

Pages are named by the number of their range and their number in it, not by address, so that a
source of virtual addresses looks like one of guest physical ones.
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol, Self

from tagalong._lazy import module_when_used
from tagalong.errors import AddressError, NoTagsError, TagalongError
from tagalong.memory import Gpa, PageBitmap, Region, run_pages
from tagalong.mte import GRANULE_BYTES

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    import tagalong.mte.tags as mte_tags
    from tagalong.machine.protocols import Machine
    from tagalong.machine.state import MachineDescription
else:
    mte_tags = module_when_used("tagalong.mte.tags")
    np = module_when_used("numpy")

CHUNK_BYTES: Final = 8 << 20
"""At most so many bytes of data are asked for at once."""

# Shorter ranges are copied: that costs less than finding out whether they have holes.
_VIEWED_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class MemoryRange:
    """Memory [address, end) of a source, whole pages; with allocation tags or without."""

    address: int
    size_bytes: int
    has_tags: bool

    @property
    def end(self) -> int:
        """Return the first address behind it."""
        return self.address + self.size_bytes


@dataclass(frozen=True)
class MemoryMap:
    """What memory a source has: its ranges in ascending order, in pages of one size.

    Two ranges may touch, but never overlap. What lies in none of them is not there, which is
    another thing than memory that is zero.
    """

    page_size_bytes: int
    ranges: tuple[MemoryRange, ...]

    @classmethod
    def of(cls, description: MachineDescription) -> Self:
        """Return the memory of a machine: its regions, all with tags or all without."""
        has_tags = description.mte_version != 0
        regions = sorted(description.regions, key=lambda region: region.gpa)
        ranges = tuple(MemoryRange(each.gpa, each.size_bytes, has_tags) for each in regions)
        return cls(description.page_size_bytes, ranges)

    @property
    def size_bytes(self) -> int:
        """Return the sum of all ranges."""
        return sum(each.size_bytes for each in self.ranges)

    def locate(self, address: int, length_bytes: int) -> tuple[int, int]:
        """Return the number of the range that holds all of [address, +length_bytes).

        And the offset of `address` in it. Raises AddressError if no range holds it.
        """
        number = bisect_right(self._starts, address) - 1
        if number < 0 or address + length_bytes > self.ranges[number].end:
            raise AddressError(
                f"[{address:#x}, {address + length_bytes:#x}) is not in one range of this memory"
            )
        return number, address - self.ranges[number].address

    @cached_property
    def _starts(self) -> list[int]:
        return [each.address for each in self.ranges]

    def page_count(self, number: int) -> int:
        """Return how many pages range `number` has."""
        return self.ranges[number].size_bytes // self.page_size_bytes


class PageSource(Protocol):
    """Memory and tags that can be read. Used by one thread at a time.

    `number` is that of a range of `memory`. Reading changes nothing and fills no hole. What
    a source cannot give although `memory` has it raises TagalongError: a core that was cut
    short raises MalformedCoreError.
    """

    @property
    def memory(self) -> MemoryMap:
        """Return which memory there is. It never changes."""
        ...

    def populated_pages(self) -> list[PageBitmap]:
        """Return, for each range, the pages that may hold data or tags other than zero."""
        ...

    def changed_pages(self) -> list[PageBitmap]:
        """Return, for each range, the pages that changed since the last call.

        The first call begins the record and returns the populated pages: those that differ
        from memory that is all zero. No change is lost: what is not in this answer is in a
        later one.
        """
        ...

    def data(self, number: int, runs: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the data of pages, shape (bytes,), one run after the other.

        `runs`: rows of first page and number of pages, in ascending order, CHUNK_BYTES
        together at most. Not to be written to. A writable array is valid until the next call, a
        read-only one as long as the guest does not run.
        """
        ...

    def tags(self, number: int, first: int, count: int) -> NDArray[np.uint8]:
        """Return the packed tags of `count` pages from page `first` on, shape (bytes / 32,).

        Low nibble first. Raises NoTagsError for a range without tags.
        """
        ...


class MachinePages:
    """The memory of a machine as a PageSource; used in a `with` statement if it runs.

    `is_running`: the guest may run meanwhile. Its pages may be torn then, and are in a later
    answer of `changed_pages`. Leaving the `with` statement ends the machine's dirty log.

    >>> from tagalong.soft import SoftMachine
    >>> machine = SoftMachine.create(ram_bytes=1 << 20)
    >>> machine.memory.write(Gpa(0x4000_1000), b"guest")
    >>> source = MachinePages(machine)
    >>> source.populated_pages()[0].pages().tolist()
    [1]
    >>> source.data(0, np.array([[1, 1]]))[:5].tobytes()
    b'guest'
    """

    def __init__(self, machine: Machine, *, is_running: bool = False) -> None:
        self.memory = MemoryMap.of(machine.description)
        self._machine = machine
        self._is_running = is_running
        self._is_recording = False
        self._has_data = machine.description.has_data
        self._buffer = (np.empty if self._has_data else np.zeros)(CHUNK_BYTES, np.uint8)

    def populated_pages(self) -> list[PageBitmap]:
        """As PageSource."""
        return self._machine.populated_pages()

    def changed_pages(self) -> list[PageBitmap]:
        """As PageSource. Raises RunStateError if the machine is closed."""
        if self._is_recording:
            return self._machine.harvest_dirty_log()
        self._machine.start_dirty_log()
        self._is_recording = True
        # In this order: a page that is used after the question is dirty in the log.
        return self._machine.populated_pages()

    def data(self, number: int, runs: NDArray[np.int64]) -> NDArray[np.uint8]:
        """As PageSource: a copy, or guest RAM itself if it is one run without holes.

        What a running guest has must be copied: what is found to be zero must still be zero
        when it is left out. Data that another VMM has are zero here.
        """
        if not self._has_data:
            return self._buffer[: int(runs[:, 1].sum()) * self.memory.page_size_bytes]
        region = self._machine.memory.regions[number]
        page = region.page_size_bytes
        first, count = runs[0].tolist()
        if len(runs) == 1 and self._is_solid(region, first, count):
            return region.data[first * page : (first + count) * page]
        copy = self._buffer[: int(runs[:, 1].sum()) * page]
        if len(runs) == 1:
            region.read_data_into(copy, first * page)
        else:
            region.read_pages_into(copy, run_pages(runs))
        return copy

    def _is_solid(self, region: Region, first: int, count: int) -> bool:
        """Return whether pages are worth a look, cannot change, and are known to be there."""
        if self._is_running or region.is_routed:
            return False
        return count * region.page_size_bytes >= _VIEWED_BYTES and region.has_known_data(
            first, count
        )

    def tags(self, number: int, first: int, count: int) -> NDArray[np.uint8]:
        """As PageSource."""
        page, here = self.memory.page_size_bytes, self.memory.ranges[number]
        gpa = Gpa(here.address + first * page)
        if not here.has_tags:
            raise NoTagsError("this machine has no tags", address=gpa)
        return self._machine.read_tags(gpa, count * page)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_recording:
            self._is_recording = False
            # Failing to end the log must lose neither a success nor an error.
            with suppress(TagalongError):
                self._machine.stop_dirty_log()


def granule_tags(source: PageSource, address: int, length_bytes: int) -> NDArray[np.uint8]:
    """Return the allocation tags of a range one a byte, shape (length_bytes / 16,), as a copy.

    `address`, `length_bytes`: multiples of 16. Raises AddressError if they are not, or if the
    range does not lie in one range of the source, NoTagsError if that has no tags.

    >>> from tagalong.soft import SoftMachine
    >>> machine = SoftMachine.create(ram_bytes=1 << 20)
    >>> machine.write_tags(Gpa(0x4000_0000), np.full(128, 0x21, np.uint8))
    >>> granule_tags(MachinePages(machine), 0x4000_0FE0, 48).tolist()
    [1, 2, 0]
    """
    for what, value in (("address", address), ("length", length_bytes)):
        if value % GRANULE_BYTES:
            raise AddressError(f"{what} {value:#x} is not a multiple of {GRANULE_BYTES:#x}")
    number, offset = source.memory.locate(address, length_bytes)
    page = source.memory.page_size_bytes
    first = offset // page
    packed = source.tags(number, first, -(-(offset + length_bytes) // page) - first)
    skipped = (offset - first * page) // GRANULE_BYTES
    return mte_tags.unpack(packed)[skipped : skipped + length_bytes // GRANULE_BYTES]


def read_bytes(source: PageSource, address: int, length_bytes: int) -> bytes:
    """Return a copy of the data of any range of bytes, CHUNK_BYTES of whole pages at most.

    Raises AddressError if the range does not lie in one range of the source.
    """
    number, offset = source.memory.locate(address, length_bytes)
    page = source.memory.page_size_bytes
    first = offset // page
    count = -(-(offset + length_bytes) // page) - first
    at = offset - first * page
    pages = source.data(number, np.array([[first, count]], np.int64))
    return pages[at : at + length_bytes].tobytes()
