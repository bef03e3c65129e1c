"""walk: what tables map, for each granule, and tables that nobody would write in good faith."""

import struct
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagalong.errors import AddressError, TranslationError
from tagalong.machine import RegionDescription
from tagalong.memory import Gpa
from tagalong.paging import Budget, Half, Mapping, Regime, translate, walk

RAM = 0x4000_0000
RAM_BYTES = 64 << 20
REGIONS = (RegionDescription(Gpa(RAM), RAM_BYTES),)

TAGGED, UNTAGGED, DEVICE = 0, 1, 2
MAIR = 0x00_FF_F0
PAGE, TABLE, BLOCK = 3, 3, 1
AF = 1 << 10


class Ram:
    """Sparse guest RAM for tables; `read` is what walk asks."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}

    def put(self, gpa: int, value: int) -> None:
        self.words[gpa] = value

    def read(self, gpa: Gpa, length: int) -> bytes:
        if not RAM <= gpa <= gpa + length <= RAM + RAM_BYTES:
            raise AddressError(f"gpa {gpa:#x} is not in RAM")
        return b"".join(struct.pack("<Q", self.words.get(gpa + n, 0)) for n in range(0, length, 8))


def regime(granule_bits: int = 12, input_bits: int = 39, half: Half = Half.USER) -> Regime:
    return Regime(
        half=half,
        table=Gpa(RAM),
        granule_bits=granule_bits,
        input_bits=input_bits,
        output_bits=48,
        is_large=False,
        ignores_top_byte=True,
        memory_attributes=MAIR,
    )


def leaf(gpa: int, kind: int = PAGE, attribute: int = TAGGED) -> int:
    return gpa | kind | attribute << 2 | AF


class Tables:
    """Builds tables in RAM, from its start on, as an operating system does."""

    def __init__(self, where: Regime) -> None:
        self.ram = Ram()
        self._regime = where
        self._next = where.table + where.granule_bytes

    def map(self, address: int, level: int, descriptor: int) -> None:
        table = int(self._regime.table)
        offset = address - self._regime.lowest_address
        for above in range(self._regime.first_level, level):
            at = table + self._index(offset, above) * 8
            if at not in self.ram.words:
                self.ram.put(at, self._next | TABLE)
                self._next += self._regime.granule_bytes
            table = self.ram.words[at] & ~0xFFF
        self.ram.put(table + self._index(offset, level) * 8, descriptor)

    def _index(self, offset: int, level: int) -> int:
        return offset >> self._regime.shift(level) & self._regime.entries(level) - 1


@pytest.mark.parametrize(("granule_bits", "input_bits"), [(12, 48), (12, 39), (14, 47), (16, 42)])
@pytest.mark.parametrize("half", Half)
def test_walk_of_a_page_and_a_block_finds_both(
    half: Half, granule_bits: int, input_bits: int
) -> None:
    where = regime(granule_bits, input_bits, half)
    tables, low, size = Tables(where), where.lowest_address, where.granule_bytes
    block = 1 << where.shift(2)
    tables.map(low + size, 3, leaf(RAM + 0x20_0000))
    tables.map(low + 3 * block, 2, leaf(RAM, BLOCK, UNTAGGED))

    found = walk(tables.ram.read, REGIONS, where)

    in_ram = min(block, RAM_BYTES)
    assert found.mappings == [
        Mapping(low + size, Gpa(RAM + 0x20_0000), size, is_tagged=True),
        Mapping(low + 3 * block, Gpa(RAM), in_ram, is_tagged=False),
    ]
    assert found.not_ram_bytes == block - in_ram


def test_walk_of_contiguous_pages_across_tables_joins_them() -> None:
    where = regime()
    tables = Tables(where)
    for number in range(505, 520):
        tables.map(number << 12, 3, leaf(RAM + (number << 12)))

    found = walk(tables.ram.read, REGIONS, where)

    assert found.mappings == [Mapping(505 << 12, Gpa(RAM + (505 << 12)), 15 << 12, is_tagged=True)]


def test_walk_of_contiguous_pages_of_another_type_keeps_them_apart() -> None:
    where = regime()
    tables = Tables(where)
    for number, attribute in enumerate([TAGGED, UNTAGGED, TAGGED]):
        tables.map(number << 12, 3, leaf(RAM + (number << 12), attribute=attribute))

    found = walk(tables.ram.read, REGIONS, where)

    assert [mapping.is_tagged for mapping in found.mappings] == [True, False, True]


def test_walk_of_page_with_clear_access_flag_finds_it() -> None:
    where = regime()
    tables = Tables(where)
    tables.map(0x1000, 3, leaf(RAM) & ~AF)

    assert len(walk(tables.ram.read, REGIONS, where).mappings) == 1


@pytest.mark.parametrize(
    ("level", "descriptor"),
    [
        (3, leaf(RAM) & ~1),  # not valid
        (3, leaf(RAM) & ~2),  # reserved at level 3
        (2, leaf(RAM) & ~3),
    ],
)
def test_walk_of_invalid_descriptor_finds_nothing(level: int, descriptor: int) -> None:
    where = regime()
    tables = Tables(where)
    tables.map(0x20_0000, level, descriptor)

    assert walk(tables.ram.read, REGIONS, where).mappings == []


def test_walk_of_block_where_the_granule_has_none_finds_nothing() -> None:
    where = regime(input_bits=48)
    tables = Tables(where)
    tables.map(0, 0, leaf(RAM, BLOCK))

    assert walk(tables.ram.read, REGIONS, where).mappings == []


def test_walk_of_device_memory_counts_it_and_maps_nothing() -> None:
    where = regime()
    tables = Tables(where)
    tables.map(0x1000, 3, leaf(0x900_0000, attribute=DEVICE))

    found = walk(tables.ram.read, REGIONS, where)

    assert (found.mappings, found.not_ram_bytes) == ([], 0x1000)


def test_walk_of_output_address_beyond_ips_maps_nothing() -> None:
    where = replace(regime(), output_bits=32)
    tables = Tables(where)
    tables.map(0, 3, leaf(RAM + (1 << 32)))
    regions = (*REGIONS, RegionDescription(Gpa(RAM + (1 << 32)), 0x1000))

    found = walk(tables.ram.read, regions, where)

    assert (found.mappings, found.not_ram_bytes) == ([], 0x1000)


@pytest.mark.parametrize(
    ("granule_bits", "bits"), [(12, 0b10 << 8), (14, 0b10 << 8), (16, 0b1000 << 12)]
)
def test_walk_of_52_bit_output_address_puts_its_parts_together(
    granule_bits: int, bits: int
) -> None:
    where = replace(regime(granule_bits), is_large=True, output_bits=52)
    high = Gpa(RAM + (1 << 51))
    tables = Tables(where)
    tables.map(0, 3, RAM | PAGE | AF | bits)
    regions = (*REGIONS, RegionDescription(high, 1 << granule_bits))

    found = walk(tables.ram.read, regions, where)

    assert found.mappings == [Mapping(0, high, 1 << granule_bits, is_tagged=True)]


def test_walk_across_two_regions_maps_each_part_where_it_is() -> None:
    where = regime()
    tables = Tables(where)
    tables.map(0x20_0000, 2, leaf(RAM, BLOCK))
    regions = (
        RegionDescription(Gpa(RAM + 0x18_0000), 0x10_0000),
        RegionDescription(Gpa(RAM), 0x10_0000),
    )

    found = walk(tables.ram.read, regions, where)

    assert found.mappings == [
        Mapping(0x20_0000, Gpa(RAM), 0x10_0000, is_tagged=True),
        Mapping(0x38_0000, Gpa(RAM + 0x18_0000), 0x8_0000, is_tagged=True),
    ]
    assert found.not_ram_bytes == 0x8_0000


def test_walk_of_table_outside_of_ram_names_it_and_goes_on() -> None:
    where = regime()
    tables = Tables(where)
    tables.map(0, 1, 0x900_0000 | TABLE)
    tables.map(1 << 30, 1, leaf(RAM, BLOCK))

    found = walk(tables.ram.read, REGIONS, where)

    assert found.unreadable_tables == [0x900_0000]
    assert [mapping.address for mapping in found.mappings] == [1 << 30]


def everything_points_at(where: Regime, descriptor: Callable[[int], int]) -> Ram:
    ram = Ram()
    for number in range(where.granule_bytes // 8):
        ram.put(RAM + number * 8, descriptor(number))
    return ram


def test_walk_of_table_that_points_at_itself_ends_with_the_levels() -> None:
    where = regime()
    ram = Ram()
    ram.put(RAM, RAM | TABLE)

    found = walk(ram.read, REGIONS, where)

    assert found.tables == 3
    assert found.mappings == [Mapping(0, Gpa(RAM), 0x1000, is_tagged=True)]


def test_walk_of_tables_that_multiply_ends_at_the_budget() -> None:
    where = regime(input_bits=48)
    ram = everything_points_at(where, lambda _: RAM | TABLE)
    began = time.thread_time()

    with pytest.raises(TranslationError) as failure:
        walk(ram.read, REGIONS, where, Budget(tables=2000, mapped_bytes=1 << 60, mappings=1 << 30))

    assert str(failure.value) == (
        "the tables from gpa 0x40000000 on are not those of a working guest: "
        "more than 0x7d0 tables looked at"
    )
    assert time.thread_time() - began < 20


def test_walk_that_maps_ram_too_often_ends_at_the_budget() -> None:
    where = regime()
    ram = everything_points_at(where, lambda _: leaf(RAM, BLOCK))

    with pytest.raises(TranslationError, match="more than 0x40000000 bytes of RAM mapped"):
        walk(ram.read, REGIONS, where)


def test_walk_of_scattered_pages_ends_at_the_budget() -> None:
    where = regime(input_bits=21)
    ram = everything_points_at(where, lambda number: leaf(RAM + (number * 7 % 512 << 12)))
    budget = Budget(tables=10, mapped_bytes=1 << 30, mappings=100)

    with pytest.raises(TranslationError, match="more than 0x64 separate mappings"):
        walk(ram.read, REGIONS, where, budget)


@given(st.dictionaries(st.integers(0, 600), st.integers(0, 200), max_size=20))
def test_walk_of_any_pages_finds_exactly_those(pages: dict[int, int]) -> None:
    where = regime()
    tables = Tables(where)
    for page, frame in pages.items():
        tables.map(page << 12, 3, leaf(RAM + (frame << 12)))

    found = walk(tables.ram.read, REGIONS, where)

    seen = {
        (m.address + at) >> 12: (m.gpa + at - RAM) >> 12
        for m in found.mappings
        for at in range(0, m.size_bytes, 0x1000)
    }
    assert seen == pages


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=64), st.sampled_from([12, 16]))
def test_walk_of_any_rubbish_ends_with_mappings_in_ram_or_a_typed_error(
    words: list[int], granule_bits: int
) -> None:
    where = regime(granule_bits)
    ram = Ram()
    for number, word in enumerate(words):
        ram.put(RAM + number * 8, word)
        ram.put(RAM + 0x1000 + number * 8, word | 3)
    budget = Budget(tables=64, mapped_bytes=1 << 32, mappings=1000)

    try:
        found = walk(ram.read, REGIONS, where, budget)
    except TranslationError:
        return

    for mapping in found.mappings:
        assert RAM <= mapping.gpa < mapping.gpa + mapping.size_bytes <= RAM + RAM_BYTES


@pytest.mark.parametrize(("granule_bits", "input_bits"), [(12, 48), (12, 39), (14, 47), (16, 42)])
@pytest.mark.parametrize("half", Half)
def test_translate_of_an_address_finds_its_page_or_block(
    half: Half, granule_bits: int, input_bits: int
) -> None:
    where = regime(granule_bits, input_bits, half)
    tables, low, size = Tables(where), where.lowest_address, where.granule_bytes
    block = 1 << where.shift(2)
    tables.map(low + size, 3, leaf(RAM + 0x20_0000))
    tables.map(low + 3 * block, 2, leaf(RAM, BLOCK, UNTAGGED))

    def at(offset: int) -> Mapping | None:
        return translate(tables.ram.read, REGIONS, where, low + offset)

    page = Mapping(low + size, Gpa(RAM + 0x20_0000), size, is_tagged=True)
    assert [at(size - 1), at(size), at(2 * size - 1), at(2 * size)] == [None, page, page, None]
    found = Mapping(low + 3 * block, Gpa(RAM), min(block, RAM_BYTES), is_tagged=False)
    assert at(3 * block + found.size_bytes - 1) == found
    assert at(4 * block) is None


def test_translate_of_an_address_that_is_not_of_the_half_finds_nothing() -> None:
    where = regime()
    tables = Tables(where)
    tables.map(0, 3, leaf(RAM))

    for address in (1 << 39, Half.KERNEL.value << 63, -1):
        assert translate(tables.ram.read, REGIONS, where, address) is None


def test_translate_through_a_table_outside_of_ram_finds_nothing() -> None:
    where = regime()
    tables = Tables(where)
    tables.ram.put(where.table, RAM + RAM_BYTES | TABLE)

    assert translate(tables.ram.read, REGIONS, where, 0x1000) is None


@given(st.dictionaries(st.integers(0, 600), st.integers(0, 200), max_size=20), st.integers(0, 600))
def test_translate_agrees_with_walk(pages: dict[int, int], page: int) -> None:
    where = regime()
    tables = Tables(where)
    for number, frame in pages.items():
        tables.map(number << 12, 3, leaf(RAM + (frame << 12)))

    found = translate(tables.ram.read, REGIONS, where, page << 12 | 0x123)

    assert (found and found.gpa) == (RAM + (pages[page] << 12) if page in pages else None)


def test_budget_of_a_guest_follows_its_ram_up_to_a_bound() -> None:
    def of(ram_bytes: int) -> Budget:
        return Budget.of_ram([RegionDescription(Gpa(0), ram_bytes)], 4096)

    assert of(1 << 20) == Budget(tables=1 << 10, mapped_bytes=16 << 20, mappings=1 << 12)
    assert of(1 << 30) == Budget(tables=1 << 18, mapped_bytes=16 << 30, mappings=1 << 20)
    assert of(1 << 45) == Budget(tables=1 << 20, mapped_bytes=16 << 45, mappings=1 << 21)
