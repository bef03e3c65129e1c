"""A device beside the console: its windows, its stores to RAM, its interrupts, its state."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from tagalong.errors import (
    MachineError,
    MachineMismatchError,
    RestoreError,
    RunStateError,
    StateError,
)
from tagalong.machine import Machine, MachineDescription, RunState, register_ids
from tagalong.memory import Gpa
from tagalong.migrate import MigrationOptions
from tagalong.snapshot import restore, save
from tagalong.soft import RAM_GPA
from tests.conformance.conftest import KINDS
from tests.support import a64, bare
from tests.support.bare_program import RAM_BYTES, BareProgram
from tests.support.move import move
from tests.support.storing_device import (
    ACK,
    BYTES,
    COUNT,
    DESCRIPTION,
    DEVICES,
    FAULT,
    GO,
    GPA,
    MODELS,
    PAGE,
    PAGES,
    SECOND_GPA,
    SECOND_ID,
    START,
    described,
)

Make = Callable[..., BareProgram]

RAM = RAM_GPA
TARGET = RAM + 0x10_0000
X = {1: TARGET, 2: GPA, 4: 16, 6: SECOND_GPA}
SETUP = [a64.str_(1, 2, START), a64.str_(4, 2, PAGES)]
STORE = a64.str_(4, 2, GO)
UNMASK_IRQ = a64.msr_imm(3, 7, 2)
WFI = a64.hint(3)
SYNC_EXTERNAL_ABORT = 0x10


@pytest.fixture
def make(machine_name: str, opened: list[Machine]) -> Make:
    """Return what makes a machine with the storing device and a few instructions in it."""

    def create(words: Sequence[int], x: dict[int, int] | None = None) -> BareProgram:
        creator = partial(KINDS[machine_name].create, devices=DEVICES, models=MODELS)
        program = BareProgram(creator, words, X if x is None else x)
        opened.append(program.machine)
        return program

    return create


def test_windows_of_a_device_are_told_apart(make: Make) -> None:
    program = make([*SETUP, STORE, a64.ldr(8, 2, COUNT), a64.ldr(9, 6)]).run()

    assert program.has_ended
    assert (program.x(8), program.x(9)) == (1, SECOND_ID)


def test_access_that_no_device_takes_aborts_the_guest(make: Make) -> None:
    beyond, below = {2: GPA + BYTES}, {2: GPA - 8}
    cases: dict[str, tuple[int, dict[int, int]]] = {
        "after the window, in its page": (a64.ldr(8, 2), beyond),
        "before the window, in its page": (a64.str_(8, 2), below),
        "a byte, which the device does not take": (a64.ldst(a64.LDRB, 8, 2), {2: GPA}),
        "far from any device": (a64.ldr(8, 2), {2: 0x0F00_0000}),
    }

    found = {}
    for name, (word, x) in cases.items():
        program = make([word], x).run()
        found[name] = program.has_ended, program.esr & 0x3F, program.far

    assert found == {name: (False, SYNC_EXTERNAL_ABORT, x[2]) for name, (_, x) in cases.items()}


def test_dirty_log_has_the_pages_that_a_device_stored_to(make: Make, page: int) -> None:
    program = make([*SETUP, STORE, STORE, STORE, a64.b(0)])
    machine = program.machine
    machine.start_dirty_log()

    program.run_to_loop()
    stored = machine.harvest_dirty_log()[0]

    pages = [(TARGET - RAM + number * PAGE) // page for number in range(5)]
    assert all(number in stored for number in pages[1:4])
    assert pages[4] not in stored
    assert machine.harvest_dirty_log()[0].count() == 0
    assert machine.memory.read(Gpa(TARGET + 3 * PAGE), 1) == b"\3"


def test_pages_that_a_device_stores_to_during_a_migration_arrive(
    make: Make, machine_name: str, opened: list[Machine]
) -> None:
    program = make([*SETUP, STORE, a64.b(-4)])
    program.machine.resume()
    for _ in range(3000):
        if stores_of(program.machine) > 16:
            break
        program.machine.wait(0.02)

    def build(description: MachineDescription) -> Machine:
        opened.append(KINDS[machine_name].from_description(description, models=MODELS))
        return opened[-1]

    # Slow, so that the device stores to pages that were sent; verified, so that none is lost.
    slowly = MigrationOptions(verify=True, max_bandwidth=1 << 18, max_downtime_s=60.0)
    before = stores_of(program.machine)
    arrived = move(program.machine, build, slowly)
    arrived.pause()

    assert arrived.description.devices == DEVICES
    count = stores_of(program.machine)
    assert count > before + 16
    place = Gpa(TARGET + count % 16 * PAGE)
    sent = int.from_bytes(program.machine.memory.read(place, 8), "little")
    there = int.from_bytes(arrived.memory.read(place, 8), "little")
    assert sent == count
    assert there >= count  # the guest has run on


def test_migration_to_a_machine_without_the_device_is_refused_by_name(
    make: Make, machine_name: str
) -> None:
    program = make([*SETUP, a64.b(0)])
    program.machine.resume()

    with pytest.raises(MachineMismatchError, match="device 'storer0' is of kind 'storer': this"):
        move(program.machine, KINDS[machine_name].from_description)

    assert program.machine.run_state is RunState.RUNNING


def test_snapshot_carries_the_device_and_its_pending_interrupt(
    make: Make, machine_name: str, opened: list[Machine], tmp_path: Path
) -> None:
    program = interrupted(make, [*SETUP, STORE, a64.b(0), UNMASK_IRQ, a64.cbz(22, 0)])
    program.run_to_loop(at=3)
    save(program.machine, tmp_path / "vm.core")
    kind = KINDS[machine_name]

    restored = restore(
        tmp_path / "vm.core",
        lambda description, sources: kind.from_description(
            description, sources=sources, models=MODELS
        ),
    ).machine
    opened.append(restored)
    restored.vcpus[0].set_register(register_ids.PC, bare.CODE + 4 * 4)
    restored.resume()

    assert restored.wait(30) is RunState.SHUTDOWN
    assert [bare.get_x(restored, number) for number in (19, 22, 23)] == [1, 1, 0]
    assert restored.description.devices == DEVICES
    with pytest.raises(RestoreError, match="device 'storer0' is of kind 'storer': this machine"):
        restore(
            tmp_path / "vm.core",
            lambda description, sources: kind.from_description(description, sources=sources),
        )


def test_device_that_raises_fails_the_machine_and_is_named(make: Make) -> None:
    program = make([*SETUP, a64.str_(4, 2, FAULT), a64.b(0)])
    machine = program.machine

    machine.resume()

    assert machine.wait(30) is RunState.FAILED
    assert str(machine.failure) == "a device of the machine failed: ValueError('a bug here')"
    assert isinstance(machine.failure, MachineError)
    assert isinstance(machine.failure.__cause__, ValueError)
    with pytest.raises(RunStateError, match="its state is 'internal-error', which is final"):
        machine.resume()
    machine.pause()
    assert machine.run_state is RunState.FAILED


def stores_of(machine: Machine) -> int:
    """Return how often the device has stored so far."""
    state = machine.peek_state().devices[DESCRIPTION.name]
    return int.from_bytes(state[16:24], "little")


def interrupted(make: Make, words: Sequence[int]) -> BareProgram:
    """Return a program whose IRQ handler counts in x22, acknowledges and returns."""
    program = make(words, {**X, 22: 0})
    handler = [a64.add_imm(22, 22, 1), a64.str_(4, 2, ACK), a64.ldr(23, 2, ACK), a64.eret()]
    vector = Gpa(bare.CURRENT_EL_VECTOR + 0x80)
    program.machine.memory.write(vector, bare.encoded(handler))
    return program


def test_interrupt_of_a_device_is_taken_and_ends_wfi(make: Make) -> None:
    # Masked, an interrupt ends WFI and is not taken: so it cannot come too early for WFI.
    program = interrupted(make, [*SETUP, STORE, WFI, UNMASK_IRQ, a64.cbz(22, 0)]).run()

    assert program.has_ended
    assert (program.x(22), program.x(23)) == (1, 0)


def test_interrupt_that_is_pending_travels_with_the_device(
    make: Make, machine_name: str, opened: list[Machine]
) -> None:
    program = interrupted(make, [*SETUP, STORE, a64.b(0), UNMASK_IRQ, a64.cbz(22, 0)])
    program.run_to_loop(at=3)
    machine = program.machine
    other = KINDS[machine_name].from_description(machine.description, models=MODELS)
    opened.append(other)
    other.memory.write(Gpa(RAM), machine.memory.view(Gpa(RAM), RAM_BYTES))
    other.load_state(machine.save_state())
    other.vcpus[0].set_register(register_ids.PC, bare.CODE + 4 * 4)

    other.resume()

    assert other.wait(30) is RunState.SHUTDOWN
    assert [bare.get_x(other, number) for number in (19, 22, 23)] == [1, 1, 0]


def test_state_of_other_devices_is_refused_by_name(
    make: Make, machine_name: str, opened: list[Machine]
) -> None:
    state = make([a64.b(0)]).machine.save_state()
    creator = KINDS[machine_name].create
    plain = creator(ram_bytes=RAM_BYTES)
    more = creator(ram_bytes=RAM_BYTES, devices=(*DEVICES, described(1)), models=MODELS)
    opened.extend((plain, more))

    with pytest.raises(StateError, match="the state has a device 'storer0', which this machine"):
        plain.check_state(state)
    with pytest.raises(StateError, match="the state has no device 'storer1', which this machine"):
        more.load_state(state)
