"""The memory of a core as a source of pages, for cores of any writer."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagalong.binary.elf import ProgramHeader
from tagalong.core.reader import Core
from tagalong.core.regions import CoreRegion
from tagalong.core.space import Space
from tagalong.core.thread_notes import AT_PAGESZ
from tagalong.errors import NoTagsError
from tagalong.machine import MemoryMap, MemoryRange
from tagalong.memory import FileRange, PageBitmap
from tagalong.mte import PACKED_RATIO, PAGE_SIZES_BYTES


class CorePages:
    """The memory of an open core; implements PageSource.

    `path` is for messages. In a core of a whole machine the ranges are the machine's regions.
    In any other they are what the core has data of, and what is no whole page is left out;
    neighbours of which only one has tags are two ranges. A core does not change: after the
    first answer `changed_pages` is empty.

    Raises MalformedCoreError if the notes are damaged. Reading raises NotInCoreError,
    NoTagsError, and MalformedCoreError if the file was cut short.

    >>> with open_core("vm.core") as core:  # doctest: +SKIP
    ...     take_census(CorePages(core, Path("vm.core")))
    """

    def __init__(self, core: Core, path: Path) -> None:
        self._core = core
        self._path = path
        self._is_recording = False
        self._loads = _SegmentIndex(core.loads)
        self._tag_segments = _SegmentIndex(core.tag_segments)
        self.memory = _memory_of(core)

    def populated_pages(self) -> list[PageBitmap]:
        """As PageSource: what is no hole of the file, in either plane."""
        numbers = range(len(self.memory.ranges))
        return [self.data_pages(number) | self.tag_pages(number) for number in numbers]

    def changed_pages(self) -> list[PageBitmap]:
        """As PageSource."""
        if not self._is_recording:
            self._is_recording = True
            return self.populated_pages()
        return [PageBitmap(self.memory.page_count(n)) for n in range(len(self.memory.ranges))]

    def data_pages(self, number: int) -> PageBitmap:
        """Return the pages of a range whose data are no hole of the file."""
        return self._pages(number, self.data_range(number), 1)

    def tag_pages(self, number: int) -> PageBitmap:
        """Return the pages of a range whose tags are no hole of the file."""
        if not self.memory.ranges[number].has_tags:
            return PageBitmap(self.memory.page_count(number))
        return self._pages(number, self.tag_range(number), PACKED_RATIO)

    def _pages(self, number: int, content: FileRange | None, ratio: int) -> PageBitmap:
        whole = (0, self.memory.ranges[number].size_bytes // ratio)
        extents = [whole] if content is None else content.extents()
        page = self.memory.page_size_bytes
        return PageBitmap.from_extents(self.memory.page_count(number), extents, page // ratio)

    def data(self, number: int, runs: NDArray[np.int64]) -> NDArray[np.uint8]:
        """As PageSource. A single run of a plain file is a view of it."""
        page, address = self.memory.page_size_bytes, self.memory.ranges[number].address
        parts = [
            self._core.data(address + first * page, count * page) for first, count in runs.tolist()
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def tags(self, number: int, first: int, count: int) -> NDArray[np.uint8]:
        """As PageSource."""
        page, here = self.memory.page_size_bytes, self.memory.ranges[number]
        address = here.address + first * page
        if not here.has_tags:
            raise NoTagsError("the core has no tags for this memory", address=address)
        return self._core.tags(address, count * page)

    def data_range(self, number: int) -> FileRange | None:
        """Return where the data of a range are, None if not in one place of a plain file."""
        return self._file_range(self.memory.ranges[number], self._loads, 1)

    def tag_range(self, number: int) -> FileRange | None:
        """Return where the tags of a range are, None if not in one place of a plain file."""
        return self._file_range(self.memory.ranges[number], self._tag_segments, PACKED_RATIO)

    def _file_range(
        self, here: MemoryRange, segments: "_SegmentIndex", ratio: int
    ) -> FileRange | None:
        fd, segment = self._core.source.fd, segments.only(here)
        size = here.size_bytes // ratio
        if fd is None or segment is None or segment.available < size:
            return None
        return FileRange(self._path, fd, segment.offset, size)


class _SegmentIndex:
    """Segments by address: whether a range is one segment costs a search, not a walk."""

    def __init__(self, segments: Sequence[ProgramHeader]) -> None:
        self._segments = sorted((s for s in segments if s.size_bytes), key=lambda s: s.address)
        self._starts = [each.address for each in self._segments]
        self._furthest = [*accumulate((each.end for each in self._segments), max)]

    def only(self, here: MemoryRange) -> ProgramHeader | None:
        """Return the segment with just this range, None if other segments are in it as well."""
        first = bisect_left(self._starts, here.address)
        stop = bisect_left(self._starts, here.end)
        if stop - first != 1 or (first and self._furthest[first - 1] > here.address):
            return None
        segment = self._segments[first]
        is_same = (segment.address, segment.size_bytes) == (here.address, here.size_bytes)
        return segment if is_same else None


def _memory_of(core: Core) -> MemoryMap:
    notes = core.machine
    if notes is not None and notes.space is Space.PHYSICAL:
        return MemoryMap.of(notes.description)
    # What a guest's own tables map is of its pages, which may be smaller than the machine's.
    page = PAGE_SIZES_BYTES[0] if notes else _page_size(core)
    ranges = [_whole_pages(region, page) for region in core.regions if region.has_data]
    return MemoryMap(page, tuple(each for each in ranges if each.size_bytes > 0))


def _page_size(core: Core) -> int:
    """Return the page size that NT_AUXV has, else 4096."""
    size = (core.auxiliary_vector or {}).get(AT_PAGESZ)
    return size if size in PAGE_SIZES_BYTES else PAGE_SIZES_BYTES[0]


def _whole_pages(region: CoreRegion, page: int) -> MemoryRange:
    start = -(-region.address // page) * page
    return MemoryRange(start, region.end // page * page - start, region.has_tags)
