"""Dirty log and holes: what changed is found, and what was never used costs nothing."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tagalong.access import STRATEGIES
from tagalong.core import CorePages, open_core
from tagalong.errors import AddressError, HostError, UsageError
from tagalong.machine import Machine, MachinePages
from tagalong.memory import Gpa
from tagalong.migrate import MachineBuilder
from tagalong.migrate.pages.digest import memory_digest
from tagalong.snapshot import save
from tagalong.soft import RAM_GPA
from tagalong.vmm.census import take_census
from tests.support import a64
from tests.support.bare import CODE, DATA, TABLES, VECTORS, tagged
from tests.support.bare_program import Maker
from tests.support.move import move
from tests.support.running_guest import Boot

MIB = 1 << 20
OFFSET = DATA - RAM_GPA

Store = Callable[[int], object]


def test_dirty_log_tag_only_change_is_in_it_and_a_load_is_not(bare: Maker, page: int) -> None:
    loop = a64.b(0)
    pointers = {1: tagged(DATA, 6), 2: DATA + page, 3: DATA + 2 * page, 4: 0}
    words = [a64.stg(1, 1), a64.str_(1, 2), a64.ldr(4, 3), loop]
    program = bare(words, pointers)
    machine = program.machine
    for number in range(4):  # all are there, and hold data, before the log begins
        machine.memory.write(Gpa(DATA + number * page), bytes([1]))
    machine.start_dirty_log()

    program.run_to_loop()
    dirty = machine.harvest_dirty_log()[0]
    again = machine.harvest_dirty_log()[0]
    machine.stop_dirty_log()

    pages = set(dirty.pages().tolist())
    assert {OFFSET // page, OFFSET // page + 1} <= pages
    assert not {OFFSET // page + 2, OFFSET // page + 3} & pages
    assert again.count() == 0
    assert machine.read_tags(Gpa(DATA), page)[0] == 0x06


def test_dirty_log_every_harvest_begins_anew(bare: Maker, page: int) -> None:
    words = [a64.stg(1, 1), a64.b(-4), a64.b(0)]
    program = bare(words, {1: tagged(DATA, 6)})
    machine = program.machine
    machine.start_dirty_log()

    for _ in range(5):
        # However late the guest gets a CPU.
        while OFFSET // page not in machine.harvest_dirty_log()[0]:
            machine.resume()
            machine.wait(0.02)
            machine.pause()
        assert OFFSET // page not in machine.harvest_dirty_log()[0]


def test_write_tags_with_the_dirty_log_on_writes_and_loses_no_mark(bare: Maker, page: int) -> None:
    program = bare([a64.str_(1, 2), a64.b(0)], {1: 1, 2: DATA})
    machine = program.machine
    machine.start_dirty_log()
    program.run_to_loop()
    packed = np.full(page // 32, 0x99, np.uint8)

    machine.write_tags(Gpa(DATA + 4 * page), packed)

    assert np.array_equal(machine.read_tags(Gpa(DATA + 4 * page), page), packed)
    assert OFFSET // page in machine.harvest_dirty_log()[0]
    machine.start_dirty_log()


def test_tags_of_scattered_pages_are_those_that_the_guest_set(bare: Maker, page: int) -> None:
    pointers = {1: tagged(DATA, 6), 2: tagged(DATA + 5 * page, 9)}
    program = bare([a64.stg(1, 1), a64.stg(2, 2), a64.b(0)], pointers)
    program.run_to_loop()
    machine = program.machine
    pages = OFFSET // page + np.array([0, 1, 5, 9])
    before = machine.read_page_tags(0, pages)
    rows = np.zeros_like(before)
    rows[1:] = [[0x21], [0x43], [0x65]]

    machine.write_page_tags(0, pages, rows)

    assert before[[0, 2], 0].tolist() == [0x06, 0x09]
    assert np.count_nonzero(before) == 2
    assert np.array_equal(machine.read_page_tags(0, pages), rows)
    out = np.full_like(rows, 0xEE)
    assert machine.read_page_tags(0, pages, out) is out
    assert np.array_equal(out, rows)
    packed = machine.read_tags(Gpa(DATA), 16 * page).reshape(16, -1)
    assert np.array_equal(packed[[0, 1, 5, 9]], rows)
    assert not packed[[2, 3, 4, 6, 7, 8]].any()


def test_write_page_tags_of_other_rows_than_those_of_the_pages_is_refused(
    bare: Maker, page: int
) -> None:
    machine = bare([a64.b(0)]).machine
    pages, row = np.array([4, 7]), page // 32
    shapes = [(1, row), (3, row), (2, row - 1), (2, row + 1), (2 * row,), (row, 2)]
    before = machine.read_page_tags(0, pages)

    for name in (name for name in STRATEGIES if works_here(machine, name)):
        machine.use_access(name)
        for shape in shapes:
            with pytest.raises(UsageError) as caught:
                machine.write_page_tags(0, pages, np.full(shape, 0x11, np.uint8))
            assert str(caught.value) == (
                f"tags of 2 pages must be uint8 of shape (2, {row}), not uint8 of shape {shape}"
            )
        wide: Any = np.ones((2, row), np.uint16)
        with pytest.raises(UsageError, match="not uint16 of shape"):
            machine.write_page_tags(0, pages, wide)

    assert np.array_equal(machine.read_page_tags(0, pages), before)


def test_write_page_tags_with_the_dirty_log_on_loses_no_mark(bare: Maker, page: int) -> None:
    program = bare([a64.str_(1, 2), a64.b(0)], {1: 1, 2: DATA})
    machine = program.machine
    machine.start_dirty_log()
    program.run_to_loop()
    pages = OFFSET // page + np.array([4, 7])

    machine.write_page_tags(0, pages, np.full((2, page // 32), 0x99, np.uint8))

    assert (machine.read_page_tags(0, pages) == 0x99).all()
    assert OFFSET // page in machine.harvest_dirty_log()[0]


def test_populated_pages_are_those_that_were_used(bare: Maker, page: int) -> None:
    program = bare([a64.str_(1, 2), a64.b(0)], {1: 1, 2: DATA + 8 * page})
    program.run_to_loop()
    tags = np.zeros(page // 32, np.uint8)
    tags[5] = 0x40
    program.machine.write_tags(Gpa(DATA + 16 * page), tags)

    pages = set(program.machine.populated_pages()[0].pages().tolist())

    used = {(gpa - RAM_GPA) // page for gpa in (VECTORS, TABLES, CODE)}
    assert pages == used | {OFFSET // page + 8, OFFSET // page + 16}


def test_digest_and_census_are_those_of_the_core_that_was_saved(
    bare: Maker, tmp_path: Path, page: int
) -> None:
    words = [a64.stg(1, 1), a64.str_(2, 3), a64.b(0)]
    program = bare(words, {1: tagged(DATA, 6), 2: 0x1234, 3: DATA + 40 * page})
    program.run_to_loop()
    path = tmp_path / "vm.core"
    save(program.machine, path)
    ours = MachinePages(program.machine)

    with open_core(path) as core:
        saved = CorePages(core, path)
        digests = [memory_digest(each, lambda: None, has_tags=True) for each in (ours, saved)]
        censuses = [take_census(each) for each in (ours, saved)]

    assert digests[0] == digests[1]
    assert censuses[0] == censuses[1]
    assert censuses[0].tagged_granules == 1


def test_reading_all_of_a_mostly_empty_guest_does_not_fill_its_memory(bare: Maker) -> None:
    program = bare([a64.stg(1, 1), a64.b(0)], {1: tagged(DATA, 6)}, ram_bytes=256 * MIB)
    program.run_to_loop()
    machine = program.machine
    region = machine.memory.regions[0]
    before = used_bytes()

    tags = machine.read_tags(region.gpa, region.size_bytes)
    machine.memory.read(region.gpa, region.size_bytes // 4)
    memory_digest(MachinePages(machine), lambda: None, has_tags=True)
    zeros = np.zeros(region.size_bytes // 32, np.uint8)
    zeros[tags.size - 1] = 0x10
    machine.write_tags(region.gpa, zeros)

    assert np.count_nonzero(tags) == 1
    # The tags themselves, 8 MiB here and there, come and go; RAM would be 256 MiB.
    assert used_bytes() - before < 40 * MIB
    assert machine.populated_pages()[0].count() < 16


def test_migrating_a_mostly_empty_guest_does_not_fill_either_side(
    boot: Boot, from_description: MachineBuilder, page: int
) -> None:
    guest = boot("churn", "working-set=1M", ram_bytes=256 * MIB)
    guest.machine.resume()
    guest.wait_for("progress", 1)
    guest.machine.pause()
    before = used_bytes()

    arrived = move(guest.machine, from_description)

    assert used_bytes() - before < 60 * MIB
    assert 0 < arrived.populated_pages()[0].count() * page < 8 * MIB


def used_bytes() -> int:
    """Return what the process and its machines' memory files occupy."""
    status = Path("/proc/self/status").read_text()
    anonymous = int(status.split("RssAnon:")[1].split()[0]) * 1024
    return anonymous + sum(
        os.stat(f"/proc/self/fd/{fd}").st_blocks * 512
        for fd in os.listdir("/proc/self/fd")
        if _is_ram(f"/proc/self/fd/{fd}")
    )


def _is_ram(path: str) -> bool:
    try:
        return "memfd:tagalong" in os.readlink(path)
    except FileNotFoundError:
        return False


def test_dirty_log_has_every_store_of_the_host_by_any_access_strategy(
    bare: Maker, page: int
) -> None:
    machine = bare([a64.b(0)]).machine
    packed, data = np.full(page // 32, 0x99, np.uint8), np.full((1, page), 7, np.uint8)
    at = partial(np.array, dtype=np.int64)
    stores: list[Store] = [
        lambda first: machine.memory.write(Gpa(RAM_GPA + first * page + 9), b"ab"),
        lambda first: machine.memory.regions[0].write_pages(at([first]), data),
        lambda first: machine.write_tags(Gpa(RAM_GPA + first * page), packed),
        lambda first: machine.write_page_tags(0, at([first]), packed.reshape(1, -1)),
    ]
    works = [name for name in STRATEGIES if works_here(machine, name)]
    found = {}

    for name in works:
        machine.use_access(name)
        machine.start_dirty_log()
        for number, store in enumerate(stores):
            store(OFFSET // page + 2 * number)
        found[name] = machine.harvest_dirty_log()[0].pages().tolist()
        assert machine.harvest_dirty_log()[0].count() == 0
        machine.stop_dirty_log()

    assert "ioctl" in works
    assert found == {name: [OFFSET // page + 2 * number for number in range(4)] for name in works}


def test_tags_of_a_few_bytes_are_read_and_written_by_any_access_strategy(
    bare: Maker, page: int
) -> None:
    """A packed byte is the unit: ranges begin and end inside pages, and the rest stays."""
    machine = bare([a64.b(0)]).machine
    base = DATA + 4 * page
    for name in (name for name in STRATEGIES if works_here(machine, name)):
        machine.use_access(name)
        machine.write_tags(base, np.full(2 * page // 32, 0x11, np.uint8))

        machine.write_tags(base + page - 64, np.array([0x32, 0x54, 0x76], np.uint8))

        expected = np.full(2 * page // 32, 0x11, np.uint8)
        expected[page // 32 - 2 :][:3] = (0x32, 0x54, 0x76)
        assert np.array_equal(machine.read_tags(base, 2 * page), expected), name
        assert machine.read_tags(base + page - 32, 32).tolist() == [0x54], name
        assert machine.read_tags(base + page - 96, 160).tolist() == [0x11, 0x32, 0x54, 0x76, 0x11]
        assert machine.read_tags(base + 32, 0).size == 0
        with pytest.raises(AddressError, match="is not a multiple of 0x20"):
            machine.read_tags(base + 16, 32)


def test_tags_of_a_part_of_a_page_are_written_while_the_guest_runs(bare: Maker) -> None:
    """The guest changes tags of the same page all the time, and none of them is lost."""
    at = {1: tagged(DATA, 6), 2: tagged(DATA, 9), 3: 0}
    words = [a64.stg(1, 1), a64.stg(2, 2), a64.add_imm(3, 3, 1), a64.b(-12)]
    machine = bare(words, at).machine
    machine.resume()
    for _ in range(3000):  # until the guest has begun
        if machine.read_tags(DATA, 32)[0]:
            break
        machine.wait(0.02)

    for value in range(1, 200):
        machine.write_tags(DATA + 64, np.array([value], np.uint8))
        assert machine.read_tags(DATA + 64, 32).tolist() == [value]
        assert machine.read_tags(DATA, 32)[0] in (0x00, 0x06, 0x09)
    machine.pause()

    packed = machine.read_tags(DATA, 96).tolist()
    assert packed[0] in (0x06, 0x09)
    assert packed[1:] == [0, 199]


def works_here(machine: Machine, name: str) -> bool:
    try:
        machine.use_access(name)
    except HostError:
        return False
    return True
