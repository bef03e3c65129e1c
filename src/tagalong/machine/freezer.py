"""The one thing about stopping a guest that a migration or a snapshot must not do by itself.

While a machine is handed over or saved, somebody else may start and stop it: an operator, by the
control socket. `Machine.pause` alone says nothing about that: between a look at `run_state` and the
pause an operator's `stop` would be lost, and an operator's `cont` after it would let the guest run
on both sides. So a migration and a snapshot get, beside the Machine, a Freezer: it stops the guest
and tells whether it ran as one step, and from then on only `thaw` lets it run again.
"""

from typing import Protocol

from tagalong.errors import RunStateError
from tagalong.machine.protocols import Machine
from tagalong.machine.state import RunState


class Freezer(Protocol):
    """Stops and restarts the guest of one machine on behalf of one migration or snapshot."""

    def freeze(self) -> bool:
        """Pause the guest and return whether it ran until then.

        Raises RunStateError if it powered off or failed: there is nothing to hand over then.
        """
        ...

    def thaw(self) -> None:
        """Undo `freeze`: the guest runs again if it ran. Without a `freeze` before, does nothing.

        Raises MachineError if the machine cannot resume.
        """
        ...


class MachineFreezer:
    """Freezes a machine that no operator starts or stops meanwhile."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._must_resume = False

    def freeze(self) -> bool:
        """As Freezer.freeze."""
        ran = self._machine.run_state is RunState.RUNNING
        self._machine.pause()
        require_paused(self._machine)
        self._must_resume = ran
        return ran

    def thaw(self) -> None:
        """As Freezer.thaw."""
        if self._must_resume:
            self._must_resume = False
            self._machine.resume()


def require_paused(machine: Machine) -> None:
    """Raise RunStateError unless `machine` is paused: its guest ended before the pause."""
    state = machine.run_state
    if state is not RunState.PAUSED:
        raise RunStateError(
            f"the guest ended ({state.value}) before it was stopped"
        ) from machine.failure
