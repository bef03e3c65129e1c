"""A debugger in a Linux guest: breakpoints of both kinds, watchpoints, and single steps.

On the embedded machine: on the lab's KVM the child runs on after a watchpoint, and it is not known
why.
"""

from pathlib import Path

import pytest

from tagalong.boot.linux import LINUX_CONSOLE, LINUX_GIC, LinuxBoot, boot_linux
from tagalong.machine import Machine, RunState
from tagalong.soft import SoftMachine
from tests.support.linux_guest import linux_guest_with
from tests.support.running_guest import MIB, Listener

TIMEOUT_S = 600.0
WORDS = "console=ttyAMA0 quiet cryptomgr.notests -- debugger"
FOUND = (
    "debugger: breakpoint, 303 steps",
    "debugger: hardware breakpoint, 1 of ",
    "debugger: watchpoints, 1 of ",
    "debugger: PASS",
)


@pytest.mark.timeout(TIMEOUT_S)
def test_debugger_stops_where_it_asked_and_steps_one_instruction_at_a_time(
    opened: list[Machine], tmp_path: Path
) -> None:
    kernel, initrd = linux_guest_with(tmp_path, {}, ["debugger"])
    console = Listener()
    description = SoftMachine.describe(ram_bytes=128 * MIB, devices=(LINUX_CONSOLE,), gic=LINUX_GIC)
    machine = SoftMachine.from_description(description, console=console.hear)
    opened.append(machine)
    boot_linux(machine, LinuxBoot(kernel, initrd, WORDS))

    machine.resume()
    state = machine.wait(TIMEOUT_S)

    said = console.lines_with("debugger:")
    assert state is RunState.SHUTDOWN, machine.failure
    assert len(said) == len(FOUND), console.lines[-10:]
    assert [
        line for line, start in zip(said, FOUND, strict=True) if not line.startswith(start)
    ] == []
