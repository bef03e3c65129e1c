"""Who may let the guest run during a handover."""

import pytest

from tagalong.errors import RunStateError
from tagalong.machine import MachineState, RunState
from tagalong.vmm.handover import GatedMachine, HandoverGate, Purpose
from tests.support.scripted_machine import ScriptedMachine


class Calls:
    """Counts calls and keeps what they were made with."""

    def __init__(self) -> None:
        self.arguments: list[object] = []

    @property
    def times(self) -> int:
        return len(self.arguments)

    def __call__(self, *arguments: object) -> None:
        self.arguments += arguments or (None,)


@pytest.fixture
def machine() -> ScriptedMachine:
    return ScriptedMachine()


@pytest.fixture
def frozen() -> Calls:
    return Calls()


@pytest.fixture
def thawed() -> Calls:
    return Calls()


@pytest.fixture
def gate(machine: ScriptedMachine, frozen: Calls, thawed: Calls) -> HandoverGate:
    return HandoverGate(machine, on_freeze=frozen, on_thaw=thawed)


def test_freeze_running_machine_stops_it_and_tells(
    gate: HandoverGate, machine: ScriptedMachine, frozen: Calls
) -> None:
    gate.resume()

    gate.freeze()

    assert machine.run_state is RunState.PAUSED
    assert frozen.times == 1


def test_resume_while_frozen_is_refused_and_the_guest_stands(
    gate: HandoverGate, machine: ScriptedMachine
) -> None:
    gate.freeze()

    with pytest.raises(RunStateError, match=r"^Migration is not finalized yet$"):
        gate.resume()

    assert machine.run_state is RunState.PAUSED


def test_resume_while_frozen_to_be_saved_is_refused_with_the_reason(
    machine: ScriptedMachine, gate: HandoverGate, frozen: Calls
) -> None:
    GatedMachine(machine, gate, Purpose.SAVING).pause()

    with pytest.raises(RunStateError, match=r"^the VM is being saved: it goes on by itself"):
        gate.resume()

    assert frozen.arguments == [Purpose.SAVING]


def test_thaw_guest_that_ran_runs_again(
    gate: HandoverGate, machine: ScriptedMachine, thawed: Calls
) -> None:
    gate.resume()
    gate.freeze()

    gate.thaw()

    assert machine.run_state is RunState.RUNNING
    assert machine.calls == ["resume", "pause", "resume"]
    assert thawed.times == 1


def test_thaw_guest_that_was_paused_stays_paused(
    gate: HandoverGate, machine: ScriptedMachine, thawed: Calls
) -> None:
    gate.freeze()

    gate.thaw()

    assert machine.calls == ["pause"]
    assert thawed.times == 1


def test_thaw_after_stop_in_between_stays_paused(
    gate: HandoverGate, machine: ScriptedMachine
) -> None:
    gate.resume()
    gate.freeze()
    gate.pause()

    gate.thaw()

    assert machine.run_state is RunState.PAUSED


def test_thaw_without_freeze_leaves_a_running_guest_alone(
    gate: HandoverGate, machine: ScriptedMachine, thawed: Calls
) -> None:
    gate.resume()

    gate.thaw()

    assert machine.calls == ["resume"]
    assert thawed.times == 0


def test_thaw_twice_resumes_once(
    gate: HandoverGate, machine: ScriptedMachine, thawed: Calls
) -> None:
    gate.resume()
    gate.freeze()
    gate.thaw()
    gate.pause()

    gate.thaw()

    assert machine.calls == ["resume", "pause", "resume", "pause"]
    assert thawed.times == 1


@pytest.mark.parametrize(
    ("end", "word"),
    [
        (ScriptedMachine.power_off, "shutdown"),
        (lambda machine: machine.fail(RuntimeError()), "internal-error"),
    ],
)
def test_freeze_machine_that_ended_is_refused(
    gate: HandoverGate, machine: ScriptedMachine, frozen: Calls, end: object, word: str
) -> None:
    gate.resume()
    assert callable(end)
    end(machine)

    with pytest.raises(RunStateError, match=f"^the guest reached {word} before it was stopped$"):
        gate.freeze()

    assert frozen.times == 0


def test_migrating_machine_stop_and_go_pass_the_gate(
    gate: HandoverGate, machine: ScriptedMachine, frozen: Calls
) -> None:
    migrating = GatedMachine(machine, gate)
    gate.resume()

    migrating.pause()

    assert (migrating.run_state, frozen.times) == (RunState.PAUSED, 1)
    migrating.resume()
    assert migrating.run_state is RunState.RUNNING


def test_migrating_machine_everything_else_is_the_machines_own(
    gate: HandoverGate, machine: ScriptedMachine
) -> None:
    migrating = GatedMachine(machine, gate)

    assert migrating.description is machine.description
    assert migrating.vcpus == machine.vcpus
    assert migrating.failure is None
    assert migrating.wait(0) is RunState.PAUSED
    for name in (
        "populated_pages",
        "start_dirty_log",
        "harvest_dirty_log",
        "stop_dirty_log",
        "peek_state",
        "save_state",
    ):
        with pytest.raises(NotImplementedError):
            getattr(migrating, name)()
    with pytest.raises(NotImplementedError):
        migrating.check_state(MachineState(()))
    migrating.close()
    assert machine.closed
