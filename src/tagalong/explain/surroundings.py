"""What lies around a fault: tags, and the blocks that headers, reports or runs of tags tell of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import Final

import numpy as np

from tagalong.core.tag_runs import TagRun
from tagalong.explain import glibc, scudo
from tagalong.explain.crash import (
    UNKNOWN_TAG,
    Allocator,
    Block,
    BlockState,
    Crash,
    CrashMemory,
    TagArray,
)
from tagalong.explain.explanation import NearestRun, Neighbourhood
from tagalong.explain.stack import is_stack
from tagalong.mte import GRANULE_BYTES

SEARCHED_BYTES: Final = 64 << 10
"""How far from the fault blocks are looked for, to each side."""

SHOWN_BYTES: Final = 4 << 10
"""How far the neighbourhood in an explanation goes, to each side."""

FREE_RUN: Final = "a run of the tag of free memory"

_LEAST_FREE_BYTES: Final = {0: GRANULE_BYTES, 0xFE: 3 * GRANULE_BYTES}
"""By the tag of free memory: in a kernel a shorter run can be a redzone."""

_LEAST_OF_PARITY: Final = 6


@dataclass(frozen=True)
class Surroundings:
    """Memory [start, end) around a fault. `tags`: one per granule; `blocks` in ascending order.

    `kind`: whose blocks these are; UNKNOWN if runs of tags stand for them. `has_parity`: the
    tags of neighbours differ in their lowest bit, as scudo's do on request.
    """

    start: int
    tags: TagArray
    blocks: tuple[Block, ...]
    kind: Allocator
    known_by: str | None
    has_parity: bool = False

    @property
    def end(self) -> int:
        """Return the first address behind it."""
        return self.start + self.tags.size * GRANULE_BYTES

    def tag_at(self, address: int) -> int | None:
        """Return the tag of an address's granule, None if it is not known."""
        if not self.start <= address < self.end:
            return None
        tag = int(self.tags[(address - self.start) // GRANULE_BYTES])
        return None if tag == UNKNOWN_TAG else tag

    def block_at(self, address: int) -> Block | None:
        """Return the block that holds an address, its last granule included."""
        for block in self.blocks:
            if block.start <= address < _up(block.end):
                return block
        return None

    def count(self, state: BlockState) -> int:
        """Return how many blocks have this state."""
        return sum(block.state is state for block in self.blocks)

    def all_between(self, start: int, stop: int, tag: int) -> bool:
        """Return whether all granules of [start, stop) have `tag`; true if there are none."""
        first, last = ((at - self.start) // GRANULE_BYTES for at in (start, stop))
        return bool((self.tags[max(0, first) : max(0, last)] == tag).all())


def look_around(crash: Crash) -> Surroundings | None:
    """Return what is around the fault, None if its place or the tags there are not known."""
    granule = crash.fault.granule
    if granule is None:
        return None
    start = max(0, granule - SEARCHED_BYTES)
    tags = crash.memory.tags(start, granule + SEARCHED_BYTES - start)
    at = (granule - start) // GRANULE_BYTES
    if (tags == UNKNOWN_TAG).all() and not crash.allocator.blocks:
        return None
    low, high = _known_around(tags, at)
    tags, start = tags[low:high], start + low * GRANULE_BYTES
    kind, known_by, blocks = _blocks(crash, start, tags)
    blocks = _with_reported(blocks, crash.allocator.blocks)
    return Surroundings(start, tags, tuple(blocks), kind, known_by,
                        kind is Allocator.SCUDO and _has_parity(blocks))  # fmt: skip


def _known_around(tags: TagArray, at: int) -> tuple[int, int]:
    """Return which granules to keep: without the unknown ones at both ends."""
    known = np.flatnonzero(tags != UNKNOWN_TAG)
    if not known.size:
        return at, at + 1
    return min(int(known[0]), at), max(int(known[-1]), at) + 1


def _blocks(crash: Crash, start: int, tags: TagArray) -> tuple[Allocator, str | None, list[Block]]:
    facts, memory = crash.allocator, crash.memory
    if is_stack(crash, crash.fault.address or 0):
        return facts.kind, facts.known_by, list(runs_as_blocks(start, tags, None))
    if facts.kind in _ODD_WORLDS:
        return (
            facts.kind,
            facts.known_by,
            list(runs_as_blocks(start, tags, _FREED_TAGS[facts.kind])),
        )
    data = memory.data(start, tags.size * GRANULE_BYTES)
    if facts.kind is not Allocator.SCUDO:
        granule = crash.fault.granule or 0
        chunks = glibc.chunks(start, tags, data, granule) if data is not None else []
        if chunks:
            return Allocator.GLIBC, "a chain of chunk headers", chunks
    found = scudo.blocks(start, tags, data or b"", pieces=_pieces(memory, start, tags, data))
    if found and (facts.kind is Allocator.SCUDO or scudo.explains(found, tags)):
        if facts.records is not None:
            found = [facts.records.with_allocation(block) for block in found]
        return Allocator.SCUDO, facts.known_by or "block headers", found
    freed = _FREED_TAGS.get(facts.kind)
    return facts.kind, facts.known_by, list(runs_as_blocks(start, tags, freed))


def _pieces(
    memory: CrashMemory, start: int, tags: TagArray, data: bytes | None
) -> dict[int, bytes]:
    """Return the granules whose data are known one by one, where not all of them are."""
    if data is not None:
        return {}
    found = {}
    for number in range(tags.size):
        piece = memory.data(start + number * GRANULE_BYTES, GRANULE_BYTES)
        if piece is not None:
            found[number] = piece
    return found


# Allocators without headers in memory.
_ODD_WORLDS: Final = frozenset((Allocator.KASAN_HW, Allocator.KASAN_SW, Allocator.HARDENED_MALLOC))
_FREED_TAGS: Final = {
    Allocator.KASAN_HW: 0xFE, Allocator.KASAN_SW: 0xFE, Allocator.HARDENED_MALLOC: 0,
}  # fmt: skip


def runs_of(start: int, tags: TagArray) -> Iterator[TagRun]:
    """Yield the runs of known tags in order."""
    edges = [0, *(np.flatnonzero(tags[1:] != tags[:-1]) + 1).tolist(), tags.size]
    for first, stop in pairwise(edges):
        tag = int(tags[first])
        if tag != UNKNOWN_TAG:
            yield TagRun(start + first * GRANULE_BYTES, start + stop * GRANULE_BYTES, tag)


def runs_as_blocks(start: int, tags: TagArray, freed_tag: int | None) -> Iterator[Block]:
    """Yield a block for each run of a tag that blocks in use have.

    `freed_tag`: what memory has that is not in use; None if free blocks have tags like others.
    """
    state = BlockState.UNKNOWN if freed_tag is None else BlockState.ALLOCATED
    for run in runs_of(start, tags):
        if run.tag != (0 if freed_tag is None else freed_tag):
            yield Block(run.start, run.end, run.tag, state, "a run of one tag")
        elif freed_tag is not None and run.end - run.start >= _LEAST_FREE_BYTES[freed_tag]:
            yield Block(run.start, run.end, None, BlockState.FREED, FREE_RUN)


def _with_reported(blocks: Sequence[Block], reported: Sequence[Block]) -> list[Block]:
    """Return all blocks in order; a reported one replaces what overlaps it."""
    kept = [
        block
        for block in blocks
        if not any(block.start < each.end and each.start < block.end for each in reported)
    ]
    return sorted([*kept, *reported], key=lambda block: block.start)


def _has_parity(blocks: Sequence[Block]) -> bool:
    """Return whether the tags of scudo's blocks alternate in parity, too often to be chance.

    Blocks of one class lie a multiple of its size apart.
    """
    tagged = [(block.start, block.tag) for block in blocks if block.tag]
    if len(tagged) < _LEAST_OF_PARITY:
        return False
    stride = gcd(*(after[0] - before[0] for before, after in pairwise(tagged)))
    parities = {((start - tagged[0][0]) // stride ^ tag) & 1 for start, tag in tagged}
    return len(parities) == 1


def neighbourhood_of(crash: Crash, found: Surroundings) -> Neighbourhood:
    """Return the part of the surroundings that an explanation shows."""
    granule = crash.fault.granule or 0
    start = max(found.start, granule - SHOWN_BYTES)
    end = min(found.end, granule + SHOWN_BYTES + GRANULE_BYTES)
    low, high = ((at - found.start) // GRANULE_BYTES for at in (start, end))
    runs = tuple(runs_of(start, found.tags[low:high]))
    return Neighbourhood(
        start,
        end,
        runs,
        next((n for n, run in enumerate(runs) if run.start <= granule < run.end), None),
        found.tag_at(granule),
        tuple(block for block in found.blocks if block.start < end and start < block.end),
        _nearest(crash, found),
    )


def _nearest(crash: Crash, found: Surroundings) -> NearestRun | None:
    granule, tag = crash.fault.granule or 0, crash.fault.pointer_tag
    best: NearestRun | None = None
    for run in runs_of(found.start, found.tags):
        if run.tag != tag:
            continue
        distance = granule - run.end if run.end <= granule else granule - run.start
        if best is None or abs(distance) < abs(best.distance_bytes):
            best = NearestRun(run, distance)
    return best


def _up(address: int) -> int:
    return -(-address // GRANULE_BYTES) * GRANULE_BYTES
