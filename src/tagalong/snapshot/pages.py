"""Copies pages of guest RAM, data and tags, into the segments of a core."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tagalong.core import CoreWriter
from tagalong.machine import RegionDescription
from tagalong.memory import Gpa, PageBitmap
from tagalong.snapshot.layout import Piece
from tagalong.snapshot.source import CHUNK_BYTES, PageSource

WINDOW_BYTES = 4 << 20
"""Scattered pages that lie in so many bytes are copied together, with all tags between them."""

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
        for piece, ranges in self._by_piece(pages):
            for batch in _batches(ranges, CHUNK_BYTES // self._page_bytes, self._window_pages):
                self._copy_batch(piece, batch)

    def _copy_batch(self, piece: Piece, batch: Sequence[tuple[int, int]]) -> None:
        """Copy the data of pages [start, stop) of a piece, and all tags from first to last."""
        page = self._page_bytes
        places = [(piece.offset + a * page, piece.offset + b * page) for a, b in batch]
        sources = [(Gpa(piece.gpa + a * page), (b - a) * page) for a, b in batch]
        # Which plane is read first does not matter: a guest's change of either in between
        # marks the page dirty, and both are written again. So are tags of pages in between.
        self._writer.write_pages(piece.segment, places, self._source.gather(sources))
        if piece.has_tags:
            first, length = sources[0][0], places[-1][1] - places[0][0]
            tags = self._source.tags(first, length)
            self._writer.write_tags(piece.segment, places[0][0], tags)
        self._tick(sum(length for _, length in sources))

    def _by_piece(
        self, pages: Sequence[PageBitmap]
    ) -> Iterator[tuple[Piece, Iterator[tuple[int, int]]]]:
        """Yield for each piece the ranges of its pages that are set, counted from its start."""
        runs = [bitmap.runs() for bitmap in pages]
        for piece, number in self._pieces:
            yield piece, _cut(runs[number], *self._pages_of(piece, number))

    def _pages_of(self, piece: Piece, number: int) -> tuple[int, int]:
        """Return the first page of a piece in its region, and how many it has."""
        region = self._source.description.regions[number]
        first = (piece.gpa - region.gpa) // self._page_bytes
        return first, piece.size_bytes // self._page_bytes


def _holds(region: RegionDescription, gpa: Gpa) -> bool:
    return region.gpa <= gpa < region.gpa + region.size_bytes


def _cut(runs: NDArray[np.int64], first: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of runs (first page, pages; in order) in [first, first + count).

    As [start, stop), counted from `first`.
    """
    for start, length in _overlapping(runs, first, count).tolist():
        yield max(start - first, 0), min(start + length - first, count)


def _overlapping(runs: NDArray[np.int64], first: int, count: int) -> NDArray[np.int64]:
    """Return those runs that have pages in [first, first + count)."""
    low = int(np.searchsorted(runs[:, 0] + runs[:, 1], first, "right"))
    high = int(np.searchsorted(runs[:, 0], first + count, "left"))
    return runs[low:high]


def _batches(
    ranges: Iterator[tuple[int, int]], most: int, window: int
) -> Iterator[list[tuple[int, int]]]:
    """Yield ranges in groups of at most `most` pages that lie in `window` pages."""
    batch: list[tuple[int, int]] = []
    count = 0
    for whole_start, stop in ranges:
        for start in range(whole_start, stop, most):
            end = min(start + most, stop)
            if batch and (count + end - start > most or end - batch[0][0] > window):
                yield batch
                batch, count = [], 0
            batch.append((start, end))
            count += end - start
    if batch:
        yield batch
