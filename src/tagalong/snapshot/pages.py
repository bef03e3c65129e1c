"""Copies pages of guest RAM, data and tags, into the segments of a core."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tagalong.core import CoreWriter
from tagalong.machine import RegionDescription
from tagalong.memory import Gpa, PageBitmap
from tagalong.snapshot.layout import Piece
from tagalong.snapshot.source import CHUNK_BYTES, PageSource

WINDOW_BYTES = 16 << 20
"""Scattered pages that lie in so many bytes are copied together, with all tags between them."""

Ranges = NDArray[np.int64]
"""Shape (ranges, 2): [start, stop), in order."""

Tick = Callable[[int], None]
"""Called with the number of bytes of data that were dealt with since the last call; may raise."""


class PageCopier:
    """Copies from `source` what `pieces` say, and calls `tick` after each chunk."""

    def __init__(
        self, source: PageSource, writer: CoreWriter, pieces: Sequence[Piece], tick: Tick
    ) -> None:
        self._source = source
        self._writer = writer
        self._tick = tick
        self._page_bytes = source.description.page_size_bytes
        self._window_pages = WINDOW_BYTES // self._page_bytes
        self._pieces = [(piece, self._region_of(piece)) for piece in pieces]

    def _region_of(self, piece: Piece) -> int:
        regions = self._source.description.regions
        return next(n for n, region in enumerate(regions) if _holds(region, piece.gpa))

    def count(self, pages: Sequence[PageBitmap]) -> int:
        """Return how many bytes of data `copy` would deal with."""
        runs = [bitmap.runs() for bitmap in pages]
        found = 0
        for piece, number in self._pieces:
            first, count = self._pages_of(piece, number)
            part = _overlapping(runs[number], first, count)
            starts = np.maximum(part[:, 0], first)
            stops = np.minimum(part[:, 0] + part[:, 1], first + count)
            found += int((stops - starts).sum())
        return found * self._page_bytes

    def copy(self, pages: Sequence[PageBitmap]) -> None:
        """Copy those of `pages`, a bitmap for each region, that belong to a piece.

        What is zero becomes a hole, in data and in tags. Raises HostError if the host cannot
        read or write, and what `tick` raises.
        """
        runs = [bitmap.runs() for bitmap in pages]
        for piece, number in self._pieces:
            ranges = _cut(runs[number], *self._pages_of(piece, number))
            for batch in _batches(ranges, CHUNK_BYTES // self._page_bytes, self._window_pages):
                self._copy_batch(piece, batch * self._page_bytes)

    def _copy_batch(self, piece: Piece, batch: Ranges) -> None:
        """Copy the data of bytes [start, stop) of a piece, and all tags from first to last."""
        lengths = batch[:, 1] - batch[:, 0]
        sources = np.stack((piece.gpa + batch[:, 0], lengths), axis=1)
        # Which plane is read first does not matter: a guest's change of either in between
        # marks the page dirty, and both are written again. So are tags of pages in between.
        self._writer.write_pages(piece.segment, piece.offset + batch, self._source.gather(sources))
        if piece.has_tags:
            first, last = int(batch[0, 0]), int(batch[-1, 1])
            tags = self._source.tags(Gpa(piece.gpa + first), last - first)
            self._writer.write_tags(piece.segment, piece.offset + first, tags)
        self._tick(int(lengths.sum()))

    def _pages_of(self, piece: Piece, number: int) -> tuple[int, int]:
        """Return the first page of a piece in its region, and how many it has."""
        region = self._source.description.regions[number]
        first = (piece.gpa - region.gpa) // self._page_bytes
        return first, piece.size_bytes // self._page_bytes


def _holds(region: RegionDescription, gpa: Gpa) -> bool:
    return region.gpa <= gpa < region.gpa + region.size_bytes


def _cut(runs: NDArray[np.int64], first: int, count: int) -> Ranges:
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


def _batches(ranges: Ranges, most: int, window: int) -> Iterator[Ranges]:
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


def _short(ranges: Ranges, most: int) -> Ranges:
    """Return the same ranges, those of more than `most` pages in parts of that many."""
    starts, stops = ranges.T
    parts = -(-(stops - starts) // most)
    number = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    begins = np.repeat(starts, parts) + number * most
    return np.stack((begins, np.minimum(begins + most, np.repeat(stops, parts))), axis=1)
