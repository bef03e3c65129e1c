"""Tags of a whole address space in a bounded size, for the map of a page.

A page cannot hold the quarter of a billion tags of a core of 4 GiB. It holds two things:

    units   for every region, runs of equal units. A unit is 4 KiB or, where that would be too
            many runs, a larger power of two. Its class says which tag all of it has, or which is
            the most frequent if there are several
    details the tags of single pages of 4 KiB, as text, a digit (two with 8-bit tags) per granule;
            those around what the page is about first, then those whose unit has several tags,
            until MAX_DETAILS

So the map of a small core goes down to granules everywhere, and that of a large one does where it
matters and says so elsewhere.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tagalong.core.regions import CoreRegion
from tagalong.explain.crash import UNKNOWN_TAG, CrashMemory, TagArray
from tagalong.mte import GRANULE_BYTES
from tagalong.views.survey import TagMemory, tagged_parts, whole_granules

PAGE_BYTES: Final = 4096
MAX_UNITS: Final = 1 << 22
"""Units that are classified before runs of them are joined: a byte or two of memory each."""
MAX_RUNS: Final = 40_000
MAX_DETAILS: Final = 4096
MAX_REGIONS: Final = 2000
MAX_TAGGED_BYTES: Final = 256 << 30
"""A small file can name the same tags for any number of regions: reading them would take days."""

NO_TAGS: Final = -1
MIXED: Final = 256
"""Class of a unit with several tags: this plus the most frequent one that is not 0."""

_PAGE_GRANULES: Final = PAGE_BYTES // GRANULE_BYTES
_PIECE_BYTES: Final = 8 << 20

Classes = NDArray[np.int16]


class TagPlane(Protocol):
    """Where a map's tags come from."""

    @property
    def regions(self) -> Sequence[CoreRegion]:
        """Return what memory there is, in ascending order."""
        ...

    def stored(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a tagged range that must be read; the others are tag 0."""
        ...

    def tags(self, start: int, length: int) -> TagArray:
        """Return the tags of a range, UNKNOWN_TAG where there are none."""
        ...


class CorePlane:
    """The tags of an open core."""

    def __init__(self, core: TagMemory) -> None:
        self._core = core
        self.regions: Sequence[CoreRegion] = core.regions

    def stored(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """As TagPlane: what is no hole of the file."""
        return self._core.stored_tags(start, stop)

    def tags(self, start: int, length: int) -> TagArray:
        """As TagPlane."""
        found = np.full(length // GRANULE_BYTES, UNKNOWN_TAG, np.int16)
        for low, high in tagged_parts(self._core, start, start + length):
            first, stop = (low - start) // GRANULE_BYTES, (high - start) // GRANULE_BYTES
            found[first:stop] = self._core.granule_tags(low, high - low)
        return found


class CrashPlane:
    """The tags of a crash's memory."""

    def __init__(self, memory: CrashMemory) -> None:
        self._memory = memory
        self.regions: Sequence[CoreRegion] = memory.address_space

    def stored(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """As TagPlane: what is no hole of the file."""
        return self._memory.stored_tags(start, stop)

    def tags(self, start: int, length: int) -> TagArray:
        """As TagPlane."""
        return self._memory.tags(start, length)


@dataclass(frozen=True)
class MapMark:
    """A range that the map outlines: a pointer's granule, a block."""

    start: int
    end: int
    text: str
    letter: str = ""


@dataclass
class MapData:
    """What the page's script draws; `to_json` has the form that page.js reads."""

    unit_bytes: int
    tag_bits: int
    regions: list[tuple[CoreRegion, list[int]]] = field(default_factory=list)
    left_out: int = 0
    details: dict[int, str] = field(default_factory=dict)
    marks: tuple[MapMark, ...] = ()

    @property
    def run_count(self) -> int:
        """Return the number of runs of units."""
        return sum(len(runs) for _, runs in self.regions) // 2

    def to_json(self) -> dict[str, object]:
        """Return plain values: addresses are hex strings, runs are [units, class, ...]."""
        return {
            "unit": self.unit_bytes,
            "bits": self.tag_bits,
            "regions": [
                {"start": hex(region.address), "size": region.size_bytes, "runs": runs}
                for region, runs in self.regions
            ],
            "details": {hex(address): text for address, text in self.details.items()},
            "marks": [
                {"start": hex(each.start), "end": hex(each.end), "text": each.text,
                 "letter": each.letter}
                for each in self.marks
            ],
        }  # fmt: skip


def map_data(
    plane: TagPlane, *, tag_bits: int = 4, focus: Iterable[int] = (), marks: Sequence[MapMark] = ()
) -> MapData:
    """Return the tags of all memory in a bounded size.

    `focus`: addresses around which granules are wanted, most wanted first. Raises what reading
    the memory raises.
    """
    shown, left_out = _shown_regions(plane.regions, focus)
    size = sum(each.size_bytes for each in shown if each.has_tags)
    unit = PAGE_BYTES
    while size // unit > MAX_UNITS:
        unit *= 2
    classes = [_classify(plane, each, unit) for each in shown]
    mixed = [*_mixed_pages(shown, classes, unit)]
    while sum(_run_count(each) for each in classes) > MAX_RUNS and max(map(len, classes)) > 1:
        classes, unit = [_coarser(each) for each in classes], 2 * unit
    data = MapData(unit, tag_bits, left_out=left_out, marks=tuple(marks))
    data.regions = [(region, _runs(found)) for region, found in zip(shown, classes, strict=True)]
    _add_details(data, plane, shown, focus, mixed)
    return data


def _shown_regions(
    regions: Sequence[CoreRegion], focus: Iterable[int]
) -> tuple[list[CoreRegion], int]:
    """Return regions within the limits: those with a focus, with tags, large ones; in order.

    Also how many are left out. The first is within the limits whatever its size is.
    """
    wanted = [*focus]
    ranked = sorted(
        regions,
        key=lambda each: (
            not any(each.address <= address < each.end for address in wanted),
            not each.has_tags,
            -each.size_bytes,
        ),
    )
    sizes = np.cumsum([each.size_bytes if each.has_tags else 0 for each in ranked], dtype=object)
    fitting = sum(1 for size in sizes[1:] if size <= MAX_TAGGED_BYTES) + 1
    shown = sorted(ranked[: min(fitting, MAX_REGIONS)], key=lambda each: each.address)
    return shown, len(regions) - len(shown)


def _classify(plane: TagPlane, region: CoreRegion, unit: int) -> Classes:
    """Return the class of each unit of a region."""
    start, end = whole_granules(region.address, region.end)
    if not region.has_tags or start >= end:
        return np.full(1, NO_TAGS, np.int16)
    classes = np.zeros(-(-(end - start) // unit), np.int16)
    piece = max(_PIECE_BYTES, unit)
    for low, high in plane.stored(start, end):
        first, stop = (low - start) // unit, -(-(high - start) // unit)
        for number in range(first, stop, piece // unit):
            last = min(number + piece // unit, stop)
            at, stop_at = start + number * unit, min(start + last * unit, end)
            classes[number:last] = _classes_of(plane.tags(at, stop_at - at), unit)
    return classes


def _classes_of(tags: TagArray, unit: int) -> Classes:
    """Return the class of each unit of `tags`; the last unit may be cut."""
    granules = unit // GRANULE_BYTES
    missing = -tags.size % granules
    if missing:
        tags = np.append(tags, np.full(missing, tags[-1]))
    rows = tags.reshape(-1, granules)
    low, high = rows.min(axis=1), rows.max(axis=1)
    classes: Classes = low.astype(np.int16)
    mixed = np.flatnonzero(low != high)
    if mixed.size:
        values = np.maximum(rows[mixed], 0)
        tags_used = int(values.max()) + 1
        places = values + np.arange(mixed.size)[:, np.newaxis] * tags_used
        counts = np.bincount(places.reshape(-1), minlength=mixed.size * tags_used)
        counts = counts.reshape(-1, tags_used)
        counts[:, 0] = 0
        classes[mixed] = MIXED + counts.argmax(axis=1)
    return classes


def _coarser(classes: Classes) -> Classes:
    """Return the classes of units twice as large."""
    if classes.size % 2:
        classes = np.append(classes, classes[-1:])
    left, right = classes[0::2], classes[1::2]
    main = np.where(left % MIXED > 0, left % MIXED, np.maximum(right, 0) % MIXED)
    main = np.where(left == NO_TAGS, np.maximum(right, 0) % MIXED, main)
    joined: Classes = np.where(left == right, left, MIXED + main).astype(np.int16)
    return joined


def _run_count(classes: Classes) -> int:
    return int(np.count_nonzero(classes[1:] != classes[:-1])) + 1


def _runs(classes: Classes) -> list[int]:
    """Return [number of units, class, ...]."""
    edges = np.flatnonzero(classes[1:] != classes[:-1]) + 1
    starts = np.append(0, edges)
    lengths = np.diff(np.append(starts, classes.size))
    runs: list[int] = np.stack((lengths, classes[starts]), axis=1).reshape(-1).tolist()
    return runs


def _mixed_pages(
    regions: Sequence[CoreRegion], classes: Sequence[Classes], unit: int
) -> Iterator[int]:
    """Yield the addresses of pages with several tags, counted from their region's start."""
    left = MAX_DETAILS
    for region, found in zip(regions, classes, strict=True):
        start, end = whole_granules(region.address, region.end)
        for number in np.flatnonzero(found >= MIXED)[:left].tolist():
            for at in range(start + number * unit, start + (number + 1) * unit, PAGE_BYTES):
                if at < end and left:
                    left -= 1
                    yield at


def _add_details(
    data: MapData,
    plane: TagPlane,
    regions: Sequence[CoreRegion],
    focus: Iterable[int],
    mixed: Sequence[int],
) -> None:
    starts = [each.address for each in regions]
    for address in (*_around(focus), *mixed):
        number = bisect_right(starts, address) - 1
        if number < 0 or not regions[number].has_tags:
            continue
        start, end = whole_granules(regions[number].address, regions[number].end)
        if not start <= address < end:
            continue
        page = start + (address - start) // PAGE_BYTES * PAGE_BYTES
        if page in data.details or len(data.details) >= MAX_DETAILS:
            continue
        tags = plane.tags(page, min(PAGE_BYTES, end - page))
        data.details[page] = _digits(tags, data.tag_bits // 4)


def _around(focus: Iterable[int]) -> Iterator[int]:
    """Yield an address of each page that is wanted, the nearest first."""
    wanted = [*focus]
    for distance in range(8):
        for address in wanted:
            yield from {address - distance * PAGE_BYTES, address + distance * PAGE_BYTES}


def _digits(tags: TagArray, digits: int) -> str:
    return "".join(
        "-" * digits if tag == UNKNOWN_TAG else f"{tag:0{digits}x}" for tag in tags.tolist()
    )
