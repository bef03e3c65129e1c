"""A VM under an operator's control: its machine, its run state, its events.

Everything here runs in the event loop's thread, or the one that does without a loop
(loop_calls.py). The machine and a migration have threads of their own; their reports arrive
through `LoopCalls`, in order.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from tagalong._lazy import module_when_used
from tagalong.errors import MachineError, RunStateError, TagalongError
from tagalong.machine import Freezer, Machine, RunState
from tagalong.qmp.messages import Event
from tagalong.vmm.handover import FreezePurpose, GatedFreezer, HandoverGate, PrepareStart
from tagalong.vmm.loop_calls import LoopCalls
from tagalong.vmm.states import VmState, check_transition
from tagalong.vmm.watcher import MachineWatcher

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator

    from tagalong.qapi.migration import MigrationInfo
else:
    asyncio = module_when_used("asyncio")

_ENDING = "this process was told to end: it takes no VM over"
_STOPPED_FOR = {
    VmState.FINISH_MIGRATE: FreezePurpose.MIGRATION,
    VmState.SAVE_VM: FreezePurpose.SAVING,
}
_NO_BUTTON = "the VM has no power button: VMs that began with --kernel have one"
_NOTHING_TO_RECLAIM = "x-reclaim is for a VM whose hand-over the destination did not confirm"


@dataclass(frozen=True)
class Departure:
    """Where a VM was handed over to; `is_confirmed`: the destination confirmed that it runs there.

    What was sent into a file, a command or a pipe is never confirmed: it may have been loaded.
    """

    uri: str
    is_confirmed: bool

    def why_not_here(self) -> str:
        """Return why the VM must not run here, and what to do."""
        if self.is_confirmed:
            return f"the VM was migrated to {self.uri}, which owns it: it must not run here as well"
        return (
            f"the VM was handed over to {self.uri}, which has not confirmed that it runs there: "
            "the destination, or a process that loaded the file, may be running it; look there "
            "first, and only if it does not run, x-reclaim the VM here"
        )


class ShutdownReason(Enum):
    """Why a VM ended; the values are QMP's ShutdownCause."""

    GUEST = "guest-shutdown"
    GUEST_RESET = "guest-reset"
    RESET = "host-qmp-system-reset"
    QUIT = "host-qmp-quit"
    SIGNAL = "host-signal"
    ERROR = "host-error"

    @property
    def is_by_guest(self) -> bool:
        """Return whether the guest decided it."""
        return self in (ShutdownReason.GUEST, ShutdownReason.GUEST_RESET)


@dataclass(frozen=True)
class Ending:
    """How a VM's process ends: the reason, the exit status, the error if there was one."""

    reason: ShutdownReason
    exit_code: int = 0
    error: Exception | None = None


def _accept_end() -> None:
    """Accept an order to end."""


@dataclass(frozen=True)
class _Running:
    """A machine with what is needed to run it."""

    machine: Machine
    gate: HandoverGate
    watcher: MachineWatcher


class VmEnd:
    """How a VM ended, once it has; to be awaited, which takes an event loop, or asked."""

    def __init__(self) -> None:
        self._ending: Ending | None = None
        self._awaiting: list[asyncio.Future[Ending]] = []

    def done(self) -> bool:
        """Return whether the VM has ended."""
        return self._ending is not None

    def result(self) -> Ending:
        """Return how. Raises RunStateError before."""
        if self._ending is None:
            raise RunStateError("the VM has not ended")
        return self._ending

    def set_result(self, ending: Ending) -> None:
        """End, once; in the event loop's thread."""
        self._ending = ending
        for each in self._awaiting:
            if not each.done():
                each.set_result(ending)

    def __await__(self) -> Generator[object, None, Ending]:
        future: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        if self._ending is not None:
            future.set_result(self._ending)
        self._awaiting.append(future)
        return future.__await__()


class Vm:
    """The VM behind one control socket; in `inmigrate` until it has a machine.

    `emit` gets every event, in order. `ended` is set once, when the process should exit.
    `starts_on_arrival` says whether a VM that arrives by migration runs at once. `before_end` is
    called before an order to end is carried out, and declines it by raising RunStateError.
    `prepare_start`: what a reset starts, None if nothing does. A guest's reset ends a VM without
    it, any reset one that `ends_at_reset`. `press_power_button`: None for a VM without that button.
    `loop`: where its threads report; None: the loop that runs.
    """

    def __init__(self, emit: Callable[[Event], None], loop: LoopCalls | None = None) -> None:
        self.state = VmState.INMIGRATE
        self.starts_on_arrival = True
        self.before_end: Callable[[], None] = _accept_end
        self.prepare_start: PrepareStart | None = None
        self.ends_at_reset = False
        self.press_power_button: Callable[[], None] | None = None
        self.ended = VmEnd()
        self._loop = loop or LoopCalls.of_running_loop()
        self._emit = emit
        self._here: _Running | None = None
        self._before_freeze = VmState.PAUSED
        self._departure: Departure | None = None

    @property
    def machine(self) -> Machine | None:
        """Return the machine, None until a migration has brought it."""
        return self._here.machine if self._here is not None else None

    def create(self, machine: Machine) -> None:
        """Take a new machine: the VM is in prelaunch."""
        self._take(machine)
        self.state = VmState.PRELAUNCH

    def arrive(self, machine: Machine, *, ran: bool) -> None:
        """Take a machine that a migration brought, and let it run if it ran at the source.

        Raises RunStateError if it cannot run, or this process is to end, HostError if its disks
        cannot be locked; the VM is still in `inmigrate` then.
        """
        if self.ended.done():
            raise RunStateError(_ENDING)
        here = self._take(machine)
        runs = ran and self.starts_on_arrival
        try:
            machine.activate()
            if runs:
                here.gate.resume()
        except TagalongError:
            self._here = None  # the migration closes the machine, and nothing has arrived
            raise
        if not runs:
            self._enter(VmState.PAUSED)
            return
        self._enter(VmState.RUNNING)
        self.watch()

    def _take(self, machine: Machine) -> _Running:
        gate = HandoverGate(
            machine,
            on_freeze=lambda purpose: self._call(partial(self._froze, purpose)),
            on_thaw=lambda: self._call(self._thawed),
            prepare_start=self.prepare_start if self.starts_anew else None,
            on_reset=lambda by_guest: self._call(partial(self._was_reset, by_guest)),
            on_broken=lambda error: self._call(partial(self._broke, error)),
        )
        self._here = _Running(
            machine, gate, MachineWatcher(machine, self._machine_ended, self._loop)
        )
        return self._here

    def cont(self) -> None:
        """Let the guest run. Raises RunStateError when it must not."""
        if self.state is VmState.INMIGRATE:
            self.starts_on_arrival = True
            return
        if self.state is VmState.RUNNING:
            return
        if self._departure is not None:
            raise RunStateError(self._departure.why_not_here())
        if self.state in _STOPPED_FOR:
            raise RunStateError(_STOPPED_FOR[self.state].value)
        check_transition(self.state, VmState.RUNNING)
        self._require_here().gate.resume()
        self._enter(VmState.RUNNING)
        self.watch()

    def stop(self) -> None:
        """Stop the guest. A VM that does not run stays as it is.

        While the VM is saved, it makes the guest stay stopped after that. Raises RunStateError
        while the VM is handed over: see handover.py.
        """
        if self.state is VmState.INMIGRATE:
            self.starts_on_arrival = False
        if self.state is not VmState.RUNNING and self.state not in _STOPPED_FOR:
            return
        machine_state = self._require_here().gate.pause()
        if self.state is VmState.RUNNING and machine_state is RunState.PAUSED:
            self._enter(VmState.PAUSED)

    @property
    def starts_anew(self) -> bool:
        """Return whether a guest that asks for a reset starts anew; else that ends the VM."""
        return self.prepare_start is not None and not self.ends_at_reset

    def reset(self) -> None:
        """Start the guest anew, as the operator orders; end if the VM is to end then.

        Raises RunStateError if the VM is not here, is being handed over or saved, or has nothing to
        start with, GuestImageError or HostError if that cannot be read; the VM is as before then.
        """
        if self._departure is not None:
            raise RunStateError(self._departure.why_not_here())
        here = self._require_here()
        if self.ends_at_reset:
            self.order_end(Ending(ShutdownReason.RESET))
        else:
            here.gate.reset()

    def power_down(self) -> None:
        """Press the power button: what the guest does then is its own decision.

        Raises RunStateError if the VM is not here, is being handed over or saved, or has none.
        """
        if self._departure is not None:
            raise RunStateError(self._departure.why_not_here())
        here = self._require_here()
        if self.press_power_button is None:
            raise RunStateError(_NO_BUTTON)
        here.gate.unless_frozen(self.press_power_button)
        self._emit(Event("POWERDOWN"))

    def order_end(self, ending: Ending) -> None:
        """End as the operator orders. Raises RunStateError while a VM is just arriving."""
        if not self.ended.done():
            self.before_end()
        self.end(ending)

    def end(self, ending: Ending) -> None:
        """Announce the VM's end; the first ending counts."""
        if self.ended.done():
            return
        reason = ending.reason
        self._emit(Event("SHUTDOWN", {"guest": reason.is_by_guest, "reason": reason.value}))
        self.ended.set_result(ending)

    def emit_migration(self, info: MigrationInfo) -> None:
        """Send the MIGRATION event.

        The last one has all that is known (`x-info`): the process may end before a client asks.
        """
        data: dict[str, object] = {"status": info.status.value}
        if info.status.is_final:
            data["x-info"] = info.to_qmp()
        self._emit(Event("MIGRATION", data))

    def emit_migration_pass(self, number: int) -> None:
        """Send the MIGRATION_PASS event: round `number` begins."""
        self._emit(Event("MIGRATION_PASS", {"pass": number}))

    def require_machine(self) -> Machine:
        """Return the machine. Raises RunStateError until a migration has brought it."""
        return self._require_here().machine

    def while_running(self, action: Callable[[], None]) -> bool:
        """Run `action` if the guest runs, which it does until `action` returns; say whether."""
        return self._here is not None and self._here.gate.while_running(action)

    def freezer(self, purpose: FreezePurpose) -> Freezer:
        """Return what stops the guest for a migration or a snapshot. Raises RunStateError."""
        return GatedFreezer(self._require_here().gate, purpose)

    def watch(self) -> None:
        """Watch for the end of a machine that runs."""
        if self._here is not None and self.state is VmState.RUNNING:
            self._here.watcher.watch()

    @property
    def departure(self) -> Departure | None:
        """Return where the VM has moved to, None while it is here."""
        return self._departure

    def handed_over(self, departure: Departure) -> None:
        """Record that the destination owns the VM, or, if it has not confirmed that, may own it."""
        self._departure = departure
        self._enter(VmState.POSTMIGRATE)

    def reclaim(self) -> None:
        """Take the VM back, paused: the operator guarantees that the destination does not have it.

        Raises RunStateError unless its hand-over is unconfirmed, HostError if another process has
        its disks.
        """
        if self._departure is None or self._departure.is_confirmed:
            raise RunStateError(_NOTHING_TO_RECLAIM)
        self._require_here().machine.activate()
        self._departure = None
        self._require_here().gate.release()
        self._enter(VmState.PAUSED)

    def thaw(self) -> None:
        """Undo what a migration or a snapshot did to the guest, if it froze it."""
        # A machine that cannot resume has ended, which the watcher reports, or another process has
        # its disks; the books of what froze it must be closed all the same.
        with suppress(TagalongError):
            self._require_here().gate.thaw()
        self._thawed()

    def _froze(self, purpose: FreezePurpose) -> None:
        self._before_freeze = self.state
        saving = purpose is FreezePurpose.SAVING
        self._enter(VmState.SAVE_VM if saving else VmState.FINISH_MIGRATE)

    def _thawed(self) -> None:
        if self.state in _STOPPED_FOR:
            self._enter(self._state_after_thaw())
        self.watch()

    def _state_after_thaw(self) -> VmState:
        # A guest that was resumed can have ended by now; the watcher reports that.
        if self._require_here().machine.run_state is not RunState.PAUSED:
            return VmState.RUNNING
        return VmState.PRELAUNCH if self._before_freeze is VmState.PRELAUNCH else VmState.PAUSED

    def _was_reset(self, by_guest: bool) -> None:
        reason = ShutdownReason.GUEST_RESET if by_guest else ShutdownReason.RESET
        self._emit(Event("RESET", {"guest": by_guest, "reason": reason.value}))
        if self.state is VmState.PAUSED:
            self._enter(VmState.PRELAUNCH)
        self.watch()

    def _machine_ended(self, machine_state: RunState) -> None:
        if self.ended.done():
            return
        if machine_state is RunState.RESET and self.starts_anew:
            # What it raises, on_broken tells of or is said here: the guest cannot go on.
            try:
                self._require_here().gate.reset_as_asked()
            except TagalongError as error:
                self._broke(error)
        elif machine_state is RunState.FAILED:
            self._broke(self._require_here().machine.failure or MachineError("the machine failed"))
        else:
            was_reset = machine_state is RunState.RESET
            self._enter(VmState.SHUTDOWN)
            self.end(Ending(ShutdownReason.GUEST_RESET if was_reset else ShutdownReason.GUEST))

    def _broke(self, error: Exception) -> None:
        """End: the machine cannot run any more."""
        if self.ended.done():
            return
        self._enter(VmState.INTERNAL_ERROR)
        exit_code = error.exit_code if isinstance(error, TagalongError) else MachineError.exit_code
        self.end(Ending(ShutdownReason.ERROR, exit_code, error))

    def _enter(self, state: VmState) -> None:
        """Move to `state` and emit what QMP emits for it."""
        check_transition(self.state, state)
        was_running = self.state is VmState.RUNNING
        self.state = state
        if state is VmState.RUNNING:
            self._emit(Event("RESUME"))
        elif was_running and state is not VmState.SHUTDOWN:
            self._emit(Event("STOP"))

    def _require_here(self) -> _Running:
        if self._here is None:
            raise RunStateError("the VM is not here yet: an incoming migration is awaited")
        return self._here

    def _call(self, function: Callable[[], None]) -> None:
        self._loop.call_soon(function)
