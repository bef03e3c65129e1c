"""Awaits a VM: runs the destination's side in a thread, with its books in the event loop.

    setup -> active -> completed    the VM is here, running or paused
                    -> failed       nothing was started: this process ends

The guest starts in the event loop's thread, between the source's COMMIT and our answer to
it, so that run state and events are right before any peer can learn that the VM moved.

An order to end (a signal, `quit`) is for what the operator was told last. Before COMMIT that is a
process that waits: the order aborts the hand-over, and the source keeps the VM. After the arrival
was announced it is a VM that runs here: it ends. In between, when this process has taken the VM
over and has not said so yet, the order would end a VM of which its operator knows nothing: it is
declined, with the reason. `VmReceiver.close` decides which of the three it is, under one lock
with the take-over (tagalong.migrate.takeover).
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Protocol

from tagalong.errors import RunStateError, TagalongError
from tagalong.machine import Machine, MachineDescription
from tagalong.qapi.migration import MigrationStatus, SocketAddress
from tagalong.qapi.reports import ArrivalReport
from tagalong.vmm.bugs import unexpected
from tagalong.vmm.record import MigrationRecord
from tagalong.vmm.states import VmState
from tagalong.vmm.vm import Ending, ShutdownReason, Vm

Build = Callable[[MachineDescription], Machine]
TakeOver = Callable[[Machine, bool], None]


class VmReceiver(Protocol):
    """Listens for one migration; what tagalong.migrate does, behind transfer.py."""

    @property
    def address(self) -> SocketAddress | None:
        """Return where it listens, as QMP's SocketAddress; None where it has no such form."""
        ...

    def receive(self, build: Build, take_over: TakeOver) -> ArrivalReport:
        """Receive a VM, in the calling thread, and return the report.

        `build` makes the machine that the source describes. `take_over` is called once,
        after the source gave up its right to run; its second argument says whether the
        guest ran there. Raises TagalongError.
        """
        ...

    def move_to(self, uri: str) -> None:
        """Listen at another address from now on. Raises UsageError, HostError."""
        ...

    def close(self) -> bool:
        """Stop listening and make receive() fail, unless the VM was taken over already.

        Returns whether `take_over` will not be called any more. From any thread.
        """
        ...


class Incoming:
    """The migration that brings the VM; `record` is what is known of it."""

    def __init__(self, vm: Vm, receiver: VmReceiver, build: Build) -> None:
        self.record = MigrationRecord(socket_address=receiver.address)
        self._vm = vm
        self._receiver = receiver
        self._build = build
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        vm.before_end = self.prepare_end

    def start(self) -> None:
        """Begin to wait for the source."""
        self._vm.emit_migration(self.record.info())
        threading.Thread(target=self._run, name="incoming", daemon=True).start()

    def recover(self, uri: str) -> None:
        """Let the source, or its return, be awaited at another address.

        Raises RunStateError once the VM is here or will not come, UsageError, HostError.
        """
        if self.record.status.is_final:
            raise RunStateError("no VM is awaited here")
        self._receiver.move_to(uri)
        self.record.socket_address = self._receiver.address

    def prepare_end(self) -> None:
        """Abort the migration, as the operator orders this process to end.

        Raises RunStateError while a VM that was taken over is not yet announced.
        """
        if not self._receiver.close() and not self.record.status.is_final:
            raise RunStateError(
                "the VM arrives at this moment, and from now on it is here and nowhere else: "
                "repeat the order to end it"
            )

    async def close(self, timeout_s: float) -> None:
        """Stop listening and wait until the receiving thread has ended."""
        self._receiver.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), timeout_s)

    def _run(self) -> None:
        """Receive, in the migration's thread."""
        try:
            report = self._receiver.receive(self._build_machine, self._take_over)
        except TagalongError as error:
            self._call(partial(self._failed, error))
        except Exception as error:  # noqa: BLE001 (a bug of ours: say so, do not hang)
            self._call(partial(self._failed, unexpected(error)))
        else:
            self._call(partial(self._completed, report))

    def _build_machine(self, description: MachineDescription) -> Machine:
        """Make the machine: a source has connected and the migration is under way."""
        self._call(partial(self._advance, MigrationStatus.ACTIVE))
        return self._build(description)

    def _take_over(self, machine: Machine, ran: bool) -> None:
        """Start the VM in the event loop's thread and wait until it has. Raises its error."""
        outcome: Future[None] = Future()

        def arrive() -> None:
            try:
                self._vm.arrive(machine, ran=ran)
            except TagalongError as error:
                outcome.set_exception(error)
            else:
                outcome.set_result(None)

        self._loop.call_soon_threadsafe(arrive)
        outcome.result()

    def _completed(self, report: ArrivalReport) -> None:
        self.record.report = report
        self._advance(MigrationStatus.COMPLETED)
        self._done.set()

    def _failed(self, error: TagalongError) -> None:
        self.record.error = error
        self._advance(MigrationStatus.FAILED)
        self._done.set()
        if self._vm.state is VmState.INMIGRATE:
            self._vm.end(Ending(ShutdownReason.ERROR, error.exit_code, error))

    def _advance(self, status: MigrationStatus) -> None:
        if self.record.advance(status):
            self._vm.emit_migration(self.record.info())

    def _call(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(function)
