"""How often each tag occurs: per region of a core, and per cell of a range.

A cell is a stretch of memory that is drawn as one character or one square. Tags of holes are
counted without being read, so that a guest of 64 GiB which used 1 GiB costs what 1 GiB costs.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tagalong.core.regions import CoreRegion
from tagalong.core.source import Source
from tagalong.errors import MalformedCoreError, UsageError
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO, TAG_BITS, TAG_MASK

TAG_COUNT: Final = 1 << TAG_BITS

_BYTE_VALUES: Final = 256

# Cells from this size on are counted by bytes of packed tags, smaller ones by granules: a call
# per cell then costs more than the counting.
_LARGE_CELL_BYTES: Final = 1 << 16

# Tags of so much memory are looked at in one go: 512 KiB of packed tags, 8 MiB while counting.
_PIECE_BYTES: Final = 16 << 20

# A cell's counts take 128 bytes, so this bounds what a question can cost.
_MAX_CELLS: Final = 1 << 16

Counts = NDArray[np.int64]
"""Granules by tag, shape (16,)."""

_LOW = np.arange(_BYTE_VALUES) & TAG_MASK
_HIGH = np.arange(_BYTE_VALUES) >> TAG_BITS


class TagMemory(Protocol):
    """Memory with tags that a view can be made of; an open `Core` is one."""

    @property
    def source(self) -> Source:
        """Return the bytes of the file."""
        ...

    @property
    def regions(self) -> tuple[CoreRegion, ...]:
        """Return what there is, in ascending order."""
        ...

    def tags(self, address: int, length: int) -> NDArray[np.uint8]:
        """Return packed tags, as `Core.tags`."""
        ...

    def granule_tags(self, address: int, length: int) -> NDArray[np.uint8]:
        """Return tags one a byte, as `Core.granule_tags`."""
        ...

    def stored_tags(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield where tags are that may differ from zero, as `Core.stored_tags`."""
        ...


@dataclass(frozen=True, eq=False)
class CellRow:
    """Cells of one size, from `start` on. `counts`: shape (cells, 16); the last cell is cut.

    Granules without tags are in no count: `known` of a cell can be less than its granules.
    """

    start: int
    end: int
    cell_bytes: int
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.counts)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the addresses [start, end) of a cell."""
        start = self.start + number * self.cell_bytes
        return start, min(start + self.cell_bytes, self.end)


@dataclass(frozen=True, eq=False)
class RegionSurvey:
    """A region and how often each tag occurs in it; `counts` is None if it has no tags."""

    region: CoreRegion
    counts: Counts | None

    @property
    def tagged_granules(self) -> int:
        """Return how many granules carry a tag other than 0."""
        return 0 if self.counts is None else int(self.counts[1:].sum())


def survey_regions(memory: TagMemory) -> list[RegionSurvey]:
    """Return how often each tag occurs in each region.

    Raises MalformedCoreError if tag segments share bytes of the file, so that they name more of
    it than it has, and what `TagMemory.tags` raises.
    """
    require_disjoint_tags(memory)
    return [
        RegionSurvey(region, _count_region(memory, region) if region.has_tags else None)
        for region in memory.regions
    ]


def _count_region(memory: TagMemory, region: CoreRegion) -> Counts:
    start, end = whole_granules(region.address, region.end)
    if start >= end:
        return np.zeros(TAG_COUNT, np.int64)
    counts: Counts = count_cells(memory, start, end, end - start).counts[0]
    return counts


def whole_granules(start: int, end: int) -> tuple[int, int]:
    """Return the granules that lie in [start, end) as a whole, as addresses."""
    return -(-start // GRANULE_BYTES) * GRANULE_BYTES, end // GRANULE_BYTES * GRANULE_BYTES


def require_disjoint_tags(memory: TagMemory) -> None:
    """Raise MalformedCoreError if tag segments name more bytes than the file has.

    A small file can name the same bytes in a quarter of a million segments: to look at each would
    take days.
    """
    named = sum(each.size_bytes for each in memory.regions if each.has_tags) // PACKED_RATIO
    if named > memory.source.size:
        raise MalformedCoreError(
            f"the tag segments name {named:#x} bytes of tags, but the file has "
            f"{memory.source.size:#x} in all",
            offset=0,
        )


def cell_size(size_bytes: int, most_cells: int) -> int:
    """Return the smallest power of two, a granule at least, that needs `most_cells` or fewer.

    >>> hex(cell_size(4 << 30, 1024)), cell_size(48, 64)
    ('0x400000', 16)
    """
    least = max(-(-size_bytes // most_cells), GRANULE_BYTES)
    return 1 << (least - 1).bit_length()


def count_cells(memory: TagMemory, start: int, end: int, cell_bytes: int) -> CellRow:
    """Count the tags of [start, end) in cells of `cell_bytes`.

    All three are multiples of 16. Raises UsageError if they are not, or for more than 65536
    cells, and what `TagMemory.tags` raises.
    """
    if start % GRANULE_BYTES or end % GRANULE_BYTES or cell_bytes % GRANULE_BYTES or end <= start:
        raise UsageError(f"[{start:#x}, {end:#x}) cannot be cut into cells of {cell_bytes:#x}")
    cells = -(-(end - start) // cell_bytes)
    if cells > _MAX_CELLS:
        raise UsageError(f"{cells} cells are too many to look at: take larger ones")
    row = CellRow(start, end, cell_bytes, np.zeros((cells, TAG_COUNT), np.int64))
    for low, high in tagged_parts(memory, start, end):
        _add_granules(row, low, high, 0)
        for stored_low, stored_high in memory.stored_tags(low, high):
            _add_granules(row, stored_low, stored_high, 0, -1)
            for at in range(stored_low, stored_high, _PIECE_BYTES):
                _add_stored(row, memory, at, min(at + _PIECE_BYTES, stored_high))
    return row


def tagged_parts(memory: TagMemory, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the parts [start, end) of a range that have tags, whole granules of them."""
    regions = memory.regions
    first = max(bisect_right(regions, start, key=_address) - 1, 0)
    for number in range(first, len(regions)):
        region = regions[number]
        if region.address >= end:
            return
        low, high = whole_granules(max(region.address, start), min(region.end, end))
        if region.has_tags and low < high:
            yield low, high


def _address(region: CoreRegion) -> int:
    return region.address


def _add_granules(row: CellRow, low: int, high: int, tag: int, times: int = 1) -> None:
    """Count all granules of [low, high) as `tag`, `times` times."""
    first, last = (low - row.start) // row.cell_bytes, (high - 1 - row.start) // row.cell_bytes
    edges = row.start + np.arange(first, last + 2, dtype=object) * row.cell_bytes
    edges[0], edges[-1] = low, high
    row.counts[first : last + 1, tag] += (np.diff(edges) // GRANULE_BYTES * times).astype(np.int64)


def _add_stored(row: CellRow, memory: TagMemory, low: int, high: int) -> None:
    is_odd = any(edge % PACKED_RATIO for edge in (row.start, low, high))
    if row.cell_bytes < _LARGE_CELL_BYTES or is_odd:
        tags = memory.granule_tags(low, high - low)
        cells = ((low - row.start) // GRANULE_BYTES + np.arange(tags.size)) // (
            row.cell_bytes // GRANULE_BYTES
        )
        first = int(cells[0])
        size = (int(cells[-1]) - first + 1) * TAG_COUNT
        counts = np.bincount((cells - first) * TAG_COUNT + tags, minlength=size)
        row.counts[first : first + size // TAG_COUNT] += counts.reshape(-1, TAG_COUNT)
        return
    packed = memory.tags(low, high - low)
    at = low
    while at < high:
        cell = (at - row.start) // row.cell_bytes
        stop = min(row.start + (cell + 1) * row.cell_bytes, high)
        row.counts[cell] += _count_packed(
            packed[(at - low) // PACKED_RATIO : (stop - low) // PACKED_RATIO]
        )
        at = stop


def _count_packed(packed: NDArray[np.uint8]) -> Counts:
    """Return the granules by tag of a packed plane."""
    bytes_by_value = np.bincount(packed, minlength=_BYTE_VALUES)
    low = np.bincount(_LOW, weights=bytes_by_value, minlength=TAG_COUNT)
    high = np.bincount(_HIGH, weights=bytes_by_value, minlength=TAG_COUNT)
    counts: Counts = (low + high).astype(np.int64)
    return counts


def drawn_regions(surveys: Sequence[RegionSurvey], most: int) -> tuple[list[RegionSurvey], int]:
    """Return the regions worth a drawing, in ascending order, and how many more have tags.

    Those with the most tagged granules, `most` at most.
    """
    tagged = [each for each in surveys if each.counts is not None and each.counts.sum()]
    chosen = sorted(tagged, key=lambda each: -each.tagged_granules)[:most]
    chosen.sort(key=lambda each: each.region.address)
    return chosen, len(tagged) - len(chosen)
