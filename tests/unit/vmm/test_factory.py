"""Machines by name."""

import pytest

from tagalong.errors import MachineMismatchError, UsageError
from tagalong.machine import MachineDescription
from tagalong.vmm import factory
from tagalong.vmm.factory import build_arriving, machine_factory
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
