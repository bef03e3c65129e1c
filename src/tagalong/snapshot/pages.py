"""Copies pages of guest RAM, data and tags, into the segments of a core."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tagalong.core import CoreWriter
from tagalong.machine import PageSource
from tagalong.machine.page_source import CHUNK_BYTES
from tagalong.memory import PageBitmap
from tagalong.mte import PACKED_RATIO
from tagalong.snapshot.layout import RamPiece
from tagalong.snapshot.vmcoreinfo_search import VmcoreinfoSearch

WINDOW_BYTES = 16 << 20
"""Scattered pages that lie in so many bytes are copied together, with all tags between them."""

PageRanges = NDArray[np.int64]
"""Shape (ranges, 2): [start, stop) in pages, in order."""

CopyTick = Callable[[int], None]
"""Called with the number of bytes of data that were dealt with since the last call; may raise."""


class PageCopier:
    """Copies from `source` what `pieces` say, and calls `tick` after each chunk.

    `search` looks at the data on their way. Raises AddressError for a piece that is not in one
    range of the source.
    """

    def __init__(
        self,
        source: PageSource,
        writer: CoreWriter,
        pieces: Sequence[RamPiece],
        tick: CopyTick,
        search: VmcoreinfoSearch,
    ) -> None:
        self._source = source
        self._writer = writer
        self._tick = tick
        self._search = search
        self._page_bytes = source.memory.page_size_bytes
        self._window_pages = WINDOW_BYTES // self._page_bytes
        self._pieces = [
            (piece, *source.memory.locate(piece.gpa, piece.size_bytes)) for piece in pieces
        ]

    def count(self, pages: Sequence[PageBitmap]) -> int:
        """Return how many bytes of data `copy` would deal with."""
        runs = [bitmap.runs() for bitmap in pages]
        found = 0
        for piece, number, offset in self._pieces:
            first, count = self._pages_of(piece, offset)
            places = _cut(runs[number], first, count) * self._page_bytes
            skipped = offset % self._page_bytes
            places = places.clip(skipped, skipped + piece.size_bytes)
            found += int((places[:, 1] - places[:, 0]).sum())
        return found

    def copy(self, pages: Sequence[PageBitmap]) -> None:
        """Copy those of `pages`, a bitmap for each range, that belong to a piece.

        What is zero becomes a hole, in data and in tags. Raises HostError if the host cannot
        read or write, and what `tick` raises.
        """
        runs = [bitmap.runs() for bitmap in pages]
        for piece, number, offset in self._pieces:
            first, count = self._pages_of(piece, offset)
            ranges = _cut(runs[number], first, count)
            for batch in _batches(ranges, CHUNK_BYTES // self._page_bytes, self._window_pages):
                self._copy_batch(piece, number, offset, batch)

    def _copy_batch(self, piece: RamPiece, number: int, offset: int, batch: PageRanges) -> None:
        """Copy the data of pages [start, stop) of a piece, and all tags from first to last.

        A piece of smaller pages than the source's begins and ends inside of them: what is around
        it is read as well, and left out.
        """
        first, skipped = divmod(offset, self._page_bytes)
        lengths = batch[:, 1] - batch[:, 0]
        runs = np.stack((first + batch[:, 0], lengths), axis=1)
        # Which plane is read first does not matter: a guest's change of either in between
        # marks the page dirty, and both are written again. So are tags of pages in between.
        data = self._source.data(number, runs)
        self._search.look(number, runs, data)
        places = batch * self._page_bytes - skipped
        before, behind = max(0, -int(places[0, 0])), max(0, int(places[-1, 1]) - piece.size_bytes)
        places, data = places.clip(0, piece.size_bytes), data[before : data.size - behind]
        self._writer.write_pages(piece.segment, piece.offset + places, data)
        if piece.has_tags:
            low, high = int(batch[0, 0]), int(batch[-1, 1])
            tags = self._source.tags(number, first + low, high - low)
            tags = tags[before // PACKED_RATIO : tags.size - behind // PACKED_RATIO]
            self._writer.write_tags(piece.segment, piece.offset + int(places[0, 0]), tags)
        self._tick(data.size)

    def _pages_of(self, piece: RamPiece, offset: int) -> tuple[int, int]:
        """Return the first page that a piece touches in its range, and how many it touches."""
        first = offset // self._page_bytes
        return first, -(-(offset + piece.size_bytes) // self._page_bytes) - first


def _cut(runs: NDArray[np.int64], first: int, count: int) -> PageRanges:
    """Return the parts of runs (first page, pages; in order) in [first, first + count).

    As [start, stop), counted from `first`.
    """
    part = _overlapping(runs, first, count)
    starts = np.maximum(part[:, 0] - first, 0)
    stops = np.minimum(part[:, 0] + part[:, 1] - first, count)
    return np.stack((starts, stops), axis=1)


def _overlapping(runs: NDArray[np.int64], first: int, count: int) -> NDArray[np.int64]:
    """Return those runs that have pages in [first, first + count)."""
    low = int(np.searchsorted(runs[:, 0] + runs[:, 1], first, "right"))
    high = int(np.searchsorted(runs[:, 0], first + count, "left"))
    return runs[low:high]


def _batches(ranges: PageRanges, most: int, window: int) -> Iterator[PageRanges]:
    """Yield ranges in groups of at most `most` pages that lie in `window` pages."""
    ranges = _short(ranges, most)
    starts, stops = ranges.T
    before = np.concatenate(([0], np.cumsum(stops - starts)))
    at = 0
    while at < len(ranges):
        full = int(np.searchsorted(before, before[at] + most, "right")) - 1
        far = int(np.searchsorted(stops, starts[at] + window, "right"))
        end = max(min(full, far), at + 1)
        yield ranges[at:end]
        at = end


def _short(ranges: PageRanges, most: int) -> PageRanges:
    """Return the same ranges, those of more than `most` pages in parts of that many."""
    starts, stops = ranges.T
    parts = -(-(stops - starts) // most)
    number = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    begins = np.repeat(starts, parts) + number * most
    return np.stack((begins, np.minimum(begins + most, np.repeat(stops, parts))), axis=1)
