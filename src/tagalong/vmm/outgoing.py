"""Migrates a VM away: runs the migration in a thread, with its books in the event loop.

    setup -> active -> completed                the destination owns the VM: postmigrate
                    -> failed                   the VM continues here, as before
                    -> cancelling -> cancelled  the VM continues here, as before
          active <-> x-precopy-recover          a connection broke, and is dialled again
          active  -> x-precopy-paused -> x-precopy-recover -> active    migrate-pause

One at a time; the record of the last one stays.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from tagalong.errors import (
    GuestEndedError,
    HandoverUncertainError,
    MigrationCancelledError,
    MigrationError,
    MigrationStage,
    RunStateError,
    TagalongError,
)
from tagalong.machine import Machine, RunState
from tagalong.migrate import SendProgress, Steering
from tagalong.qapi.migration import MigrationRequest, MigrationStatus
from tagalong.qapi.reports import MigrationResult
from tagalong.qapi.settings import MigrationSettings
from tagalong.vmm.bugs import unexpected
from tagalong.vmm.handover import FreezePurpose
from tagalong.vmm.record import MIGRATION_TRANSITIONS, MigrationRecord
from tagalong.vmm.states import VmState
from tagalong.vmm.vm import Departure, Vm

_REFUSED = {
    VmState.INMIGRATE: "Guest is waiting for an incoming migration",
    VmState.SHUTDOWN: "the guest is powered off: there is nothing to migrate",
    VmState.INTERNAL_ERROR: "the machine failed: there is nothing to migrate",
}

_ENDED = {
    RunState.SHUTDOWN: "the guest powered off before it had moved",
    RunState.RESET: "the guest asked for a reset, which ends it here, before it had moved",
    RunState.FAILED: "the machine failed before the VM had moved",
}


class Sender(Protocol):
    """Migrates a machine away, in the calling thread."""

    def __call__(
        self,
        machine: Machine,
        request: MigrationRequest,
        progress: Callable[[SendProgress], None],
        cancelled: threading.Event,
        steering: Steering,
        /,
    ) -> MigrationResult:
        """Return the result once the destination owns the VM. Raises TagalongError.

        `steering` has the freezer that stops the guest.
        """
        ...


class Outgoing:
    """The outgoing migrations of one VM, one at a time; `record` is the last one's."""

    def __init__(self, vm: Vm, send: Sender) -> None:
        self.record: MigrationRecord | None = None
        self._vm = vm
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._uri = ""
        self._cancelled = threading.Event()
        self._steering = Steering()
        self._done = asyncio.Event()

    def start(self, request: MigrationRequest) -> None:
        """Begin to migrate. Raises RunStateError if the VM cannot now."""
        if self.is_under_way:
            raise RunStateError("There's a migration process in progress")
        if self._vm.state in _REFUSED:
            raise RunStateError(_REFUSED[self._vm.state])
        if self._vm.departure is not None:
            raise RunStateError(
                "Can't migrate the vm that was paused due to previous migration: "
                + self._vm.departure.why_not_here()
            )
        machine = self._vm.require_machine()
        self.record = MigrationRecord()
        self._uri = request.uri
        self._cancelled, self._done = threading.Event(), asyncio.Event()
        self._steering = Steering(self._vm.freezer(FreezePurpose.MIGRATION))
        self._vm.emit_migration(self.record.info())
        run = partial(self._run, machine, request)
        threading.Thread(target=run, name="migration", daemon=True).start()

    def pause(self) -> None:
        """Break the connections of a migration under way until `resume`.

        Raises RunStateError unless it is under way and neither paused nor being cancelled,
        UsageError if it cannot reconnect.
        """
        self._require(MigrationStatus.PAUSED, "no migration is under way that could be paused")
        self._steering.pause()
        self._advance(MigrationStatus.PAUSED)

    def resume(self, uri: str | None) -> None:
        """Let a paused migration reconnect, at `uri` if there is one.

        Raises RunStateError unless one is paused, UsageError for a URI that allows no second
        connection.
        """
        if self.record is None or self.record.status is not MigrationStatus.PAUSED:
            raise RunStateError("no migration is paused: there is nothing to resume")
        self._steering.resume(uri)
        self._uri = uri or self._uri
        self._advance(MigrationStatus.RECOVER)

    def tune(self, settings: MigrationSettings) -> None:
        """Let the limits in `settings` count for a migration under way, if there is one."""
        self._steering.tune(settings.options())

    def cancel(self) -> None:
        """Ask a migration under way to stop; its status tells when it has."""
        if self.is_under_way:
            self._cancelled.set()
            self._advance(MigrationStatus.CANCELLING)

    async def cancel_and_wait(self, timeout_s: float) -> None:
        """Cancel a migration under way and wait until it has ended."""
        if self.is_under_way:
            self.cancel()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), timeout_s)

    @property
    def is_under_way(self) -> bool:
        """Return whether a migration is."""
        return self.record is not None and not self.record.status.is_final

    def _require(self, wanted: MigrationStatus, refusal: str) -> None:
        """Raise RunStateError unless the migration can enter the status `wanted` now."""
        status = self.record.status if self.record is not None else MigrationStatus.NONE
        if wanted not in MIGRATION_TRANSITIONS[status]:
            raise RunStateError(f"{refusal} (status {status.value})")

    def _advance(self, status: MigrationStatus) -> None:
        if self.record is not None and self.record.advance(status):
            self._vm.emit_migration(self.record.info())

    def _run(self, machine: Machine, request: MigrationRequest) -> None:
        """Migrate, in the migration's thread."""
        cancelled, steering = self._cancelled, self._steering
        try:
            report = self._send(machine, request, self._tell_progress, cancelled, steering)
        except TagalongError as error:
            self._call(partial(self._failed, error))
        except Exception as error:  # noqa: BLE001 (a bug of ours must not lose the VM)
            self._call(partial(self._failed, unexpected(error)))
        else:
            self._call(partial(self._completed, report))

    def _tell_progress(self, progress: SendProgress) -> None:
        self._call(partial(self._progressed, progress))

    def _progressed(self, progress: SendProgress) -> None:
        if self.record is None:
            return
        before, self.record.progress = self.record.progress, progress
        self._follow(progress)
        if self.record.status is MigrationStatus.ACTIVE:
            seen = before.round_number if before is not None else 0
            for number in range(seen + 1, progress.round_number + 1):
                self._vm.emit_migration_pass(number)
        self._vm.watch()

    def _follow(self, progress: SendProgress) -> None:
        """Take over the status that progress tells of."""
        status = self.record.status if self.record is not None else None
        if progress.stage is MigrationStage.RECONNECT:
            if status is MigrationStatus.ACTIVE:
                self._advance(MigrationStatus.RECOVER)
        elif status in (MigrationStatus.SETUP, MigrationStatus.RECOVER):
            self._advance(MigrationStatus.ACTIVE)

    def _completed(self, report: MigrationResult) -> None:
        if self.record is not None:
            self.record.report = report
        # A file or a pipe confirms that it has the bytes, not that a machine runs: only a person
        # knows whether it was loaded.
        self._vm.handed_over(Departure(self._uri, is_confirmed=not report.report.one_way))
        self._end(MigrationStatus.COMPLETED)

    def _failed(self, error: TagalongError) -> None:
        if self.record is not None:
            self.record.error = error = self._explained(error)
        if isinstance(error, HandoverUncertainError):
            self._vm.handed_over(Departure(self._uri, is_confirmed=False))
            self._end(MigrationStatus.FAILED)
            return
        self._vm.thaw()
        cancelled = isinstance(error, MigrationCancelledError)
        self._end(MigrationStatus.CANCELLED if cancelled else MigrationStatus.FAILED)

    def _explained(self, error: TagalongError) -> TagalongError:
        """Return `error`, or the end of the VM if that is what ended the migration.

        The migration's thread sees a machine that stopped or a cancellation; why is known here.
        """
        machine = self._vm.machine
        if isinstance(error, HandoverUncertainError) or machine is None:
            return error
        failure: MigrationError
        goes_on = machine.run_state is RunState.RESET and self._vm.starts_anew
        if machine.run_state in _ENDED and not goes_on:
            failure = GuestEndedError(_ENDED[machine.run_state])
        elif self._vm.ended.done():
            reason = self._vm.ended.result().reason.value
            failure = MigrationCancelledError(
                f"the VM's process was told to end ({reason}) before the VM had moved"
            )
        else:
            return error
        failure.stage, failure.__cause__ = getattr(error, "stage", None), machine.failure
        return failure

    def _end(self, status: MigrationStatus) -> None:
        self._advance(status)
        self._done.set()

    def _call(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(function)
