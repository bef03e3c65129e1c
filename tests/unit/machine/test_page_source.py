"""MachinePages: a machine as a source of pages, and tags of a source by address."""

import doctest
from collections.abc import Iterator

import numpy as np
import pytest

from tagalong.errors import AddressError, NoTagsError, TagalongError
from tagalong.machine import (
    MachinePages,
    MemoryMap,
    MemoryRange,
    granule_tags,
    page_source,
)
from tagalong.machine.page_source import read_bytes
from tagalong.memory import Gpa
from tests.support.cases import check_each
from tests.support.fake_machine import RAM, FakeMachine, describe

PAGE = 4096


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    machine = FakeMachine(describe(0x10_0000, 0x4_0000))
    for number, region in enumerate(machine.memory.regions):
        region.raw_data[: 0x2_0000 + PAGE] = 0x10 + number
        region.raw_tags[: 0x2_0000 // 32] = 0x21 + number
    yield machine
    machine.close()


def runs(*pairs: tuple[int, int]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.array(pairs, np.int64)


def test_memory_map_has_the_regions_in_order_of_address() -> None:
    description = describe(0x4000, 0x8000)
    turned = type(description)(4096, 1, 0, description.regions[::-1])

    memory = MemoryMap.of(turned)

    assert memory.ranges == (
        MemoryRange(RAM, 0x4000, has_tags=False),
        MemoryRange(RAM + 0x4000_0000, 0x8000, has_tags=False),
    )
    assert (memory.size_bytes, memory.page_count(1)) == (0xC000, 8)


def test_memory_map_locates_only_what_lies_in_one_range() -> None:
    memory = MemoryMap(PAGE, (MemoryRange(0x4000, 0x2000, True), MemoryRange(0x6000, 0x1000, True)))

    def refuse(case: tuple[int, int]) -> None:
        with pytest.raises(AddressError, match="is not in one range of this memory"):
            memory.locate(*case)

    assert memory.locate(0x5000, 0x1000) == (0, 0x1000)
    assert memory.locate(0x6000, 0x1000) == (1, 0)
    check_each([(0x3FFF, 1), (0x5000, 0x2000), (0x6000, 0x1001), (0x7000, 1)], refuse)


def test_data_of_runs_is_what_memory_holds_and_fills_no_hole(machine: FakeMachine) -> None:
    source = MachinePages(machine)
    before = machine.populated_pages()

    found = source.data(1, runs((31, 3), (40, 1)))

    assert found.reshape(-1, PAGE)[:, 0].tolist() == [0x11, 0x11, 0, 0]
    assert machine.populated_pages() == before


def test_data_of_a_paused_guest_is_a_view_and_of_a_running_one_a_copy(
    machine: FakeMachine,
) -> None:
    region = machine.memory.regions[0]
    sources = [MachinePages(machine), MachinePages(machine, is_running=True)]
    for source in sources:
        source.populated_pages()

    views = [np.shares_memory(s.data(0, runs((0, 16))), region.raw_data) for s in sources]

    assert views == [True, False]


def test_data_with_a_hole_is_a_copy_and_the_hole_stays(machine: FakeMachine) -> None:
    source = MachinePages(machine)
    before = source.populated_pages()

    found = source.data(0, runs((16, 32)))

    assert not np.shares_memory(found, machine.memory.regions[0].raw_data)
    assert found[[0, 17 * PAGE]].tolist() == [0x10, 0]
    assert source.populated_pages() == before


def test_tags_of_pages_are_packed_and_absent_without_mte(machine: FakeMachine) -> None:
    bare = FakeMachine(describe(0x4000, mte_version=0))

    assert MachinePages(machine).tags(1, 31, 2).tolist() == [0x22] * 128 + [0] * 128
    with pytest.raises(NoTagsError, match="address 0x40001000: this machine has no tags"):
        MachinePages(bare).tags(0, 1, 1)
    bare.close()


def test_changed_pages_are_first_the_populated_ones_then_what_the_guest_wrote() -> None:
    def guest(machine: FakeMachine) -> None:
        machine.guest_write(Gpa(RAM + 3 * PAGE), bytes(PAGE), bytes([7] * 128))

    machine = FakeMachine(describe(0x10_0000), guest)
    machine.memory.write(Gpa(RAM + PAGE), b"before")
    machine.resume()
    with MachinePages(machine, is_running=True) as source:
        answers = [source.changed_pages()[0].pages().tolist() for _ in range(2)]
        was_logging = machine.is_logging
    logging_after = machine.is_logging
    machine.close()

    assert answers == [[1], [3]]
    assert (was_logging, logging_after) == (True, False)


def test_leaving_loses_no_error_of_the_block(machine: FakeMachine) -> None:
    def leave() -> None:
        with MachinePages(machine) as source:
            source.changed_pages()
            machine.close()
            raise KeyError

    with pytest.raises(KeyError):
        leave()


def test_read_bytes_are_those_of_any_range_and_fill_no_hole(machine: FakeMachine) -> None:
    machine.memory.write(Gpa(RAM + 3 * PAGE - 2), b"across")
    source, before = MachinePages(machine), machine.populated_pages()

    found = [read_bytes(source, RAM + 3 * PAGE - 3, 8), read_bytes(source, RAM + 0x8_0000, 2)]

    assert found == [b"\x10across\x10", b"\0\0"]
    assert machine.populated_pages() == before
    with pytest.raises(AddressError, match="is not in one range of this memory"):
        read_bytes(source, RAM - 1, 2)


def test_granule_tags_are_those_of_any_granules_of_a_range(machine: FakeMachine) -> None:
    source = MachinePages(machine)

    found = granule_tags(source, RAM + PAGE - 16, 48)

    assert found.tolist() == [2, 1, 2]


def test_granule_tags_refuse_what_is_no_granule_or_not_there(machine: FakeMachine) -> None:
    source = MachinePages(machine)

    def refuse(case: tuple[int, int, str]) -> None:
        with pytest.raises(TagalongError, match=case[2]):
            granule_tags(source, case[0], case[1])

    check_each(
        [
            (RAM + 8, 16, "address 0x40000008 is not a multiple of 0x10"),
            (RAM, 8, "length 0x8 is not a multiple of 0x10"),
            (RAM + 0x10_0000 - 16, 32, "is not in one range"),
        ],
        refuse,
    )


def test_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(page_source)

    assert (result.failed, result.attempted > 8) == (0, True)
