"""Simulated crashes of known cause: heaps by the rules of several allocators, misused at random.

    python -m tests.support.crash_model --count 3000 [--equal]

prints how often explanations of them are right. `--equal` makes all causes equally frequent, to
see what the priors are worth.
"""

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagalong.core import CoreRegion
from tagalong.explain.analysis import explain
from tagalong.explain.crash import (
    Allocator,
    AllocatorFacts,
    CheckMode,
    Crash,
    CrashWorld,
    DataDirection,
    FaultingAccess,
    SourceKind,
    TagArray,
    TagFault,
)
from tagalong.explain.explanation import Cause
from tests.support.measure import Answer, judge, report
from tests.support.mishaps import Mishap

BASE = 0xFFFF_8000_0000
GRANULES = 4096
GRANULE = 16
SIZES = (16, 32, 48, 64, 96, 128, 256, 512)
FREED_IN_KERNEL = 0xFE

# As often as tests/programs/mishap has them.
SHARES = {
    Cause.OVERFLOW: 30, Cause.UNDERFLOW: 7, Cause.USE_AFTER_FREE: 20, Cause.USE_AFTER_REUSE: 14,
    Cause.LOST_POINTER_TAG: 6, Cause.WILD_POINTER: 6, Cause.LOST_MEMORY_TAGS: 4,
}  # fmt: skip


@dataclass
class Cell:
    """One block's place: granules [first, first + count) of user memory, after its header."""

    first: int
    count: int
    size: int
    tag: int
    is_live: bool

    @property
    def start(self) -> int:
        return BASE + self.first * GRANULE


@dataclass(frozen=True)
class Rules:
    """How an allocator tags. `freed`: the tag of free memory, None for a new one drawn."""

    name: str
    kind: Allocator
    has_header: bool
    freed: int | None
    keeps_tag_of_free: bool
    lowest: int = 1
    highest: int = 15
    steps: bool = False
    known: bool = False


RULES = (
    Rules("glibc", Allocator.GLIBC, True, 0, False),
    Rules("scudo", Allocator.SCUDO, True, None, True),
    Rules("simple", Allocator.UNKNOWN, False, None, False),
    Rules("PartitionAlloc", Allocator.UNKNOWN, False, None, True, steps=True),
    Rules("hardened_malloc", Allocator.HARDENED_MALLOC, False, 0, False, known=True),
    Rules(
        "KASAN_HW_TAGS", Allocator.KASAN_HW, False, FREED_IN_KERNEL, False, 0xF0, 0xFD, known=True
    ),
)


class ModelMemory:
    """Memory of the heap alone."""

    def __init__(self, tags: TagArray, data: bytes) -> None:
        self._tags = tags
        self._data = data
        self.extents: Sequence[CoreRegion] = (CoreRegion(BASE, len(data), True, True),)
        self.address_space = self.extents

    def stored_tags(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        yield start, stop

    def data(self, address: int, length: int) -> bytes | None:
        start = address - BASE
        if start < 0 or start + length > len(self._data):
            return None
        return self._data[start : start + length]

    def tags(self, address: int, length: int) -> TagArray:
        found = np.full(length // GRANULE, -1, np.int16)
        for number in range(found.size):
            at = (address - BASE) // GRANULE + number
            if 0 <= at < self._tags.size:
                found[number] = self._tags[at]
        return found


class Heap:
    """A heap by some rules, after a random number of allocations and frees."""

    def __init__(self, rules: Rules, draw: random.Random) -> None:
        self.rules = rules
        self.draw = draw
        self.tags = np.zeros(GRANULES, np.int16)
        self.data = bytearray(GRANULES * GRANULE)
        self.cells: list[Cell] = []
        self._lay_out()
        for _ in range(draw.randrange(300)):
            cell = draw.choice(self.cells)
            if cell.is_live and draw.random() < 0.5:
                self.free(cell)
            elif not cell.is_live:
                self.allocate(cell)

    def _lay_out(self) -> None:
        """Place blocks side by side; slots of one size but for glibc and the simple allocator."""
        at, slot = 0, self.draw.choice(SIZES)
        header = int(self.rules.has_header)
        while True:
            if self.rules.name in ("glibc", "simple"):
                slot = self.draw.choice(SIZES)
            count = slot // GRANULE
            if at + header + count > GRANULES - 2:
                break
            cell = Cell(at + header, count, self._size(slot), 0, False)
            self.cells.append(cell)
            self.allocate(cell)
            at += header + count
        self._end = at

    def _size(self, slot: int) -> int:
        if self.rules.name == "glibc":
            return slot
        return self.draw.randint(max(1, slot - GRANULE + 1), slot)

    def allocate(self, cell: Cell) -> None:
        if not (cell.tag and self.rules.keeps_tag_of_free):
            cell.tag = self._draw_tag(cell.tag)
        cell.is_live = True
        self._paint(cell, cell.tag)

    def free(self, cell: Cell) -> None:
        """Free a block; `cell.tag` is the tag that it would have next, where the rules keep it."""
        cell.is_live = False
        if self.rules.freed is not None:
            self._paint(cell, self.rules.freed)
            return
        cell.tag = cell.tag % 15 + 1 if self.rules.steps else self._draw_tag(cell.tag)
        self._paint(cell, cell.tag)

    def _draw_tag(self, other: int) -> int:
        while True:
            tag = self.draw.randint(self.rules.lowest, self.rules.highest)
            if tag != other:
                return tag

    def _paint(self, cell: Cell, tag: int) -> None:
        self.tags[cell.first : cell.first + cell.count] = tag
        for at in range(cell.first, cell.first + cell.count):
            self.data[at * GRANULE : (at + 1) * GRANULE] = b"0123456789abcdef"

    def seal(self) -> bytes:
        """Write the headers, and return the data."""
        if self.rules.kind is Allocator.GLIBC:
            self._write_glibc()
        elif self.rules.kind is Allocator.SCUDO:
            for cell in self.cells:
                word = 5 | int(cell.is_live) << 8 | cell.size << 12 | 0xABCD << 48
                self._write(cell.first - 1, word, 0)
        return bytes(self.data)

    def _write_glibc(self) -> None:
        for cell in self.cells:
            self._write(cell.first - 1, 0, (cell.count + 1) * GRANULE | 1)
        self._write(self._end, 0, (GRANULES - self._end) * GRANULE | 1)  # the top chunk

    def _write(self, granule: int, low: int, high: int) -> None:
        at = granule * GRANULE
        self.data[at : at + GRANULE] = low.to_bytes(8, "little") + high.to_bytes(8, "little")

    def live(self) -> Cell:
        return self.draw.choice([cell for cell in self.cells if cell.is_live])


@dataclass(frozen=True)
class Pointer:
    """What is used: an address and a tag; `cell` is whose pointer it is."""

    address: int
    tag: int
    cell: Cell


def inside(heap: Heap, cell: Cell) -> int:
    if heap.draw.random() < 0.5:
        return heap.draw.randrange(min(cell.size, GRANULE))
    return heap.draw.randrange(cell.size)


def overflow(heap: Heap) -> Pointer:
    cell = heap.live()
    address = cell.start + cell.size
    if heap.draw.random() < 0.6:  # byte by byte, up to the first granule with another tag
        while 0 <= (at := (address - BASE) // GRANULE) < GRANULES and heap.tags[at] == cell.tag:
            address += 1
    else:
        address += heap.draw.randrange(1 << heap.draw.randrange(13)) & ~7
    return Pointer(address, cell.tag, cell)


def underflow(heap: Heap) -> Pointer:
    cell = heap.live()
    return Pointer(
        cell.start - 1 - heap.draw.randrange(1 << heap.draw.randrange(1, 11)), cell.tag, cell
    )


def use_after_free(heap: Heap) -> Pointer:
    cell = heap.live()
    pointer = Pointer(cell.start + inside(heap, cell), cell.tag, cell)
    heap.free(cell)
    return pointer


def use_after_reuse(heap: Heap) -> Pointer:
    pointer = use_after_free(heap)
    heap.allocate(pointer.cell)
    return pointer


def lost_pointer_tag(heap: Heap) -> Pointer:
    cell = heap.live()
    return Pointer(cell.start + inside(heap, cell), 0, cell)


def wild_pointer(heap: Heap) -> Pointer:
    cell = heap.live()
    if heap.draw.random() < 0.5:
        return Pointer(
            cell.start + inside(heap, cell), cell.tag ^ 1 << heap.draw.randrange(4), cell
        )
    anywhere = BASE + heap.draw.randrange(GRANULES * GRANULE)
    return Pointer(anywhere, heap.draw.randint(heap.rules.lowest, heap.rules.highest), cell)


def lost_memory_tags(heap: Heap) -> Pointer:
    cell = heap.live()
    address = cell.start + inside(heap, cell)
    page = (address - BASE) // 4096 * 256
    heap.tags[page : page + 256] = 0
    return Pointer(address, cell.tag, cell)


DEEDS: dict[Cause, Callable[[Heap], Pointer]] = {
    Cause.OVERFLOW: overflow,
    Cause.UNDERFLOW: underflow,
    Cause.USE_AFTER_FREE: use_after_free,
    Cause.USE_AFTER_REUSE: use_after_reuse,
    Cause.LOST_POINTER_TAG: lost_pointer_tag,
    Cause.WILD_POINTER: wild_pointer,
    Cause.LOST_MEMORY_TAGS: lost_memory_tags,
}


def is_possible(rules: Rules, cause: Cause) -> bool:
    """Return whether a cause exists there: a kernel's free memory has no tag 0."""
    return rules.kind is not Allocator.KASAN_HW or cause not in (
        Cause.LOST_POINTER_TAG, Cause.LOST_MEMORY_TAGS,
    )  # fmt: skip


def simulate(seed: int, *, is_equal: bool = False) -> tuple[Mishap, Crash]:
    """Return a crash and its truth. Deeds that meet an equal tag are not seen, and drawn again."""
    draw = random.Random(seed)
    rules = RULES[seed % len(RULES)]
    while True:
        weights = [1 if is_equal else share for share in SHARES.values()]
        (cause,) = draw.choices([*SHARES], weights)
        if not is_possible(rules, cause):
            continue
        heap = Heap(rules, draw)
        used = DEEDS[cause](heap)
        at = (used.address - BASE) // GRANULE
        if 0 <= at < GRANULES and heap.tags[at] != used.tag:
            break
    mishap = Mishap(
        Path(f"{seed}"), "simple" if rules.kind is Allocator.UNKNOWN else rules.name, cause.value,
        used.cell.start, used.tag, used.cell.size,
    )  # fmt: skip
    return mishap, crash_of(heap, used)


def crash_of(heap: Heap, used: Pointer) -> Crash:
    is_kernel = heap.rules.kind is Allocator.KASAN_HW
    return Crash(
        SourceKind.KASAN_REPORT if is_kernel else SourceKind.PROCESS_CORE,
        CrashWorld.KERNEL if is_kernel else CrashWorld.PROCESS,
        "a simulation",
        TagFault(CheckMode.SYNC, "simulated", used.address, used.tag),
        access=FaultingAccess(
            0,
            size_bytes=heap.draw.choice((1, 2, 4, 4, 8, 8, 8, 16)),
            direction=heap.draw.choice((DataDirection.READ, DataDirection.WRITE)),
        ),
        memory=ModelMemory(heap.tags, heap.seal()),
        allocator=AllocatorFacts(heap.rules.kind if heap.rules.known else Allocator.UNKNOWN),
        tag_bits=8 if is_kernel else 4,
        tag_mask=None if is_kernel else 0xFFFE,
    )


def answers(count: int, *, first: int = 0, is_equal: bool = False) -> Iterator[Answer]:
    for seed in range(first, first + count):
        mishap, crash = simulate(seed, is_equal=is_equal)
        yield judge(mishap, crash, explain(crash))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--equal", action="store_true")
    given = parser.parse_args()
    print(report([*answers(given.count, is_equal=given.equal)]))


if __name__ == "__main__":
    main()
