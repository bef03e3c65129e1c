"""Who may let the guest run during a handover."""

import threading

import pytest

from tagalong.errors import RunStateError
from tagalong.machine import RunState
from tagalong.vmm.handover import FreezePurpose, GatedFreezer, HandoverGate
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

    gate.freeze(FreezePurpose.MIGRATION)

    assert machine.run_state is RunState.PAUSED
    assert frozen.times == 1


def test_resume_while_frozen_is_refused_and_the_guest_stands(
    gate: HandoverGate, machine: ScriptedMachine
) -> None:
    gate.freeze(FreezePurpose.MIGRATION)

    with pytest.raises(RunStateError, match=r"^Migration is not finalized yet$"):
        gate.resume()

    assert machine.run_state is RunState.PAUSED


def test_resume_while_frozen_to_be_saved_is_refused_with_the_reason(
    gate: HandoverGate, frozen: Calls
) -> None:
    gate.freeze(FreezePurpose.SAVING)

    with pytest.raises(RunStateError, match=r"^the VM is being saved: it continues by itself"):
        gate.resume()

    assert frozen.arguments == [FreezePurpose.SAVING]


def test_thaw_guest_that_ran_runs_again(
    gate: HandoverGate, machine: ScriptedMachine, thawed: Calls
) -> None:
    gate.resume()
    gate.freeze(FreezePurpose.MIGRATION)

    gate.thaw()

    assert machine.run_state is RunState.RUNNING
    assert machine.calls == ["resume", "pause", "resume"]
    assert thawed.times == 1


def test_thaw_guest_that_was_paused_stays_paused(
    gate: HandoverGate, machine: ScriptedMachine, thawed: Calls
) -> None:
    gate.freeze(FreezePurpose.MIGRATION)

    gate.thaw()

    assert machine.calls == ["pause"]
    assert thawed.times == 1


def test_pause_while_frozen_for_a_migration_is_refused_and_changes_nothing(
    gate: HandoverGate, machine: ScriptedMachine
) -> None:
    gate.resume()
    gate.freeze(FreezePurpose.MIGRATION)

    with pytest.raises(RunStateError, match=r"^Migration is not finalized yet: .*stop it there"):
        gate.pause()
    gate.thaw()

    assert machine.run_state is RunState.RUNNING


def test_thaw_after_stop_while_the_vm_was_saved_stays_paused(
    gate: HandoverGate, machine: ScriptedMachine
) -> None:
    gate.resume()
    gate.freeze(FreezePurpose.SAVING)
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
    gate.freeze(FreezePurpose.MIGRATION)
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

    with pytest.raises(RunStateError, match=rf"^the guest ended \({word}\) before it was stopped$"):
        gate.freeze(FreezePurpose.MIGRATION)

    assert frozen.times == 0


def test_freezer_tells_whether_the_guest_ran(gate: HandoverGate, frozen: Calls) -> None:
    freezer = GatedFreezer(gate, FreezePurpose.MIGRATION)

    assert not freezer.freeze()
    freezer.thaw()
    gate.resume()
    assert freezer.freeze()

    assert frozen.arguments == [FreezePurpose.MIGRATION] * 2


def test_stop_while_the_guest_is_being_frozen_is_refused_and_never_lost() -> None:
    """Whether the guest ran is read under the lock: a `stop` is before the freeze, or refused."""
    outcomes: list[str] = []

    class StoppedMeanwhile(ScriptedMachine):
        def pause(self) -> None:
            operator.start()
            operator.join(0.05)  # it waits for the lock, and must not get it here
            super().pause()

    def stop() -> None:
        try:
            gate.pause()
        except RunStateError as refusal:
            outcomes.append(str(refusal))

    machine = StoppedMeanwhile()
    gate = HandoverGate(machine, on_freeze=lambda _: None, on_thaw=lambda: None)
    operator = threading.Thread(target=stop)
    gate.resume()

    ran = gate.freeze(FreezePurpose.MIGRATION)
    operator.join()

    assert ran
    assert "whether it runs at the destination is decided" in outcomes[0]
    assert machine.calls == ["resume", "pause"]
