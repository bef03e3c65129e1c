"""Machines by name, and what arriving machines are held against."""

import pytest

from tagalong.errors import MachineMismatchError, UsageError
from tagalong.machine import MachineDescription
from tagalong.vmm import factory
from tagalong.vmm.factory import build_arriving, check_description, machine_factory
from tests.support.scripted_machine import DESCRIPTION, ScriptedMachine


def test_machine_factory_unknown_name_raises_and_lists() -> None:
    with pytest.raises(
        UsageError, match=r"^no machine is called 'hard'; there is auto, kvm, soft$"
    ):
        machine_factory("hard")


def test_check_description_that_fits_passes() -> None:
    check_description(DESCRIPTION, ram_bytes=0x100000, vcpu_count=2, max_ram_bytes=0x100000)
    check_description(DESCRIPTION, ram_bytes=None, vcpu_count=None, max_ram_bytes=1 << 40)


@pytest.mark.parametrize(
    ("ram_bytes", "vcpu_count", "max_ram_bytes", "message"),
    [
        (None, None, 0xFFFFF, "has 0x100000 bytes of RAM, more than --max-ram allows (0xfffff)"),
        (0x200000, None, 1 << 40, "has 0x100000 bytes of RAM, --ram says 0x200000"),
        (None, 1, 1 << 40, "has 2 vCPUs, --vcpus says 1"),
    ],
)
def test_check_description_that_does_not_fit_raises(
    ram_bytes: int | None, vcpu_count: int | None, max_ram_bytes: int, message: str
) -> None:
    with pytest.raises(MachineMismatchError) as caught:
        check_description(
            DESCRIPTION, ram_bytes=ram_bytes, vcpu_count=vcpu_count, max_ram_bytes=max_ram_bytes
        )

    assert str(caught.value) == f"the arriving machine {message}"


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
        build_arriving("soft", DESCRIPTION, None)
