"""Copies pages of guest RAM, data and tags, into the segments of a core."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tagalong.core import CoreWriter
from tagalong.machine import RegionDescription
from tagalong.memory import Gpa, PageBitmap
from tagalong.snapshot.layout import Piece
from tagalong.snapshot.source import CHUNK_BYTES, PageSource

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
        self._pieces = [(piece, self._region_of(piece)) for piece in pieces]

    def _region_of(self, piece: Piece) -> int:
        regions = self._source.description.regions
        return next(n for n, region in enumerate(regions) if _holds(region, piece.gpa))

    def count(self, pages: Sequence[PageBitmap]) -> int:
        """Return how many bytes of data `copy` would deal with."""
        return sum(length for _, _, length in self._ranges(pages))

    def copy(self, pages: Sequence[PageBitmap]) -> None:
        """Copy those of `pages`, a bitmap for each region, that belong to a piece.

        What is zero becomes a hole, in data and in tags. Raises HostError if the host cannot
        read or write, and what `tick` raises.
        """
        for piece, gpa, length in self._ranges(pages):
            for start in range(gpa, gpa + length, CHUNK_BYTES):
                size = min(CHUNK_BYTES, gpa + length - start)
                self._copy_chunk(piece, Gpa(start), size)
                self._tick(size)

    def _copy_chunk(self, piece: Piece, gpa: Gpa, size: int) -> None:
        offset = piece.offset + gpa - piece.gpa
        # Which plane is read first does not matter: a guest's change of either in between
        # marks the page dirty, and both are written again.
        self._writer.write_data(piece.segment, offset, self._source.data(gpa, size))
        if piece.has_tags:
            self._writer.write_tags(piece.segment, offset, self._source.tags(gpa, size))

    def _ranges(self, pages: Sequence[PageBitmap]) -> Iterator[tuple[Piece, int, int]]:
        """Yield each range of pages that are set, cut to its piece, as gpa and length."""
        runs = [bitmap.runs() for bitmap in pages]
        for piece, number in self._pieces:
            region = self._source.description.regions[number]
            first = (piece.gpa - region.gpa) // self._page_bytes
            stop = first + piece.size_bytes // self._page_bytes
            for start, end in _cut(runs[number], first, stop):
                gpa = region.gpa + start * self._page_bytes
                yield piece, gpa, (end - start) * self._page_bytes


def _holds(region: RegionDescription, gpa: Gpa) -> bool:
    return region.gpa <= gpa < region.gpa + region.size_bytes


def _cut(runs: NDArray[np.int64], first: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of runs (first page, pages; in order) that lie in [first, stop)."""
    ends = runs[:, 0] + runs[:, 1]
    low = int(np.searchsorted(ends, first, "right"))
    high = int(np.searchsorted(runs[:, 0], stop, "left"))
    for start, count in runs[low:high].tolist():
        yield max(start, first), min(start + count, stop)
