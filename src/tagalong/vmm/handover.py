"""Decides who may let the guest run while a migration hands it over, or while it is saved.

Two parties start and stop the machine: the operator, with `stop` and `cont`, in the event
loop's thread, and a migration or a snapshot, which freezes the guest for its last pages, in
its own thread. A `cont` between the two would let the guest run on both sides, or change what
is being saved; a `stop` between a look at the run state and the freeze would be lost at the
destination. So both go through one lock. Once the guest is frozen, only the end of the migration
or the snapshot thaws it.

What an operator's `stop` means while the guest is frozen depends on the purpose. A snapshot ends
here, so `stop` counts afterwards. A migration may end at the destination, and the flag that says
whether the guest runs there may be on its way already: a `stop` that was answered with success and
then ignored would be a lie, so it is refused.
"""

import threading
from collections.abc import Callable
from enum import Enum

from tagalong.errors import RunStateError
from tagalong.machine import Machine, RunState, require_paused


class FreezePurpose(Enum):
    """What the guest is frozen for; the value says why it cannot run now."""

    MIGRATION = "Migration is not finalized yet"
    SAVING = "the VM is being saved: it continues by itself if it ran"


_STOP_REFUSED = (
    "Migration is not finalized yet: the guest is paused for its last pages, and whether it runs "
    "at the destination is decided; stop it there, or cancel the migration (migrate_cancel)"
)


class HandoverGate:
    """Starts and stops a machine on behalf of the operator, a migration and a snapshot.

    `on_freeze` is called after the guest was paused, `on_thaw` when that was undone; both in the
    thread of the migration or the snapshot.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        on_freeze: Callable[[FreezePurpose], None],
        on_thaw: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._on_freeze = on_freeze
        self._on_thaw = on_thaw
        self._lock = threading.Lock()
        self._frozen: FreezePurpose | None = None
        self._resume_on_thaw = False

    def resume(self) -> None:
        """Let the guest run, for the operator. Raises RunStateError while it is frozen."""
        with self._lock:
            if self._frozen is not None:
                raise RunStateError(self._frozen.value)
            self._machine.resume()

    def pause(self) -> RunState:
        """Pause the guest, for the operator; return the machine's state after that.

        Raises RunStateError while the guest is frozen for a migration: see above.
        """
        with self._lock:
            if self._frozen is FreezePurpose.MIGRATION:
                raise RunStateError(_STOP_REFUSED)
            self._resume_on_thaw = False
            self._machine.pause()
            return self._machine.run_state

    def while_running(self, action: Callable[[], None]) -> bool:
        """Run `action` if the guest runs, which it does until `action` returns; say whether.

        What a paused machine must not take, because its state may be on its way, comes this way.
        `action` must be quick: an order to pause waits for it.
        """
        with self._lock:
            if self._machine.run_state is not RunState.RUNNING:
                return False
            action()
            return True

    def freeze(self, purpose: FreezePurpose) -> bool:
        """Pause the guest and return whether it ran until then.

        Raises RunStateError if it powered off or failed before that.
        """
        with self._lock:
            ran = self._machine.run_state is RunState.RUNNING
            self._machine.pause()
            require_paused(self._machine)
            self._frozen, self._resume_on_thaw = purpose, ran
        self._on_freeze(purpose)
        return ran

    def thaw(self) -> None:
        """Undo `freeze`; does nothing without one."""
        with self._lock:
            if self._frozen is None:
                return
            self._frozen = None
            if self._resume_on_thaw:
                self._machine.resume()
        self._on_thaw()

    def release(self) -> None:
        """Give the frozen machine back to the operator, paused."""
        with self._lock:
            self._frozen = None


class GatedFreezer:
    """The gate as a migration or a snapshot uses it; implements machine.Freezer."""

    def __init__(self, gate: HandoverGate, purpose: FreezePurpose) -> None:
        self._gate = gate
        self._purpose = purpose

    def freeze(self) -> bool:
        """As Freezer.freeze."""
        return self._gate.freeze(self._purpose)

    def thaw(self) -> None:
        """As Freezer.thaw."""
        self._gate.thaw()
