"""Saves a VM to a file: writes it in a thread, with its books in the event loop.

    active -> completed    the file is complete; the VM continues as before
           -> failed       nothing is under the file's name; the VM continues as before

One at a time; the record of the last one stays.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from tagalong.errors import RunStateError, TagalongError
from tagalong.machine import Freezer, Machine
from tagalong.qapi.reports import SaveResult
from tagalong.qapi.saving import SaveRequest, SaveStatus
from tagalong.qmp.messages import Event
from tagalong.snapshot import SaveProgress
from tagalong.vmm.bugs import unexpected
from tagalong.vmm.handover import FreezePurpose
from tagalong.vmm.save_record import SaveRecord
from tagalong.vmm.states import VmState
from tagalong.vmm.vm import Vm

_REFUSED = {
    VmState.INMIGRATE: "the VM is not here yet: an incoming migration is awaited",
    VmState.FINISH_MIGRATE: "the VM is being migrated away",
    VmState.POSTMIGRATE: "the VM was migrated away: save it where it is",
    VmState.SHUTDOWN: "the guest is powered off: there is nothing to save",
    VmState.INTERNAL_ERROR: "the machine failed: there is nothing to save",
}


class Storer(Protocol):
    """Writes a machine to a file, in the calling thread."""

    def __call__(
        self,
        machine: Machine,
        request: SaveRequest,
        progress: Callable[[SaveProgress], None],
        cancelled: threading.Event,
        freezer: Freezer,
        /,
    ) -> SaveResult:
        """Return the result once the file is complete. Raises TagalongError."""
        ...


Save = Callable[[Callable[[SaveProgress], None], threading.Event], SaveResult]
"""Saves, in the calling thread: reports its progress to the first, ends when the second is set."""


class Savable(Protocol):
    """What is saved: a VM of ours, or another VMM's."""

    def begin(self, request: SaveRequest) -> Save:
        """Return how to do what is asked for. Raises TagalongError if it cannot be done now."""
        ...

    def ended(self) -> None:
        """Note the end, whatever it was: the VM continues as before."""
        ...


class SavedVm:
    """A VM of ours; implements Savable."""

    def __init__(self, vm: Vm, store: Storer) -> None:
        self._vm = vm
        self._store = store

    def begin(self, request: SaveRequest) -> Save:
        """As Savable. Raises RunStateError."""
        if self._vm.state in _REFUSED:
            raise RunStateError(_REFUSED[self._vm.state])
        machine, freezer = self._vm.require_machine(), self._vm.freezer(FreezePurpose.SAVING)
        return lambda tell, cancelled: self._store(machine, request, tell, cancelled, freezer)

    def ended(self) -> None:
        """As Savable: an operator's `cont` takes effect now."""
        self._vm.thaw()


class Saving:
    """The snapshots and dumps of one VM, one at a time; `record` is the last one's."""

    def __init__(self, saved: Savable, emit: Callable[[Event], None]) -> None:
        self.record: SaveRecord | None = None
        self._saved = saved
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._cancelled = threading.Event()
        self._done: asyncio.Future[SaveRecord] = self._loop.create_future()

    @property
    def is_under_way(self) -> bool:
        """Return whether something is being saved."""
        return self.record is not None and self.record.status is SaveStatus.ACTIVE

    def start(self, request: SaveRequest) -> asyncio.Future[SaveRecord]:
        """Begin to save; the result is there when it ended, failed or not.

        Raises RunStateError if the VM cannot be saved now, and what else its `begin` raises.
        """
        if self.is_under_way:
            raise RunStateError("there is a dump or a snapshot in progress")
        save = self._saved.begin(request)
        self.record = SaveRecord(request)
        self._cancelled, self._done = threading.Event(), self._loop.create_future()
        run = partial(self._run, save, self._cancelled)
        threading.Thread(target=run, name="saving", daemon=True).start()
        return self._done

    def cancel(self) -> None:
        """Ask what is under way to stop; its status tells when it has."""
        self._cancelled.set()

    async def cancel_and_wait(self, timeout_s: float) -> None:
        """Cancel what is under way and wait until it has ended."""
        if self.is_under_way:
            self.cancel()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._done), timeout_s)

    def _run(self, save: Save, cancelled: threading.Event) -> None:
        """Save, in the snapshot's thread."""
        try:
            report = save(self._tell_progress, cancelled)
        except TagalongError as error:
            self._call(partial(self._end, SaveStatus.FAILED, None, error))
        except Exception as error:  # noqa: BLE001 (a bug of ours must not lose the VM)
            self._call(partial(self._end, SaveStatus.FAILED, None, unexpected(error)))
        else:
            self._call(partial(self._end, SaveStatus.COMPLETED, report, None))

    def _tell_progress(self, progress: SaveProgress) -> None:
        self._call(partial(self._progressed, progress))

    def _progressed(self, progress: SaveProgress) -> None:
        if self.record is not None:
            self.record.advance(progress)

    def _end(
        self,
        status: SaveStatus,
        report: SaveResult | None,
        error: TagalongError | None,
    ) -> None:
        self._saved.ended()
        if self.record is None:
            return
        self.record.status, self.record.report, self.record.error = status, report, error
        self._emit(Event("DUMP_COMPLETED", self.record.info().to_event()))
        self._done.set_result(self.record)

    def _call(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(function)
