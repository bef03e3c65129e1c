"""scudo's ring of frees and its depot of call stacks, built here; real ones are in test_crashes."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from tagalong.core.regions import CoreRegion
from tagalong.explain.crash import (
    UNKNOWN_TAG,
    Block,
    BlockState,
    CrashMapping,
    StackFrame,
    TagArray,
)
from tagalong.explain.scudo_records import DEPOT, ENTRY, RING, ScudoRecords, find_records

LIBRARY, RING_AT, DEPOT_AT, HEAP = 0x10_0000, 0x20_0000, 0x30_0000, 0x50_0000
WORDS, TABLE = 16, 8
ELEMENTS = 4
STACK_NUMBER = 0x8000_0005


@dataclass
class PieceMemory:
    """Memory in a few pieces, by address."""

    pieces: dict[int, bytes] = field(default_factory=dict)

    @property
    def extents(self) -> tuple[CoreRegion, ...]:
        return tuple(
            CoreRegion(at, len(content), has_data=True, has_tags=False)
            for at, content in sorted(self.pieces.items())
        )

    @property
    def address_space(self) -> tuple[CoreRegion, ...]:
        return self.extents

    def stored_tags(self, _start: int, _stop: int) -> Iterator[tuple[int, int]]:
        return iter(())

    def data(self, address: int, length: int) -> bytes | None:
        for at, content in self.pieces.items():
            if at <= address and address + length <= at + len(content):
                return content[address - at : address - at + length]
        return None

    def tags(self, _address: int, length: int) -> TagArray:
        return np.full(length // 16, UNKNOWN_TAG, np.int16)


def depot() -> bytes:
    """Return a depot with one stack of three addresses, which goes around its end."""
    words = [0] * WORDS
    words[WORDS - 2 :] = [1 | STACK_NUMBER << 1 | 3 << 33, 0x1111]
    words[:2] = [0x2222, 0x3333]
    table = [0] * TABLE
    table[STACK_NUMBER & TABLE - 1] = WORDS - 2
    head = DEPOT.pack(lock=0, end=2, words=WORDS, mask=WORDS - 1, table_mask=TABLE - 1, pad=0)
    return head + struct.pack(f"<{WORDS}Q{TABLE}I", *words, *table)


def memory(position: int = 6, **changed: int) -> PieceMemory:
    """Return a ring in which records 2 to 5 are left; `changed`: fields of its description."""
    entries = np.zeros(ELEMENTS, ENTRY)
    for number in range(position - ELEMENTS, position):
        entries[number % ELEMENTS] = (
            HEAP + 0x100 | number << 56, 40, STACK_NUMBER, 77, STACK_NUMBER, 80 + number,
        )  # fmt: skip
    fields = {
        "depot": DEPOT_AT, "depot_bytes": len(depot()), "mapping": RING_AT, "mapping_bytes": 4096,
        "depot_mapping": DEPOT_AT, "depot_mapping_bytes": 4096, "elements": ELEMENTS, "pad": 0,
        "position": position, **changed,
    }  # fmt: skip
    ring = (RING.pack(**fields) + entries.tobytes()).ljust(4096, b"\0")
    variables = struct.pack("<4Q", 7, HEAP, DEPOT_AT, RING_AT)
    return PieceMemory({LIBRARY: variables, RING_AT: ring, DEPOT_AT: depot().ljust(4096, b"\0"),
                        HEAP: bytes(0x100)})  # fmt: skip


MAPPINGS = (CrashMapping(LIBRARY - 4096, LIBRARY, "/lib/libscudo.so", 0),)


def records(of: PieceMemory) -> ScudoRecords | None:
    return find_records(of, MAPPINGS, StackFrame)


def test_frees_near_an_address_are_found_newest_first() -> None:
    found = records(memory())

    assert found is not None
    blocks = found.freed_near(HEAP, 0x1000)
    assert [block.tag for block in blocks] == [5, 4, 3, 2]
    first = blocks[0]
    assert (first.start, first.size_bytes, first.state) == (HEAP + 0x100, 40, BlockState.FREED)
    assert (first.allocating_thread, first.freeing_thread) == (77, 85)
    assert [frame.pc for frame in first.freed_by] == [0x1111, 0x2222, 0x3333]
    assert first.allocated_by == first.freed_by
    assert not found.is_whole
    assert found.freed_near(HEAP + 0x1000, 0x100) == ()


def test_ring_that_has_not_gone_around_is_whole() -> None:
    found = records(memory(4))

    assert found is not None
    assert found.is_whole
    assert len(found.freed_near(HEAP, 0x1000)) == 4


def test_block_in_use_has_the_stack_and_thread_of_its_header() -> None:
    of = memory()
    of.pieces[HEAP] = bytes(8) + struct.pack("<II", STACK_NUMBER, 99) + bytes(0x100)
    block = Block(HEAP + 16, HEAP + 56, 3, BlockState.ALLOCATED, "its block header")
    found = records(of)

    assert found is not None
    known = found.with_allocation(block)
    assert (known.allocating_thread, [f.pc for f in known.allocated_by]) == (
        99, [0x1111, 0x2222, 0x3333],
    )  # fmt: skip
    assert found.with_allocation(Block(1 << 40, 1 << 41, 3, BlockState.ALLOCATED, "")) == Block(
        1 << 40, 1 << 41, 3, BlockState.ALLOCATED, ""
    )


@pytest.mark.parametrize(
    ("field_name", "value"),
    [
        ("mapping", RING_AT + 4096), ("elements", 0), ("elements", 1 << 24), ("pad", 1),
        ("mapping_bytes", 64), ("mapping_bytes", 1 << 30), ("depot_mapping", 0),
    ],
)  # fmt: skip
def test_page_that_does_not_describe_itself_is_no_ring(field_name: str, value: int) -> None:
    assert records(memory(**{field_name: value})) is None


def test_depot_of_another_size_has_no_stacks() -> None:
    found = records(memory(depot_bytes=len(depot()) + 8))

    assert found is not None
    assert found.freed_near(HEAP, 0x1000)[0].freed_by == ()
    assert found.stack(0) == ()


def test_stack_that_was_overwritten_is_unknown() -> None:
    found = records(memory())

    assert found is not None
    assert found.stack(STACK_NUMBER ^ 1) == ()


def test_ring_that_the_core_has_not_all_of_is_empty() -> None:
    of = memory()
    of.pieces[RING_AT] = of.pieces[RING_AT][:100]
    found = records(of)

    assert found is not None
    assert found.freed_near(HEAP, 0x1000) == ()
