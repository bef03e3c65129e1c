"""Which segment answers for which address, when segments may overlap."""

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tagalong.binary.elf import ProgramHeader


@dataclass(frozen=True)
class OwnedRange:
    """Addresses [start, stop) of which one segment, the first in the file, is the owner."""

    start: int
    stop: int
    owner: ProgramHeader


class Coverage:
    """The ranges that segments cover, without overlap: the first in the file wins.

    That is what gdb does. `ranges`: for each segment the end of what it really has.
    """

    def __init__(self, ranges: Sequence[tuple[ProgramHeader, int]]) -> None:
        self.pieces = tuple(_sweep(ranges))
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


def _sweep(ranges: Sequence[tuple[ProgramHeader, int]]) -> Iterator[OwnedRange]:
    """Yield the pieces in order, neighbours of the same owner joined."""
    pending: OwnedRange | None = None
    for start, stop, owner in _owners(ranges):
        if pending and pending.owner is owner and pending.stop == start:
            pending = OwnedRange(pending.start, stop, owner)
            continue
        if pending:
            yield pending
        pending = OwnedRange(start, stop, owner)
    if pending:
        yield pending


def _owners(
    ranges: Sequence[tuple[ProgramHeader, int]],
) -> Iterator[tuple[int, int, ProgramHeader]]:
    """Yield each stretch between two edges that somebody owns: a walk along all edges."""
    opening = sorted(
        (header.address, order)
        for order, (header, stop) in enumerate(ranges)
        if stop > header.address
    )
    edges = sorted({at for at, _ in opening} | {ranges[order][1] for _, order in opening})
    to_open = deque(opening)
    candidates: list[int] = []
    for start, stop in pairwise(edges):
        while to_open and to_open[0][0] <= start:
            heapq.heappush(candidates, to_open.popleft()[1])
        while candidates and ranges[candidates[0]][1] <= start:
            heapq.heappop(candidates)
        if candidates:
            yield start, stop, ranges[candidates[0]][0]
