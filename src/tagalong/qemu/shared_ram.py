"""Guest RAM of another process as a source of pages: its memfd, mapped with PROT_MTE for tags.

A page that KVM has let the guest use keeps its tags in any mapping. One that the guest never
touched has none: the kernel clears them at the first use of a mapping with PROT_MTE, as it would
for the guest. Holes are not touched: that would allocate memory in the guest's RAM.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from tagalong.access import Routine
from tagalong.access.native_host import call_guarded
from tagalong.access.system import PROT_MTE, has_mte
from tagalong.errors import HostError, NoTagsError
from tagalong.machine import MemoryMap
from tagalong.memory import PageBitmap
from tagalong.memory.extents import file_extents
from tagalong.mte import PACKED_RATIO


class SharedRam:
    """A memfd as PageSource; made by `map_ram`.

    `offsets`: where in the memfd each range of `memory` begins. Pages that the guest changes
    meanwhile are torn.
    """

    def __init__(
        self,
        fd: int,
        memory: MemoryMap,
        offsets: tuple[int, ...],
        tagged: mmap.mmap | None,
    ) -> None:
        self.memory = memory
        self._fd = fd
        self._offsets = offsets
        self._tagged = None if tagged is None else np.frombuffer(tagged, np.uint8)
        self._used = [self._used_pages(number) for number in range(len(offsets))]

    def _used_pages(self, number: int) -> PageBitmap:
        start, size = self._offsets[number], self.memory.ranges[number].size_bytes
        found = file_extents(self._fd, start, start + size, "the guest's RAM")
        extents = [(low - start, high - start) for low, high in found]
        page = self.memory.page_size_bytes
        return PageBitmap.from_extents(self.memory.page_count(number), extents, page)

    def populated_pages(self) -> list[PageBitmap]:
        """As PageSource: what was no hole when the RAM was mapped."""
        return [each.copy() for each in self._used]

    def changed_pages(self) -> list[PageBitmap]:
        """As PageSource. Nothing tells which pages of another process change: all that are used."""
        self._used = [self._used_pages(number) for number in range(len(self._offsets))]
        return self.populated_pages()

    def data(self, number: int, runs: NDArray[np.int64]) -> NDArray[np.uint8]:
        """As PageSource: a copy; zeros for holes. Raises HostError if the RAM was cut short."""
        page, start, used = self.memory.page_size_bytes, self._offsets[number], self._used[number]
        out = np.zeros(int(runs[:, 1].sum()) * page, np.uint8)
        done = 0
        for first, count in runs.tolist():
            for low, many in _used_runs(used, first, count):
                at, to = start + low * page, done + (low - first) * page
                self._read(out[to : to + many * page], at)
            done += count * page
        return out

    def _read(self, out: NDArray[np.uint8], at: int) -> None:
        """Fill `out` from byte `at` on. A process that cuts its memfd short does not end ours."""
        while out.size:
            try:
                count = os.preadv(self._fd, [out.data], at)
            except OSError as error:
                raise HostError(f"reading the guest's RAM failed: {error.strerror}") from error
            if not count:
                raise HostError(f"the guest's RAM ends at {at:#x}: its process has cut it short")
            out, at = out[count:], at + count

    def tags(self, number: int, first: int, count: int) -> NDArray[np.uint8]:
        """As PageSource; zeros for holes. Raises HostError if LDG faults."""
        page, start = self.memory.page_size_bytes, self._offsets[number]
        if self._tagged is None:
            address = self.memory.ranges[number].address + first * page
            raise NoTagsError("the tags of this memory cannot be read", address=address)
        packed = page // PACKED_RATIO
        out = np.zeros(count * packed, np.uint8)
        for low, many in _used_runs(self._used[number], first, count):
            target = out[(low - first) * packed :][: many * packed]
            source: int = self._tagged.ctypes.data + start + low * page
            result, _ = call_guarded(Routine.READ_TAGS, target.ctypes.data, source, target.size)
            if result.fault:
                raise HostError(f"reading tags of the guest's RAM failed: {result.fault}")
        return out


def _used_runs(used: PageBitmap, first: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of used pages in [first, first + count): first page, number of pages."""
    runs = used.runs()
    low = int(np.searchsorted(runs[:, 0] + runs[:, 1], first, "right"))
    high = int(np.searchsorted(runs[:, 0], first + count, "left"))
    for start, many in runs[low:high].tolist():
        begin, end = max(start, first), min(start + many, first + count)
        yield begin, end - begin


def can_read_tags() -> bool:
    """Return whether this host has MTE, so that a mapping shows tags."""
    return has_mte()


@contextmanager
def map_ram(
    fd: int, size_bytes: int, memory: MemoryMap, offsets: tuple[int, ...]
) -> Iterator[SharedRam]:
    """Yield the memory of a memfd, with its tags if the ranges of `memory` have some.

    Raises HostError if it cannot be mapped. Its arrays must not be used afterwards.
    """
    has_tags = any(each.has_tags for each in memory.ranges)
    try:
        tagged = (
            mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ | PROT_MTE)
            if has_tags
            else None
        )
    except (OSError, ValueError) as error:
        raise HostError(f"the guest's RAM cannot be mapped: {error}") from error
    yield SharedRam(fd, memory, offsets, tagged)
