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

A reset goes through the same lock: a VM that is being handed over or saved is not reset. A guest
that asks for its reset leaves the machine waiting (RunState.RESET), and the first that takes
the lock carries it out: the event loop, an operator's `stop`, or a freeze. So a VM that moves just
then arrives as one that was started anew, and nothing else needs to know of that state.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from typing import Final

from tagalong.errors import RunStateError, TagalongError
from tagalong.machine import Machine, MachineDescription, RunState, require_paused


class FreezePurpose(Enum):
    """What the guest is frozen for; the value says why it cannot run now."""

    MIGRATION = "Migration is not finalized yet"
    SAVING = "the VM is being saved: it continues by itself if it ran"


_RUNS = frozenset({RunState.RUNNING, RunState.RESET})
_STOP_REFUSED = (
    "Migration is not finalized yet: the guest is paused for its last pages, and whether it runs "
    "at the destination is decided; stop it there, or cancel the migration (migrate_cancel)"
)


PrepareStart = Callable[[MachineDescription], AbstractContextManager[Callable[[Machine], object]]]
"""Reads what a guest starts from, and yields what loads it into a machine that was reset."""

NOTHING_TO_START: Final = (
    "this process has nothing to start the guest with again: a VM that arrived or was restored "
    "needs --kernel, and what belongs to it, for that"
)


class HandoverGate:
    """Starts and stops a machine on behalf of the operator, a migration and a snapshot.

    `on_freeze` is called after the guest was paused, `on_thaw` when that was undone; both in the
    thread of the migration or the snapshot. `prepare_start`: what a reset starts, None if nothing.
    `on_reset` is called after a reset, with whether the guest had asked for it; `on_broken` with
    the error of one that left the machine without a guest. Both in any thread.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        on_freeze: Callable[[FreezePurpose], None],
        on_thaw: Callable[[], None],
        prepare_start: PrepareStart | None = None,
        on_reset: Callable[[bool], None] = lambda _: None,
        on_broken: Callable[[TagalongError], None] = lambda _: None,
    ) -> None:
        self._machine = machine
        self._prepare_start = prepare_start
        self._on_reset = on_reset
        self._on_broken = on_broken
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
            self._pause()
            return self._machine.run_state

    def reset(self) -> None:
        """Start the guest anew, for the operator; it runs then if it ran.

        Raises RunStateError while it is frozen, after its end, and if there is nothing to start;
        GuestImageError or HostError if that cannot be read. Nothing has changed then.
        """
        with self._lock:
            if self._frozen is not None:
                raise RunStateError(self._frozen.value)
            runs = self._machine.run_state in _RUNS
            self._start_anew(by_guest=self._machine.run_state is RunState.RESET)
            if runs:
                self._machine.resume()

    def reset_as_asked(self) -> None:
        """Carry out the reset that the guest asked for, if that was not done meanwhile.

        Raises as `reset`.
        """
        with self._lock:
            if self._machine.run_state is RunState.RESET:
                self._start_anew(by_guest=True)
                self._machine.resume()

    def unless_frozen(self, action: Callable[[], None]) -> None:
        """Run `action`, which the guest is to see, now or when it runs again.

        Raises RunStateError while the guest is frozen: its state may be on its way.
        """
        with self._lock:
            if self._frozen is not None:
                raise RunStateError(self._frozen.value)
            action()

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
            ran = self._machine.run_state in _RUNS
            self._pause()
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

    def _pause(self) -> None:
        """Pause the machine; if its guest waits for a reset, it is paused behind that."""
        self._machine.pause()
        if self._machine.run_state is RunState.RESET and self._prepare_start is not None:
            self._start_anew(by_guest=True)

    def _start_anew(self, *, by_guest: bool) -> None:
        """Reset the machine and load its guest; it is paused then."""
        if self._prepare_start is None:
            raise RunStateError(NOTHING_TO_START)
        with self._prepare_start(self._machine.description) as load:
            self._machine.pause()
            self._machine.reset()
            try:
                load(self._machine)
            except TagalongError as error:
                self._on_broken(error)
                raise
        self._on_reset(by_guest)


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
