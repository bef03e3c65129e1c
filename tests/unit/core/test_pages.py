"""CorePages: a core is a source of pages just as the machine that it was saved from."""

import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tagalong.core import CorePages, Space, open_core
from tagalong.core.tag_runs import runs_of_tags, tag_range, tag_runs
from tagalong.errors import MalformedCoreError, NoTagsError
from tagalong.machine import MachinePages, MemoryRange, PageSource, granule_tags
from tagalong.migrate import memory_digest
from tagalong.snapshot import SaveOptions, save
from tagalong.vmm.census import take_census
from tests.support.core_builder import CoreBuilder, load, tag_segment, usual_notes
from tests.support.cores import notes, random_planes, write_core
from tests.support.fake_machine import RAM, FakeMachine, describe

PAGE = 4096


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    machine = FakeMachine(describe(0x40_0000, 0x4_0000))
    draw = np.random.default_rng(9)
    first, second = machine.memory.regions
    first.raw_data[0x1_0000:0x15_0000] = draw.integers(0, 256, 0x14_0000, np.uint8)
    first.raw_tags[0x1_0000 // 32 : 0x15_0000 // 32] = draw.integers(
        0, 256, 0x14_0000 // 32, np.uint8
    )
    first.raw_data[0x20_5000] = 1
    first.raw_tags[0x3F_F000 // 32] = 0x80  # tags alone
    second.raw_data[-1] = 0xFF
    yield machine
    machine.close()


def digest(source: PageSource) -> str:
    return memory_digest(source, lambda: None, has_tags=True).hex()


@pytest.mark.parametrize("compress", [False, True])
def test_digest_and_census_of_a_core_are_those_of_its_machine(
    machine: FakeMachine, tmp_path: Path, compress: bool
) -> None:
    path = tmp_path / "vm.core"
    save(machine, path, SaveOptions(compress=compress))
    ours = MachinePages(machine)
    with open_core(path) as core:
        saved = CorePages(core, path)

        assert saved.memory == ours.memory
        assert digest(saved) == digest(ours)
        assert take_census(saved) == take_census(ours)


def test_digest_of_a_core_with_one_other_tag_is_another(
    machine: FakeMachine, tmp_path: Path
) -> None:
    path = tmp_path / "vm.core"
    save(machine, path)
    machine.memory.regions[0].raw_tags[0x2_0000 // 32] ^= 1
    with open_core(path) as core:
        assert digest(CorePages(core, path)) != digest(MachinePages(machine))


def test_tags_of_a_core_and_of_its_machine_are_the_same_runs(
    machine: FakeMachine, tmp_path: Path
) -> None:
    path = tmp_path / "vm.core"
    save(machine, path)
    asked = tag_range(RAM + 0xFFF8, 0x1_0008)

    with open_core(path) as core:
        by_core = [*tag_runs(core, asked)]
        by_pages = [*runs_of_tags(partial(granule_tags, CorePages(core, path)), asked)]
    by_machine = [*runs_of_tags(partial(granule_tags, MachinePages(machine)), asked)]

    assert by_core == by_pages == by_machine
    assert len(by_core) > 1000


def test_populated_pages_of_a_core_are_what_is_no_hole(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    data, tags = random_planes(4 * PAGE)
    data[PAGE:] = 0
    tags[:] = 0
    write_core(path, notes(), [data], [tags])

    with open_core(path) as core:
        source = CorePages(core, path)

        assert [pages.pages().tolist() for pages in source.populated_pages()] == [[0]]


def test_changed_pages_of_a_core_are_once_the_populated_ones(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    data, tags = random_planes(4 * PAGE)
    write_core(path, notes(), [data], [tags])

    with open_core(path) as core:
        source = CorePages(core, path)
        answers = [source.changed_pages()[0].count() for _ in range(3)]

    assert answers == [4, 0, 0]


def test_core_of_a_process_has_what_it_has_by_virtual_address(tmp_path: Path) -> None:
    path = tmp_path / "process.core"
    data, tags = random_planes(2 * PAGE)
    heap, stack = 0xAAAA_0000_0000, 0xFFFF_F000_0000
    path.write_bytes(
        CoreBuilder(
            [
                load(heap, data.tobytes()),
                load(stack, data.tobytes()),
                load(0x1000, b"", size_bytes=PAGE),  # not written
                tag_segment(heap, tags.tobytes()),
            ]
        ).build()
    )

    with open_core(path) as core:
        source = CorePages(core, path)
        census, found = take_census(source), digest(source)
        with pytest.raises(NoTagsError, match=f"address {stack + PAGE:#x}: the core has no tags"):
            source.tags(1, 1, 1)

    assert source.memory.ranges == (
        MemoryRange(heap, 2 * PAGE, has_tags=True),
        MemoryRange(stack, 2 * PAGE, has_tags=False),
    )
    nibbles = [*(tags & 15), *(tags >> 4)]
    assert (census.granules, census.tagged_granules) == (1024, int(np.count_nonzero(nibbles)))
    assert len(found) == 32


def test_core_that_was_cut_short_is_no_whole_machine_to_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    data, tags = random_planes(4 * PAGE)
    write_core(path, notes(), [data], [tags])
    whole = path.read_bytes()
    headers_and_notes = CoreBuilder([load(RAM, data.tobytes())], notes=usual_notes()).build()
    path.write_bytes(headers_and_notes[: -2 * PAGE])

    with open_core(path) as core:
        source = CorePages(core, path)

        assert source.memory.size_bytes == 2 * PAGE
    path.write_bytes(whole[: 3 * PAGE])
    with open_core(path) as core, pytest.raises(MalformedCoreError, match="the file ends at"):
        CorePages(core, path)


def test_core_of_virtual_addresses_is_a_source_of_those(tmp_path: Path) -> None:
    path = tmp_path / "kernel.core"
    data, tags = random_planes(4 * PAGE)
    write_core(path, notes(space=Space.KERNEL), [data], [tags])

    with open_core(path) as core:
        source = CorePages(core, path)

        assert source.memory.ranges == (MemoryRange(RAM, 4 * PAGE, has_tags=True),)
        assert np.array_equal(source.data(0, np.array([[1, 2]])), data[PAGE : 3 * PAGE])


def test_pages_of_overlapping_segments_are_all_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "a.core"
    data, _ = random_planes(4 * PAGE)
    zeros = bytes(4 * PAGE)
    cases = {
        "over its start": [load(0, zeros), load(2 * PAGE, data.tobytes())],
        "inside of it": [load(2 * PAGE, data.tobytes()), load(3 * PAGE, zeros[:PAGE])],
        "the same twice": [load(2 * PAGE, data.tobytes()), load(2 * PAGE, zeros)],
    }
    for name, segments in cases.items():
        path.write_bytes(CoreBuilder(segments).build())
        with open_core(path) as core:
            source = CorePages(core, path)
            found = [pages.count() for pages in source.populated_pages()]
            everything = [source.memory.page_count(n) for n in range(len(source.memory.ranges))]

        assert found == everything, name


def test_populated_pages_of_very_many_segments_cost_as_their_number(tmp_path: Path) -> None:
    def seconds(count: int) -> float:
        path = tmp_path / f"{count}"
        path.write_bytes(CoreBuilder([load(2 * PAGE * n, b"") for n in range(count)]).build())
        raw = bytearray(path.read_bytes())
        for n in range(count):  # all of them over the first page of the file
            struct.pack_into("<QQQQ", raw, 64 + 56 * (n + 1) + 8, 0, 2 * PAGE * n, 0, PAGE)
            struct.pack_into("<Q", raw, 64 + 56 * (n + 1) + 40, PAGE)
        path.write_bytes(raw)
        with open_core(path) as core:
            source = CorePages(core, path)
            began = time.thread_time()
            assert sum(pages.count() for pages in source.populated_pages()) == count
            return time.thread_time() - began

    small, large = (min(seconds(count) for _ in range(3)) for count in (250, 2_000))

    assert large < 30 * small
