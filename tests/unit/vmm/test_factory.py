"""Machines by name."""

import pytest

from tagalong.errors import MachineMismatchError, RunStateError, UsageError
from tagalong.machine import Clock, MachineDescription
from tagalong.soft import SoftMachine
from tagalong.vmm import factory
from tagalong.vmm.factory import build_arriving, machine_factory, use_clock
from tests.support.scripted_machine import DESCRIPTION, ScriptedMachine


def test_machine_factory_unknown_name_raises_and_lists() -> None:
    with pytest.raises(
        UsageError, match=r"^no machine is called 'hard'; there is auto, kvm, soft$"
    ):
        machine_factory("hard")


def test_build_arriving_machine_that_cannot_be_is_a_mismatch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refusing:
        @staticmethod
        def from_description(description: MachineDescription, **_: object) -> ScriptedMachine:
            raise UsageError(f"page size {description.page_size_bytes}")

    monkeypatch.setattr(factory, "machine_factory", lambda _: Refusing)

    with pytest.raises(
        MachineMismatchError, match=r"^machine 'soft' cannot hold the VM: page size 4096$"
    ):
        build_arriving("soft", DESCRIPTION, {})


def test_use_clock_sets_the_clock_of_a_machine_until_it_is_closed() -> None:
    machine = SoftMachine.create(ram_bytes=4096)

    for clock in Clock:
        use_clock(machine, clock)
    machine.close()

    with pytest.raises(RunStateError):
        use_clock(machine, Clock.HOST)
