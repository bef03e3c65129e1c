"""Machines that came from a host with pages of another size: KVM has this host's all the same."""

import mmap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tagalong.access.choice import choose
from tagalong.core import CorePages, Space, open_core
from tagalong.machine import Machine, MachineDescription
from tagalong.memory import Gpa
from tagalong.migrate import MachineBuilder, MigrationOptions
from tagalong.mte import PAGE_SIZES_BYTES
from tagalong.mte.tags import unpack
from tagalong.snapshot import SaveOptions, restore, save
from tagalong.soft import RAM_GPA
from tests.conformance.conftest import KINDS
from tests.support import a64
from tests.support.bare import DATA, tagged
from tests.support.bare_program import BareProgram
from tests.support.move import move
from tests.support.running_guest import Boot, Listener, RunningGuest

OTHERS = [size for size in PAGE_SIZES_BYTES if size != mmap.PAGESIZE]
OFFSET = DATA - RAM_GPA


@pytest.fixture(params=OTHERS)
def other(request: pytest.FixtureRequest) -> int:
    """Return a page size that this host does not have."""
    return int(request.param)


@pytest.fixture
def create(machine_name: str, other: int, opened: list[Machine]) -> Callable[..., Machine]:
    """Return what creates a machine with pages of another size."""
    kind = KINDS[machine_name]

    def make(*, ram_bytes: int, vcpu_count: int = 1, **options: Any) -> Machine:
        described = kind.describe(ram_bytes=ram_bytes, vcpu_count=vcpu_count)
        described = replace(described, page_size_bytes=other)
        opened.append(kind.from_description(described, **options))
        return opened[-1]

    return make


def test_dirty_log_has_the_pages_that_guest_and_host_stored_to(
    create: Callable[..., Machine], other: int
) -> None:
    far = 0x10_0000
    pointers = {1: tagged(DATA, 6), 2: DATA + far}
    program = BareProgram(create, [a64.stg(1, 1), a64.str_(1, 2), a64.b(0)], pointers)
    machine = program.machine
    machine.start_dirty_log()

    program.run_to_loop()
    machine.memory.write(Gpa(DATA + 2 * far), b"of the host")
    first, second = machine.harvest_dirty_log()[0], machine.harvest_dirty_log()[0]

    assert first.page_count == machine.memory.regions[0].size_bytes // other
    assert all((OFFSET + number * far) // other in first for number in range(3))
    assert (OFFSET + 3 * far) // other - 1 not in first
    assert second.count() == 0


def test_tags_of_scattered_pages_are_set_and_those_around_stay(
    create: Callable[..., Machine], other: int
) -> None:
    program = BareProgram(create, [a64.stg(1, 1), a64.b(0)], {1: tagged(DATA, 6)})
    program.run_to_loop()
    machine = program.machine
    pages = OFFSET // other + np.array([1, 2, 5, 9])
    rows = np.full((4, other // 32), 0x21, np.uint8)
    rows[:, 0] = (1, 2, 3, 4)

    machine.write_page_tags(0, pages, rows)
    machine.write_tags(Gpa(DATA + 16 * other), rows[3])
    machine.write_tags(Gpa(DATA + 64), np.array([0x77], np.uint8))

    packed = machine.read_tags(DATA, 17 * other).reshape(17, -1)
    assert np.array_equal(machine.read_page_tags(0, pages), rows)
    assert np.array_equal(packed[[1, 2, 5, 9, 16]], rows[[0, 1, 2, 3, 3]])
    assert packed[0, :3].tolist() == [6, 0, 0x77]
    assert not packed[0, 3:].any()
    assert not packed[[3, 4, 6, 7, 8, *range(10, 16)]].any()


def test_strategy_ioctl_by_itself_takes_the_machine_s_pages(
    create: Callable[..., Machine], other: int
) -> None:
    machine: Any = BareProgram(create, [a64.b(0)]).machine
    strategy = choose("ioctl", machine.host).strategy
    machine.write_tags(DATA, np.full(4 * other // 32, 0x11, np.uint8))
    row, found = np.full(other // 32, 0x32, np.uint8), np.empty(4 * other // 32, np.uint8)

    strategy.write_tags(Gpa(DATA + other), row)
    strategy.read_tags(Gpa(DATA), found)

    expected = np.full((4, other // 32), 0x11)
    expected[1] = row
    assert np.array_equal(found.reshape(4, -1), expected)
    assert np.array_equal(machine.read_tags(DATA, 4 * other), found)


def test_tags_of_pages_are_written_while_the_guest_runs_and_it_loses_none(
    create: Callable[..., Machine], other: int
) -> None:
    """The guest retags a granule all the time, which can be on the same page of the host."""
    words = [a64.stg(1, 1), a64.stg(2, 2), a64.add_imm(3, 3, 1), a64.b(-12)]
    pointers = {1: tagged(DATA, 6), 2: tagged(DATA, 9), 3: 0}
    machine: Any = BareProgram(create, words, pointers).machine
    page = np.array([OFFSET // other + 1])
    strategy = choose("ioctl", machine.host).strategy
    machine.resume()
    for _ in range(3000):  # until the guest has begun
        if machine.read_tags(DATA, 32)[0]:
            break
        machine.wait(0.02)

    for value in range(1, 100):
        row = np.full(other // 32, value, np.uint8)
        if value % 2:
            strategy.write_tags(Gpa(DATA + other), row)
        else:
            machine.write_page_tags(0, page, row.reshape(1, -1))
        assert (machine.read_page_tags(0, page) == value).all()
        assert machine.read_tags(DATA, 32)[0] in (0x06, 0x09)


@pytest.mark.parametrize("space", [Space.KERNEL, Space.USER])
def test_dump_of_virtual_addresses_has_the_guest_s_pages_whatever_the_machine_s(
    create: Callable[..., Machine], boot: Boot, space: Space, tmp_path: Path
) -> None:
    found = []
    for guest in (boot("paged"), RunningGuest(create, "paged")):
        guest.machine.resume()
        guest.wait_for("paged: granule", 1)
        said = dict(part.split("=") for part in guest.lines[0].split()[1:])
        window, pool, page = (int(said[name], 0) for name in ("window", "pool", "granule"))
        first = window if space is Space.KERNEL else pool + 7 * page

        save(guest.machine, tmp_path / "vm.core", SaveOptions(space=space))

        with open_core(tmp_path / "vm.core") as core:
            words = np.frombuffer(core.data(first, page).tobytes(), "<u8")[::2]
            tags = words >> np.uint64(56) & np.uint64(15)
            assert np.array_equal(unpack(core.tags(first, page)), tags)
            ranges = CorePages(core, tmp_path / "vm.core").memory.ranges
            found.append([(each.address, each.size_bytes, each.has_tags) for each in ranges])

    assert found[0] == found[1]


def test_guest_moves_live_and_through_a_snapshot(
    create: Callable[..., Machine],
    from_description: MachineBuilder,
    machine_name: str,
    opened: list[Machine],
    other: int,
    tmp_path: Path,
) -> None:
    calm = "working-set=1M write-rate=10 report=256"
    guest = RunningGuest(create, "churn", calm, vcpu_count=2)
    guest.machine.resume()
    guest.wait_for("progress", 2)
    listener = Listener()

    def build(description: MachineDescription, sources: object) -> Machine:
        del sources
        opened.append(KINDS[machine_name].from_description(description, console=listener.hear))
        return opened[-1]

    slowly = MigrationOptions(verify=True, max_downtime_s=60.0)
    arrived = move(guest.machine, from_description, slowly)
    arrived.pause()
    save(arrived, tmp_path / "vm.core")
    restored = restore(tmp_path / "vm.core", build).machine
    restored.resume()

    listener.wait_for("progress", 2)
    assert not listener.lines_with("FAIL")
    assert restored.description.page_size_bytes == other
