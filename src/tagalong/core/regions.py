"""What a core has, by address: data, tags, or both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tagalong.core.coverage import OwnedRange


@dataclass(frozen=True)
class CoreRegion:
    """Addresses [address, address + size_bytes) of which a core has data, tags, or both."""

    address: int
    size_bytes: int
    has_data: bool
    has_tags: bool

    @property
    def end(self) -> int:
        """Return the first address behind the region."""
        return self.address + self.size_bytes


def overlay(data: Sequence[OwnedRange], tags: Sequence[OwnedRange]) -> Iterator[CoreRegion]:
    """Yield the regions in order, neighbours of one kind joined.

    `data`, `tags`: pieces in order, those of one sequence without overlap.
    """
    edges = sorted({edge for piece in (*data, *tags) for edge in (piece.start, piece.stop)})
    in_data, in_tags = _Walk(data), _Walk(tags)
    pending: CoreRegion | None = None
    for start, stop in pairwise(edges):
        found = CoreRegion(start, stop - start, in_data.has(start), in_tags.has(start))
        if pending and _continues(pending, found):
            pending = CoreRegion(
                pending.address, stop - pending.address, found.has_data, found.has_tags
            )
            continue
        if pending:
            yield pending
        pending = found if found.has_data or found.has_tags else None
    if pending:
        yield pending


def _continues(before: CoreRegion, after: CoreRegion) -> bool:
    same = (before.has_data, before.has_tags) == (after.has_data, after.has_tags)
    return same and before.end == after.address


class _Walk:
    """Pieces, asked in ascending order of address."""

    def __init__(self, pieces: Sequence[OwnedRange]) -> None:
        self._pieces = pieces
        self._at = 0

    def has(self, address: int) -> bool:
        while self._at < len(self._pieces) and self._pieces[self._at].stop <= address:
            self._at += 1
        return self._at < len(self._pieces) and self._pieces[self._at].start <= address
