"""Tag faults of guests, by their system registers and through their own tables."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tagalong.errors import TranslationError
from tagalong.explain.analysis import explain
from tagalong.explain.crash import CheckMode, Crash, CrashWorld, DataDirection, SourceKind
from tagalong.explain.explanation import Cause
from tagalong.explain.readers import open_crashes
from tagalong.machine import register_ids
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import SoftMachine
from tests.support import a64, bare, guest_core
from tests.support.bare import DATA, tagged
from tests.support.bare_program import BareProgram

FIRST, SECOND = tagged(DATA, 3), tagged(DATA + 32, 5)
TAG_BOTH = [a64.stg(1, 1), a64.stg(2, 2)]


def faulting(
    path: Path, words: Sequence[int], x: dict[int, int], mode: TagCheckMode = TagCheckMode.SYNC
) -> None:
    """Run a guest into its fault, and write its core."""
    program = BareProgram(SoftMachine.create, words, x, mode=mode).run()
    guest_core.write(program.machine, path)
    program.machine.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "guest.core"


def only(crashes: list[Crash]) -> Crash:
    (crash,) = crashes
    return crash


def test_fault_of_a_guests_kernel_is_explained_from_its_registers(path: Path) -> None:
    words = [a64.stg(1, 1), a64.stg(2, 2), a64.str_(0, 3)]
    x = {1: FIRST, 2: tagged(DATA + 16, 5), 3: FIRST + 16}
    faulting(path, words, x)

    with open_crashes(path) as crashes:
        found = explain(only(crashes))

    crash, top = found.crash, found.top
    assert (crash.source, crash.world) == (SourceKind.GUEST, CrashWorld.KERNEL)
    assert crash.fault.mode is CheckMode.SYNC
    assert (crash.fault.address, crash.fault.pointer_tag) == (DATA + 16, 3)
    assert crash.fault.memory_tag == 5
    assert crash.fault.direction is DataDirection.WRITE
    assert crash.access is not None
    assert (crash.access.pc, crash.access.base) == (bare.CODE + 8, "x3")
    assert top is not None
    assert (top.cause, top.distance_bytes) == (Cause.OVERFLOW, 0)
    assert top.block is not None
    assert (top.block.start, top.block.tag) == (DATA, 3)


def test_access_across_two_granules_is_the_one_that_faulted_in_the_second(path: Path) -> None:
    words = [a64.stg(1, 1), a64.stg(2, 2), a64.str_(0, 3)]
    faulting(path, words, {1: FIRST, 2: tagged(DATA + 16, 5), 3: FIRST + 12})

    with open_crashes(path) as crashes:
        crash = only(crashes)

    assert crash.fault.address is not None
    assert DATA + 12 <= crash.fault.address < DATA + 20
    assert crash.access is not None
    assert (crash.access.base, crash.notes) == ("x3", ())


def test_registers_that_the_handler_changed_leave_the_place_alone(path: Path) -> None:
    """The instruction at ELR_EL1 is another one by now, too: it is not shown as the access."""
    words = [a64.stg(1, 1), a64.stg(2, 2), a64.str_(0, 3)]
    program = BareProgram(
        SoftMachine.create, words, {1: FIRST, 2: tagged(DATA + 16, 5), 3: FIRST + 16}
    ).run()
    state = program.machine.save_state()
    (vcpu,) = state.vcpus
    registers = {**vcpu.registers, register_ids.x(3): 0}
    program.machine.load_state(replace(state, vcpus=(replace(vcpu, registers=registers),)))
    guest_core.write(program.machine, path)
    program.machine.close()

    with open_crashes(path) as crashes:
        crash = only(crashes)

    assert crash.fault.address == DATA + 16
    assert crash.access is None
    assert "the handler has changed them" in crash.notes[0]


def test_asynchronous_fault_of_a_guest_has_no_place(path: Path) -> None:
    words = [a64.stg(1, 1), a64.str_(0, 2)]
    faulting(path, words, {1: FIRST, 2: tagged(DATA, 9)}, TagCheckMode.ASYNC)

    with open_crashes(path) as crashes:
        found = explain(only(crashes))

    assert found.crash.fault.mode is CheckMode.ASYNC
    assert "TFSR_EL1" in found.crash.fault.reason
    assert found.top is not None
    assert found.top.cause is Cause.ASYNCHRONOUS


def test_guest_without_a_fault_says_so(path: Path) -> None:
    faulting(path, [a64.stg(1, 1)], {1: FIRST})

    with open_crashes(path) as crashes:
        found = explain(only(crashes))

    assert found.crash.fault.mode is CheckMode.NONE
    assert found.top is None
    assert found.crash.notes == ("No vCPU's last exception was a tag check fault.",)


def test_address_space_of_a_guest_is_all_that_its_tables_map(path: Path) -> None:
    words = [*TAG_BOTH, a64.str_(0, 3)]
    faulting(path, words, {1: FIRST, 2: SECOND, 3: FIRST + 32})

    with open_crashes(path) as crashes:
        memory = only(crashes).memory
        (here,) = [each for each in memory.address_space if each.address <= DATA < each.end]
        size = min(here.size_bytes, 1 << 20)
        whole = memory.tags(here.address, size)
        parts = [memory.tags(here.address + at, 1 << 16) for at in range(0, size, 1 << 16)]
        stored = [*memory.stored_tags(here.address, here.end)]

    assert here.has_tags
    assert here.size_bytes > 256 << 10  # more than what is looked at around a place
    assert np.array_equal(whole, np.concatenate(parts))
    assert whole[(DATA - here.address) // 16] == 3
    assert any(low <= DATA < high for low, high in stored)


def test_tables_of_a_guest_that_make_no_sense_map_what_was_looked_at(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulting(path, [*TAG_BOTH, a64.str_(0, 3)], {1: FIRST, 2: SECOND, 3: FIRST + 32})

    def refuse(*_: object) -> None:
        raise TranslationError("the tables are not those of a working guest")

    monkeypatch.setattr("tagalong.explain.guest.walk", refuse)
    with open_crashes(path) as crashes:
        memory = only(crashes).memory
        assert memory.address_space == memory.extents
        assert [*memory.stored_tags(DATA, DATA + 4096)] == [(DATA, DATA + 4096)]
