import numpy as np
import pytest

from tagalong.errors import HostError
from tagalong.machine.register_ids import TTBR0_EL1
from tagalong.memory import Gpa
from tagalong.soft.host.stage1 import PAGE_BYTES, Kind, Stage1

TABLES = Gpa(1 << 46)
BLOCK = 1 << 21


def make(pages: int = 16) -> tuple[Stage1, np.ndarray[tuple[int, ...], np.dtype[np.uint64]]]:
    memory = np.zeros(pages * PAGE_BYTES, np.uint8)
    return Stage1(memory, TABLES), memory.view("<u8").reshape(-1, 512)


def walk(tables: np.ndarray[tuple[int, ...], np.dtype[np.uint64]], va: int) -> tuple[int, int]:
    """Return the output address and the leaf's level, as the manual's walk finds them."""
    table = 0
    for level in range(4):
        shift = 39 - 9 * level
        entry = int(tables[table, va >> shift & 511])
        assert entry & 1, f"no translation at level {level}"
        address = entry & (1 << 48) - PAGE_BYTES
        if level == 3 or not entry & 2:
            inside = (1 << shift) - 1
            return address & ~inside | va & inside, level
        table = (address - TABLES) // PAGE_BYTES
    raise AssertionError


def attributes(tables: np.ndarray[tuple[int, ...], np.dtype[np.uint64]], va: int) -> int:
    table = 0
    for level in range(4):
        entry = int(tables[table, va >> 39 - 9 * level & 511])
        if level == 3 or not entry & 2:
            return entry & ~((1 << 48) - PAGE_BYTES) & ~2
        table = ((entry & (1 << 48) - PAGE_BYTES) - TABLES) // PAGE_BYTES
    raise AssertionError


def test_range_is_mapped_with_the_largest_leaves_that_fit() -> None:
    stage1, tables = make()
    gpa, va = 0x4000_0000 - PAGE_BYTES, 0x1000_4000_0000 - PAGE_BYTES

    stage1.map(va, gpa, PAGE_BYTES + (1 << 30) + BLOCK + PAGE_BYTES, Kind.EL0_PLAIN)

    assert walk(tables, va + 8) == (gpa + 8, 3)
    assert walk(tables, va + PAGE_BYTES) == (0x4000_0000, 1)
    assert walk(tables, va + PAGE_BYTES + (1 << 30) + 5) == (0x8000_0005, 2)
    assert walk(tables, va + PAGE_BYTES + (1 << 30) + BLOCK) == (0x8020_0000, 3)


@pytest.mark.parametrize("kind", list(Kind))
def test_leaf_has_the_kind_s_attributes_valid_shareable_and_accessed(kind: Kind) -> None:
    stage1, tables = make()

    stage1.map(BLOCK, BLOCK, BLOCK, kind)
    stage1.map(0, 0, PAGE_BYTES, kind)

    for va in (0, BLOCK):
        assert attributes(tables, va) == kind.value | 1 | 3 << 8 | 1 << 10


def test_page_in_a_block_gets_rights_of_its_own_and_the_rest_stays() -> None:
    stage1, tables = make()
    stage1.map(0, 1 << 30, 1 << 30, Kind.EL0_TAGGED)

    stage1.map(
        5 * BLOCK + PAGE_BYTES, (1 << 30) + 5 * BLOCK + PAGE_BYTES, PAGE_BYTES, Kind.EL0_NONE
    )

    for va, level in ((0, 2), (5 * BLOCK, 3), (5 * BLOCK + 2 * PAGE_BYTES, 3), (6 * BLOCK, 2)):
        assert walk(tables, va) == ((1 << 30) + va, level)
        assert attributes(tables, va) == Kind.EL0_TAGGED.value | 1 | 3 << 8 | 1 << 10
    assert attributes(tables, 5 * BLOCK + PAGE_BYTES) & 1 << 6 == 0


def test_more_tables_than_there_is_room_for_are_refused() -> None:
    stage1, _ = make(pages=4)
    stage1.map(0, 0, PAGE_BYTES, Kind.EL0_PLAIN)

    with pytest.raises(HostError, match="no room for more than 4 translation tables"):
        stage1.map(1 << 30, 0, PAGE_BYTES, Kind.EL0_PLAIN)


def test_registers_lead_to_the_tables() -> None:
    assert make()[0].registers()[TTBR0_EL1] == TABLES
