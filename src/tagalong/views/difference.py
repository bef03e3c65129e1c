"""Where data and tags of two cores of one guest differ, granule by granule.

Data that are a hole in both files are not read: two cores of a guest of 64 GiB that used 1 GiB
compare at the speed of memory over 1 GiB. What only one of the cores has is said by name and is
no difference of content.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from heapq import merge
from itertools import groupby
from operator import attrgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.core import Core, CoreVcpu
from tagalong.errors import MalformedCoreError, NoTagsError, NotInCoreError, UsageError
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO
from tagalong.mte.tags import unpack
from tagalong.views.survey import whole_granules

# Parts of this size are compared as a whole first. Both of them and the result stay in a CPU's
# cache; most are equal.
_PIECE_BYTES: Final = 256 << 10

_SHORT_GAP_BYTES: Final = 64 << 10
_WORD_BYTES: Final = 8
_END: Final = 1 << 64

Interval = tuple[int, int]
"""Addresses [start, stop)."""


class Differs(Enum):
    """What of a granule differs; the values are the words shown to people."""

    DATA = "data"
    TAG = "tag"
    BOTH = "data and tag"


@dataclass(frozen=True)
class DifferingRun:
    """Granules [start, end) that differ in the same way. `tags`: of the first one, in A and B.

    `tags` is None if either core has none for it.
    """

    start: int
    end: int
    differs: Differs
    tags: tuple[int, int] | None

    @property
    def granules(self) -> int:
        """Return how many granules the run has."""
        return (self.end - self.start) // GRANULE_BYTES


@dataclass(frozen=True)
class OnlyIn:
    """Memory [start, end) of which only one of the cores, "A" or "B", has data or tags."""

    start: int
    end: int
    core: str
    plane: str


@dataclass
class Difference:
    """The result. Counts are exact; `runs` and `only_in` hold the first ones that were asked for.

    `compared_data_bytes`, `compared_tag_bytes`: memory of which both cores have data, or tags.
    `registers`: vCPUs or threads, in the cores' order, with the names of registers that differ.
    """

    compared_data_bytes: int = 0
    compared_tag_bytes: int = 0
    data_granules: int = 0
    tag_granules: int = 0
    differing_granules: int = 0
    run_count: int = 0
    runs: list[DifferingRun] = field(default_factory=list)
    only_in_count: int = 0
    only_in_bytes: int = 0
    only_in: list[OnlyIn] = field(default_factory=list)
    registers: dict[int, tuple[str, ...]] = field(default_factory=dict)
    thread_counts: tuple[int, int] | None = None

    @property
    def is_same(self) -> bool:
        """Return whether both cores hold the same memory, tags and registers."""
        return not (
            self.differing_granules or self.only_in_count or self.registers or self.thread_counts
        )


def compare_cores(left: Core, right: Core, *, most_runs: int) -> Difference:
    """Compare two cores; `most_runs` is how many runs and ranges to keep of each kind.

    Raises UsageError if their addresses mean different things, MalformedCoreError for one whose
    segments name more bytes than its file has, and what reading a core raises.
    """
    _require_one_space(left, right)
    found = Difference()
    planes = _Planes(left, right)
    planes.add_sides(found, most_runs)
    runs = _Runs(found, most_runs, planes.tags_of)
    for piece, parts in groupby(planes.parts(), key=lambda part: part[0] // _PIECE_BYTES):
        runs.add(piece * _PIECE_BYTES, *planes.compare(piece * _PIECE_BYTES, parts))
    runs.finish()
    _compare_registers(left, right, found)
    return found


def _require_one_space(left: Core, right: Core) -> None:
    machines = left.machine, right.machine
    if None in machines:  # of another writer: only its user knows
        return
    spaces = [machine.space for machine in machines if machine]
    if spaces[0] is not spaces[1]:
        names = " and ".join(space.name.lower() for space in spaces)
        raise UsageError(
            f"addresses of the two cores mean different things ({names}): dump both in one space "
            "(tagalong dump --space)"
        )


class _Planes:
    """Where data and tags of two cores are, and how they compare."""

    def __init__(self, left: Core, right: Core) -> None:
        self._cores = (left, right)
        self._data = [_covered(core, "data") for core in self._cores]
        self._tags = [_covered(core, "tags") for core in self._cores]
        for core, data, tags in zip(self._cores, self._data, self._tags, strict=True):
            _require_disjoint(core, data, tags)
        self._both_data = [*intersect(*self._data)]
        self._both_tags = [*intersect(*self._tags)]

    def add_sides(self, found: Difference, most: int) -> None:
        """Note what only one core has, and how much is compared."""
        found.compared_data_bytes = _size(self._both_data)
        found.compared_tag_bytes = _size(self._both_tags)
        for plane, (left, right) in (("data", self._data), ("tags", self._tags)):
            for core, mine, other in (("A", left, right), ("B", right, left)):
                ranges = [OnlyIn(*each, core, plane) for each in subtract(mine, other)]
                found.only_in_count += len(ranges)
                found.only_in_bytes += sum(each.end - each.start for each in ranges)
                found.only_in += ranges[:most]
        found.only_in.sort(key=lambda each: (each.start, each.core))
        del found.only_in[most:]

    def parts(self) -> Iterator[tuple[int, int, str]]:
        """Yield what must be read: [start, stop) of a plane, none across a piece's border."""
        left, right = self._cores
        data = _close(left.stored_data(0, _END), right.stored_data(0, _END))
        tags = _close(left.stored_tags(0, _END), right.stored_tags(0, _END))
        return merge(
            _cut(intersect(data, self._both_data), "data"),
            _cut(intersect(tags, self._both_tags), "tags"),
        )

    def compare(
        self, at: int, parts: Iterator[tuple[int, int, str]]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | tuple[None, None]:
        """Return for each granule of the piece at `at` whether its data and its tag differ.

        None if nothing differs.
        """
        differs = {
            plane: np.zeros(_PIECE_BYTES // GRANULE_BYTES, np.bool_) for plane in ("data", "tags")
        }
        is_same = True
        for start, stop, plane in parts:
            compare = self._differing_data if plane == "data" else self._differing_tags
            flags = compare(start, stop)
            if flags is not None:
                first = (start - at) // GRANULE_BYTES
                differs[plane][first : first + flags.size] |= flags
                is_same = False
        return (None, None) if is_same else (differs["data"], differs["tags"])

    def _differing_data(self, start: int, stop: int) -> NDArray[np.bool_] | None:
        left, right = (core.data(start, stop - start) for core in self._cores)
        before, behind = start % GRANULE_BYTES, -stop % GRANULE_BYTES
        if before or behind:
            left, right = (np.pad(each, (before, behind)) for each in (left, right))
        words = left.view(np.uint64) != right.view(np.uint64)
        if not words.any():
            return None
        flags: NDArray[np.bool_] = words.reshape(-1, GRANULE_BYTES // _WORD_BYTES).any(axis=1)
        return flags

    def _differing_tags(self, start: int, stop: int) -> NDArray[np.bool_] | None:
        if start % PACKED_RATIO or stop % PACKED_RATIO:
            left, right = (core.granule_tags(start, stop - start) for core in self._cores)
            flags: NDArray[np.bool_] = left != right
            return flags
        left, right = (core.tags(start, stop - start) for core in self._cores)
        if np.array_equal(left, right):
            return None
        differs: NDArray[np.bool_] = unpack(left ^ right).astype(np.bool_)
        return differs

    def tags_of(self, address: int) -> tuple[int, int] | None:
        """Return a granule's tags in both cores, None if either has none."""
        try:
            left, right = (
                int(core.granule_tags(address, GRANULE_BYTES)[0]) for core in self._cores
            )
        except (NoTagsError, NotInCoreError):
            return None
        return left, right


def _covered(core: Core, plane: str) -> list[Interval]:
    """Return the ranges of which a core has data, or tags: whole granules of these."""
    has = attrgetter(f"has_{plane}")
    ranges = joined((each.address, each.end) for each in core.regions if has(each))
    if plane == "data":
        return [*ranges]
    whole = (whole_granules(*each) for each in ranges)
    return [(start, stop) for start, stop in whole if start < stop]


def _require_disjoint(core: Core, data: Sequence[Interval], tags: Sequence[Interval]) -> None:
    """As `survey.require_disjoint_tags`, for both planes."""
    named = _size(data) + _size(tags) // PACKED_RATIO
    if named > core.source.size:
        raise MalformedCoreError(
            f"the segments name {named:#x} bytes of data and tags, but the file has "
            f"{core.source.size:#x} in all",
            offset=0,
        )


class _Runs:
    """Granules that differ, piece by piece, joined to runs across their borders."""

    def __init__(
        self, found: Difference, most: int, tags_of: Callable[[int], tuple[int, int] | None]
    ) -> None:
        self._found = found
        self._most = most
        self._tags_of = tags_of
        self._pending: tuple[int, int, int] | None = None  # start, end, kind

    def add(self, at: int, data: NDArray[np.bool_] | None, tags: NDArray[np.bool_] | None) -> None:
        """Add the piece from address `at` on."""
        if data is None or tags is None:
            return
        kinds = data + 2 * tags.astype(np.uint8)
        self._found.data_granules += int(np.count_nonzero(data))
        self._found.tag_granules += int(np.count_nonzero(tags))
        self._found.differing_granules += int(np.count_nonzero(kinds))
        edges = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
        starts = np.append(0, edges)
        stops = np.append(edges, kinds.size)
        used = kinds[starts] != 0
        starts, stops = starts[used], stops[used]
        for place, (first, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            self._add_run(at + first * GRANULE_BYTES, at + stop * GRANULE_BYTES, int(kinds[first]))
            if len(self._found.runs) == self._most and place + 2 < len(starts):
                # The rest is counted; only the last can go on in the next piece.
                self._found.run_count += len(starts) - place - 2
                self._add_run(
                    at + int(starts[-1]) * GRANULE_BYTES,
                    at + int(stops[-1]) * GRANULE_BYTES,
                    int(kinds[starts[-1]]),
                )
                return

    def _add_run(self, start: int, end: int, kind: int) -> None:
        if self._pending and self._pending[1:] == (start, kind):
            self._pending = (self._pending[0], end, kind)
            return
        self.finish()
        self._pending = (start, end, kind)

    def finish(self) -> None:
        """Count the last run."""
        if self._pending is None:
            return
        start, end, kind = self._pending
        self._pending = None
        self._found.run_count += 1
        if len(self._found.runs) < self._most:
            differs = (Differs.DATA, Differs.TAG, Differs.BOTH)[kind - 1]
            self._found.runs.append(DifferingRun(start, end, differs, self._tags_of(start)))


def _compare_registers(left: Core, right: Core, found: Difference) -> None:
    """Note which registers differ, thread by thread in the order of the cores."""
    counts = len(left.vcpus), len(right.vcpus)
    if counts[0] != counts[1]:
        found.thread_counts = counts
    for number, (mine, other) in enumerate(zip(left.vcpus, right.vcpus, strict=False)):
        names = tuple(_differing_registers(mine, other))
        if names:
            found.registers[number] = names


def _differing_registers(left: CoreVcpu, right: CoreVcpu) -> Iterator[str]:
    for prefix, mine, other in (("x", left.x, right.x), ("v", left.v, right.v)):
        for number, (one, two) in enumerate(zip(mine or (), other or (), strict=False)):
            if one != two:
                yield f"{prefix}{number}"
    for name in ("sp", "pc", "pstate", "fpsr", "fpcr", "tagged_address_control"):
        if getattr(left, name) != getattr(right, name):
            yield name


def joined(intervals: Iterable[Interval], gap: int = 0) -> Iterator[Interval]:
    """Yield intervals in order, joined if they overlap or are at most `gap` apart.

    >>> [*joined([(0, 2), (2, 3), (5, 6)])]
    [(0, 3), (5, 6)]
    """
    pending: Interval | None = None
    for start, stop in intervals:
        if pending and start <= pending[1] + gap:
            pending = (pending[0], max(pending[1], stop))
            continue
        if pending:
            yield pending
        pending = (start, stop)
    if pending:
        yield pending


def intersect(left: Iterable[Interval], right: Iterable[Interval]) -> Iterator[Interval]:
    """Yield what is in both; each in order and without overlap.

    >>> [*intersect([(0, 4), (6, 9)], [(2, 7)])]
    [(2, 4), (6, 7)]
    """
    ones, others = iter(left), iter(right)
    one, other = next(ones, None), next(others, None)
    while one and other:
        start, stop = max(one[0], other[0]), min(one[1], other[1])
        if start < stop:
            yield start, stop
        if one[1] <= other[1]:
            one = next(ones, None)
        else:
            other = next(others, None)


def subtract(whole: Iterable[Interval], part: Iterable[Interval]) -> Iterator[Interval]:
    """Yield what of `whole` is not in `part`; each in order and without overlap.

    >>> [*subtract([(0, 10)], [(2, 3), (8, 12)])]
    [(0, 2), (3, 8)]
    """
    parts = iter(part)
    current = next(parts, None)
    for start, stop in whole:
        at = start
        while current and current[0] < stop:
            if current[0] > at:
                yield at, current[0]
            at = max(at, current[1])
            if current[1] > stop:
                break
            current = next(parts, None)
        if at < stop:
            yield at, stop


def _size(intervals: Iterable[Interval]) -> int:
    return sum(stop - start for start, stop in intervals)


def _close(left: Iterator[Interval], right: Iterator[Interval]) -> Iterator[Interval]:
    """Yield what either has; short gaps are cheaper to read than to leave out."""
    rounded = (
        (start // PACKED_RATIO * PACKED_RATIO, -(-stop // PACKED_RATIO) * PACKED_RATIO)
        for start, stop in merge(left, right)
    )
    return joined(rounded, _SHORT_GAP_BYTES)


def _cut(intervals: Iterable[Interval], plane: str) -> Iterator[tuple[int, int, str]]:
    for start, stop in intervals:
        at = start
        while at < stop:
            end = min((at // _PIECE_BYTES + 1) * _PIECE_BYTES, stop)
            yield at, end, plane
            at = end
