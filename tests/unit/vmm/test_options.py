"""What a VM's process is asked to run, and what an arriving machine must be."""

import pytest

from tagalong.errors import MachineMismatchError, UsageError
from tagalong.machine import Clock
from tagalong.vmm.options import ArrivingVm, ExpectedMachine, RunOptions
from tests.support.scripted_machine import DESCRIPTION


def test_expected_machine_that_fits_passes() -> None:
    ExpectedMachine(ram_bytes=0x100000, vcpu_count=2, max_ram_bytes=0x100000).check(DESCRIPTION)
    ExpectedMachine().check(DESCRIPTION)


def test_expected_machine_that_does_not_fit_is_a_mismatch() -> None:
    cases = {
        "has 1 MiB of RAM, more than --max-ram allows (0.5 MiB)": ExpectedMachine(
            max_ram_bytes=1 << 19
        ),
        "has 1 MiB of RAM, --ram says 2 MiB": ExpectedMachine(ram_bytes=0x200000),
        "has 2 vCPUs, --vcpus says 1": ExpectedMachine(vcpu_count=1),
    }

    for message, expected in cases.items():
        with pytest.raises(MachineMismatchError) as caught:
            expected.check(DESCRIPTION)
        assert str(caught.value) == f"the arriving machine {message}"


def test_arriving_vm_whose_memory_is_prepared_needs_its_size() -> None:
    with pytest.raises(UsageError, match=r"^--prealloc needs --ram"):
        ArrivingVm("tcp:host.example:1", prealloc=True)


@pytest.mark.parametrize("console", ["stdio", "pty", "unix:console.sock"])
def test_time_follows_the_host_if_the_console_takes_input_and_nothing_else_was_asked_for(
    console: str,
) -> None:
    origin = ArrivingVm("tcp:host.example:1")

    assert RunOptions(origin, console=console).clock_to_use is Clock.HOST
    asked = RunOptions(origin, console=console, clock=Clock.INSTRUCTIONS)
    assert asked.clock_to_use is Clock.INSTRUCTIONS


def test_time_is_the_machines_own_if_nobody_types() -> None:
    assert RunOptions(ArrivingVm("tcp:host.example:1")).clock_to_use is None
