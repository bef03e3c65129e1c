"""Stopping a guest for a migration or a snapshot, and whether it ran."""

import pytest

from tagalong.errors import RunStateError
from tagalong.machine import MachineFreezer
from tests.support.scripted_machine import ScriptedMachine


def test_freeze_running_guest_pauses_it_and_thaw_resumes_it() -> None:
    machine = ScriptedMachine()
    machine.resume()
    freezer = MachineFreezer(machine)

    assert freezer.freeze() is True
    assert machine.calls == ["resume", "pause"]
    freezer.thaw()

    assert machine.calls == ["resume", "pause", "resume"]


def test_freeze_paused_guest_says_so_and_thaw_leaves_it_paused() -> None:
    machine = ScriptedMachine()
    freezer = MachineFreezer(machine)

    assert freezer.freeze() is False
    freezer.thaw()

    assert machine.calls == ["pause"]


def test_thaw_twice_resumes_once() -> None:
    machine = ScriptedMachine()
    machine.resume()
    freezer = MachineFreezer(machine)
    freezer.freeze()
    freezer.thaw()
    machine.pause()

    freezer.thaw()

    assert machine.calls == ["resume", "pause", "resume", "pause"]


def test_freeze_guest_that_ended_is_an_error_with_the_failure_as_its_cause() -> None:
    machine, failure = ScriptedMachine(), RuntimeError("broken")
    machine.resume()
    machine.fail(failure)

    message = r"^the guest ended \(internal-error\) before it was stopped$"
    with pytest.raises(RunStateError, match=message) as caught:
        MachineFreezer(machine).freeze()

    assert caught.value.__cause__ is failure
