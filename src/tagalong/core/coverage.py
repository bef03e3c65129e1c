"""Which segment answers for which address, when segments may overlap."""

import heapq
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from tagalong.binary.elf import ProgramHeader

Extent = tuple[ProgramHeader, int]
"""A segment, and the end of the addresses that it really has."""


class OwnedRange(NamedTuple):
    """Addresses [start, stop) of which one segment, the first in the file, is the owner."""

    start: int
    stop: int
    owner: ProgramHeader


class Coverage:
    """The ranges that segments cover, without overlap: the first in the file wins, as in gdb."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self.pieces = tuple(_joined(_owned(extents)))
        self._starts = [piece.start for piece in self.pieces]

    def cover(self, start: int, stop: int) -> Iterator[OwnedRange]:
        """Yield what lies in [start, stop), cut to it, in order; gaps are left out."""
        index = max(bisect_right(self._starts, start) - 1, 0)
        for place in range(index, len(self.pieces)):
            piece = self.pieces[place]
            if piece.start >= stop or start >= stop:
                return
            if piece.stop > start:
                yield OwnedRange(max(piece.start, start), min(piece.stop, stop), piece.owner)


def _joined(pieces: Iterator[OwnedRange]) -> Iterator[OwnedRange]:
    """Yield the pieces, neighbours of the same owner as one."""
    pending: OwnedRange | None = None
    for piece in pieces:
        if pending and pending.owner is piece.owner and pending.stop == piece.start:
            pending = OwnedRange(pending.start, piece.stop, piece.owner)
            continue
        if pending:
            yield pending
        pending = piece
    if pending:
        yield pending


def _owned(extents: Sequence[Extent]) -> Iterator[OwnedRange]:
    """Yield the ranges of addresses that have an owner, in ascending order."""
    used = [(header.address, order) for order, (header, stop) in enumerate(extents)
            if stop > header.address]  # fmt: skip
    used.sort()
    whole = [OwnedRange(start, extents[order][1], extents[order][0]) for start, order in used]
    # The usual case, segments apart from each other: there is nothing to decide.
    if all(before.stop <= after.start for before, after in pairwise(whole)):
        return iter(whole)
    return _sweep(extents, used)


def _sweep(extents: Sequence[Extent], used: Sequence[tuple[int, int]]) -> Iterator[OwnedRange]:
    """Yield each stretch between two edges that a segment owns.

    A sweep line. `used` has the start and the number of each segment, in order of start. The
    line stops at every edge, the start or the end of any segment; between two edges the set
    of segments that cover the line does not change. Of that set only the smallest number
    matters, the first in the file, so a heap of numbers holds it. A segment enters the heap
    at its start. It is not taken out at its end, which would need a search: it stays until it
    is on top, where its end is looked at. Each segment enters and leaves once, so n segments
    take n log n steps, however they overlap. Asking each segment for each stretch would take
    n * n, and a hostile file has a quarter of a million.
    """
    edges = sorted({start for start, _ in used} | {extents[order][1] for _, order in used})
    candidates: list[int] = []
    entered = 0
    for start, stop in pairwise(edges):
        while entered < len(used) and used[entered][0] <= start:
            heapq.heappush(candidates, used[entered][1])
            entered += 1
        while candidates and extents[candidates[0]][1] <= start:
            heapq.heappop(candidates)
        if candidates:
            yield OwnedRange(start, stop, extents[candidates[0]][0])
