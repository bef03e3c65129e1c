"""The same seed gives the same run: a Linux guest of two vCPUs, from its boot to its power-off.

Timers, SGIs and the console's interrupts decide what that guest does. One of two runs is paused
and looked at again and again, which must change nothing. Only the embedded machine promises this.
"""

from contextlib import closing
from dataclasses import dataclass

import pytest

from tagalong.boot.linux import LINUX_CONSOLE, LINUX_GIC, LinuxBoot, boot_linux, entropy_of
from tagalong.machine import MachinePages, RunState
from tagalong.migrate import memory_digest
from tagalong.soft import SoftMachine
from tests.support.linux_guest import linux_guest
from tests.support.running_guest import MIB, Listener

TIMEOUT_S = 900.0
WORDS = "console=ttyAMA0 quiet cryptomgr.notests -- tagkeeper mib=1 threads=2 seconds=1"
VCPUS = 2


@dataclass(frozen=True)
class Run:
    """What a run left behind."""

    console: list[str]
    instructions: list[int]
    digest: bytes


def run_to_the_end(seed: int, *, turn_s: float) -> Run:
    """Run the guest, in turns of `turn_s` with a look at its state after each."""
    kernel, initrd = linux_guest()
    console = Listener()
    description = SoftMachine.describe(
        ram_bytes=128 * MIB, vcpu_count=VCPUS, devices=(LINUX_CONSOLE,), gic=LINUX_GIC
    )
    with closing(SoftMachine(description, seed=seed, console=console.hear)) as machine:
        boot_linux(machine, LinuxBoot(kernel, initrd, WORDS, entropy_of(seed)))
        machine.resume()
        while machine.wait(turn_s) is RunState.RUNNING:
            machine.pause()
            machine.peek_state()
            machine.resume()
        assert machine.run_state is RunState.SHUTDOWN, machine.failure
        return Run(
            console.lines,
            [vcpu.instructions for vcpu in machine.vcpus],
            memory_digest(MachinePages(machine), lambda: None, has_tags=True),
        )


@pytest.mark.timeout(TIMEOUT_S)
def test_linux_guest_of_two_vcpus_runs_the_same_again_with_pauses_and_without() -> None:
    first, second = (run_to_the_end(7, turn_s=turn_s) for turn_s in (TIMEOUT_S / 3, 0.05))

    assert first == second
    assert any("tagkeeper: progress" in line for line in first.console)
    assert min(first.instructions) > 1_000_000
