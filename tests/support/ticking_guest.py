"""The guest `ticks` on a machine with a GICv3, and what a state shows of its interrupts."""

import mmap
from collections.abc import Callable
from typing import Any

from tagalong.machine import (
    DEFAULT_CONSOLE,
    DeviceDescription,
    GicState,
    Machine,
    MachineDescription,
    MachineState,
    RegionDescription,
    RunState,
)
from tagalong.machine.gic import VIRTUAL_TIMER_INTID
from tests.support.gic_state import GIC
from tests.support.running_guest import MIB, RunningGuest

UART_INTID = 33
# The rarest moment, a due timer, shows in one turn of a hundred: 400 were too few now and then.
TRIES = 4000
CONSOLE = DeviceDescription(
    DEFAULT_CONSOLE.name,
    DEFAULT_CONSOLE.kind,
    DEFAULT_CONSOLE.gpa,
    DEFAULT_CONSOLE.size_bytes,
    UART_INTID,
)
RAM = RegionDescription(0x4000_0000, 32 * MIB)

_SGI_FRAME = 0x1_0000
_ISPENDR0 = _SGI_FRAME + 0x200
_ISACTIVER0 = _SGI_FRAME + 0x300


def described(vcpu_count: int) -> MachineDescription:
    """Return a machine with a GIC, to which the console's interrupt goes."""
    return MachineDescription(mmap.PAGESIZE, vcpu_count, 3, (RAM,), (CONSOLE,), GIC)


def ticking(
    make: Callable[..., Machine], command_line: str, *, vcpu_count: int = 2
) -> RunningGuest:
    """Return the guest, booted and paused; `make` builds the machine that is described."""

    def create(**options: Any) -> Machine:
        return make(described(vcpu_count), seed=options["seed"], console=options["console"])

    return RunningGuest(create, "ticks", command_line, vcpu_count=vcpu_count)


def gic_of(state: MachineState) -> GicState:
    assert state.gic is not None
    return state.gic


def has_active_interrupt(state: MachineState) -> bool:
    """Return whether a vCPU is in the handler of an SGI or a PPI."""
    return any(registers[_ISACTIVER0] for registers in gic_of(state).redistributors)


def has_pending_sgi(state: MachineState) -> bool:
    """Return whether an SGI waits to be taken: a latch is set."""
    return any(registers[_ISPENDR0] for registers in gic_of(state).redistributors)


def has_due_timer(state: MachineState) -> bool:
    """Return whether a timer asserts its interrupt: a level is high."""
    return any(level >> VIRTUAL_TIMER_INTID & 1 for level in gic_of(state).ppi_levels)


def pause_in(machine: Machine, moment: Callable[[MachineState], bool]) -> MachineState:
    """Let the machine run in short turns until its state is in a `moment`; it is paused then."""
    for _ in range(TRIES):
        machine.resume()
        machine.wait(0.01)
        machine.pause()
        assert machine.run_state is RunState.PAUSED, machine.failure
        if moment(state := machine.save_state()):
            return state
    raise AssertionError(f"no such moment in {TRIES} turns")
