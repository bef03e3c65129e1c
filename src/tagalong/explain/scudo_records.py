"""scudo's own records in a core: what was freed, by which thread, and the call stacks.

A program asks for them by `malloc_set_track_allocation_stacks(1)`; Android does so for all that
checks tags. A ring has the latest frees: pointer, with the tag that it had, and size. A depot has
call stacks by their hash, if scudo was built to take them. The ring begins with a description of
its own mapping, so that nothing else looks like it; where it is, the allocator's own variables say,
which are data of some module.

    ring   depot, its size, mapping, its size, depot's mapping, its size: u64; elements u32, u32;
           position u64; then `elements` entries
    entry  pointer u64, size u64, allocation's stack u32, thread u32, free's stack u32, thread u32
    depot  lock, end, words of the ring, mask, mask of the table, padding: u32; words u64; table u32
    stack  in the depot's ring: 1 | hash << 1 | length << 33, then the return addresses

Source: LLVM 18 and later, compiler-rt/lib/scudo/standalone/combined.h, stack_depot.h,
mem_map_linux.h. Earlier ones have the ring among their variables, which cannot be found.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from tagalong.binary.layout import Layout
from tagalong.explain.backtrace import Frames
from tagalong.explain.crash import Block, BlockState, CrashMapping, CrashMemory, StackFrame
from tagalong.mte.pointers import address_of, logical_tag

KNOWN_BY: Final = "scudo's records of frees"

RING = Layout(
    ("depot", "u64"), ("depot_bytes", "u64"), ("mapping", "u64"), ("mapping_bytes", "u64"),
    ("depot_mapping", "u64"), ("depot_mapping_bytes", "u64"), ("elements", "u32"), ("pad", "u32"),
    ("position", "u64"),
)  # fmt: skip
ENTRY: Final = np.dtype(
    [("pointer", "<u8"), ("size", "<u8"), ("allocated_stack", "<u4"), ("allocated_thread", "<u4"),
     ("freed_stack", "<u4"), ("freed_thread", "<u4")]
)  # fmt: skip
DEPOT = Layout(
    ("lock", "u32"), ("end", "u32"), ("words", "u32"), ("mask", "u32"), ("table_mask", "u32"),
    ("pad", "u32"),
)  # fmt: skip

MAX_ELEMENTS: Final = 1 << 20
_LARGEST_BLOCK: Final = 1 << 40
_SEARCHED_BYTES: Final = 8 << 20
_VARIABLES_BYTES: Final = 1 << 20
_MOST_MAPPINGS: Final = 4096
_MOST_CANDIDATES: Final = 1 << 14
_MOST_FRAMES: Final = 64
_MOST_RECORDS: Final = 4096
_PAGE_BYTES: Final = 4096
_WORD_BYTES: Final = 8
_HASH_BITS: Final = (1 << 33) - 1


class ScudoRecords:
    """The ring and the depot of a core, with the memory that they are in."""

    def __init__(self, memory: CrashMemory, at: int, ring: dict[str, int], frames: Frames) -> None:
        self._memory = memory
        self._at = at
        self._ring = ring
        self._frame = frames
        self._depot = _depot(memory, ring)
        self._stacks: dict[int, tuple[StackFrame, ...]] = {}

    @property
    def is_whole(self) -> bool:
        """Return whether no record has been overwritten yet."""
        return self._ring["position"] <= self._ring["elements"]

    def freed_near(self, address: int, reach: int) -> tuple[Block, ...]:
        """Return the blocks that were freed within `reach` bytes of an address, newest first."""
        entries = self._entries()
        starts = entries["pointer"] & np.uint64((1 << 56) - 1)
        low, high = max(0, address - reach), address + reach
        is_near = (starts >= low) & (starts < high) & (entries["freed_thread"] != 0)
        is_near &= (entries["size"] > 0) & (entries["size"] < _LARGEST_BLOCK)
        return tuple(self._block(entry) for entry in entries[is_near][:_MOST_RECORDS])

    def with_allocation(self, block: Block) -> Block:
        """Return a block with what its header says of its allocation: stack and thread."""
        raw = self._memory.data(block.start - _WORD_BYTES, _WORD_BYTES)
        if raw is None:
            return block
        stack, thread = (int.from_bytes(raw[at : at + 4], "little") for at in (0, 4))
        if not thread:  # it is older than the records
            return block
        return replace(block, allocated_by=self.stack(stack), allocating_thread=thread)

    def stack(self, number: int) -> tuple[StackFrame, ...]:
        """Return the call stack with this hash, empty if the depot does not have it any more."""
        if number not in self._stacks:
            self._stacks[number] = tuple(self._frame(pc) for pc in self._addresses(number))
        return self._stacks[number]

    def _entries(self) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
        """Return the entries, newest first, empty if the core lacks a part of them."""
        count, position = self._ring["elements"], self._ring["position"]
        raw = self._memory.data(self._at + RING.size, count * ENTRY.itemsize)
        if raw is None:
            return np.zeros(0, ENTRY)
        newest = np.roll(np.frombuffer(raw, ENTRY), -(position % count))[::-1]
        return newest[: min(position, count)]

    def _block(self, entry: np.void) -> Block:
        pointer, size = int(entry["pointer"]), int(entry["size"])
        start = address_of(pointer)
        return Block(
            start, start + size, logical_tag(pointer), BlockState.FREED, KNOWN_BY, True,
            self.stack(int(entry["allocated_stack"])), self.stack(int(entry["freed_stack"])),
            int(entry["allocated_thread"]) or None, int(entry["freed_thread"]),
        )  # fmt: skip

    def _addresses(self, number: int) -> Iterator[int]:
        if self._depot is None or not number:
            return
        at, words, table_mask = self._depot
        table = at + DEPOT.size + words * _WORD_BYTES
        place = self._number(table + (number & table_mask) * 4, 4)
        if place is None or place >= words:
            return
        marker = self._number(at + DEPOT.size + place * _WORD_BYTES, _WORD_BYTES)
        if marker is None or marker & _HASH_BITS != number << 1 | 1:
            return
        for offset in range(1, 1 + min(marker >> 33, _MOST_FRAMES)):
            where = at + DEPOT.size + ((place + offset) & (words - 1)) * _WORD_BYTES
            found = self._number(where, _WORD_BYTES)
            if found is None:
                return
            yield found

    def _number(self, at: int, size: int) -> int | None:
        raw = self._memory.data(at, size)
        return None if raw is None else int.from_bytes(raw, "little")


def find_records(
    memory: CrashMemory, mappings: Sequence[CrashMapping], frames: Frames
) -> ScudoRecords | None:
    """Return scudo's records in a core, None if there are none.

    All pointers to the start of a page are tried that lie in data of modules, those of scudo's
    library first, 8 MiB of them at most.
    """
    left = _MOST_CANDIDATES
    for start, length in _variables(memory, mappings):
        for pointer in _page_pointers(memory, start, length)[:left]:
            raw = memory.data(pointer, RING.size)
            ring = None if raw is None else RING.unpack(raw)
            if ring is not None and _is_ring(pointer, ring):
                return ScudoRecords(memory, pointer, ring, frames)
            left -= 1
    return None


def _variables(memory: CrashMemory, mappings: Sequence[CrashMapping]) -> Iterator[tuple[int, int]]:
    """Yield data of modules, and what lies behind each module: variables without a value."""
    left = _SEARCHED_BYTES
    files = {mapping.start for mapping in mappings}
    ends = [extent.end for extent in memory.extents]
    for mapping in sorted(mappings, key=lambda each: "scudo" not in each.name)[:_MOST_MAPPINGS]:
        places = [(mapping.start, mapping.end)]
        if mapping.end not in files:
            places.append((mapping.end, mapping.end + _VARIABLES_BYTES))
        for start, end in places:
            number = bisect_right(ends, start)
            if left < _WORD_BYTES or number >= len(ends):
                continue
            extent = memory.extents[number]
            low, high = max(start, extent.address), min(end, extent.end)
            length = min(high - low, _VARIABLES_BYTES, left) // _WORD_BYTES * _WORD_BYTES
            if extent.has_data and length > 0:
                left -= length
                yield low, length


def _page_pointers(memory: CrashMemory, start: int, length: int) -> list[int]:
    raw = memory.data(start, length)
    if raw is None:
        return []
    words = np.unique(np.frombuffer(raw, np.uint64))
    return words[(words >= _PAGE_BYTES) & (words % _PAGE_BYTES == 0)].tolist()  # type: ignore[no-any-return]


def _is_ring(at: int, ring: dict[str, int]) -> bool:
    elements = ring["elements"]
    needed = RING.size + elements * ENTRY.itemsize
    return (
        ring["mapping"] == at
        and 0 < elements <= MAX_ELEMENTS
        and needed <= ring["mapping_bytes"] < needed + (64 << 10)
        and ring["depot"] == ring["depot_mapping"]
        and not ring["pad"]
    )


def _depot(memory: CrashMemory, ring: dict[str, int]) -> tuple[int, int, int] | None:
    """Return where the depot is, how many words its ring has, and its table's mask."""
    raw = memory.data(ring["depot"], DEPOT.size) if ring["depot"] else None
    if raw is None:
        return None
    depot = DEPOT.unpack(raw)
    words, mask = depot["words"], depot["table_mask"]
    size = DEPOT.size + words * _WORD_BYTES + (mask + 1) * 4
    is_power = words > 0 and not words & (words - 1) and not mask & (mask + 1)
    if not is_power or depot["mask"] != words - 1 or size != ring["depot_bytes"]:
        return None
    return ring["depot"], words, mask
