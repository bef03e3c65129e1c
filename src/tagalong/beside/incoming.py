"""Awaits a guest's tags, and holds the guest until they are there.

The library holds every vCPU out of the guest from the VMM's start, so the guest cannot run without
its tags whatever the VMM, libvirt or an operator does. COMMIT lifts the hold, once. Until then an
attempt that fails costs nothing: the next source is awaited, and may bring all tags anew.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tagalong import migrate
from tagalong.beside.arriving import ArrivingGuest
from tagalong.beside.link import LibraryLink
from tagalong.beside.link_format import VmFlag
from tagalong.beside.moments import Moments
from tagalong.errors import HostError, TagalongError
from tagalong.machine import Machine, MachineDescription
from tagalong.memory import PageBitmap
from tagalong.migrate import TlsCredentials, parse_address
from tagalong.qapi.migration import MigrationStatus
from tagalong.qapi.reports import ArrivalReport
from tagalong.vmm.bugs import unexpected
from tagalong.vmm.record import MigrationRecord
from tagalong.vmm.transfer import socket_address


@dataclass(frozen=True)
class AwaitedTags:
    """Where tags are awaited, and which sources are accepted."""

    uri: str
    tls: TlsCredentials | None = None


class TagsIncoming:
    """The migration that brings the tags; `record` is the last attempt's.

    `emit` gets the record in each new status, `refused` the reason for each rejected peer, both in
    the event loop's thread.
    """

    def __init__(
        self,
        awaited: AwaitedTags,
        library: Path,
        emit: Callable[[MigrationRecord], None],
        refused: Callable[[HostError], None],
    ) -> None:
        self._awaited = awaited
        self._library = library
        self._emit = emit
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        self._touched = dict[int, PageBitmap]()
        self._end = migrate.EndOrder()
        self._is_closed = False
        self._guest_id = b""
        self._link: LibraryLink | None = None
        self._moments = Moments()
        self._thread: threading.Thread | None = None
        self._listener = self._listen(awaited.uri)
        self.uri = str(self._listener.address)
        self.record = self._new_record()

    def start(self, guest_id: bytes = b"") -> None:
        """Begin to wait, for the tags of the guest that is named so, if it is."""
        if self._is_closed:
            return
        self._guest_id = guest_id
        self._emit(self.record)
        self._thread = threading.Thread(target=self._run, name="incoming-tags", daemon=True)
        self._thread.start()

    async def close(self, timeout_s: float) -> None:
        """Wait no more, and give up the address. Tags that were committed stay."""
        self._is_closed = True
        self._end.set()
        if self._thread is None:
            self._listener.close()
        else:
            await asyncio.to_thread(self._thread.join, timeout_s)

    @property
    def is_holding(self) -> bool:
        """Return whether the guest is held."""
        return self.record.status is not MigrationStatus.COMPLETED

    def _listen(self, uri: str) -> migrate.Listener:
        return migrate.listen(
            parse_address(uri),
            tls=self._awaited.tls,
            refused=lambda error: self._call(partial(self._refused, error)),
        )

    def _new_record(self) -> MigrationRecord:
        return MigrationRecord(socket_address=socket_address(self._listener.address))

    # --- in the thread that waits ---

    def _run(self) -> None:
        while not self._is_closed:
            try:
                report = self._receive()
            except TagalongError as error:
                self._call(partial(self._failed, error))
            except Exception as error:  # noqa: BLE001 (a bug of ours: say so, do not hang)
                self._call(partial(self._failed, unexpected(error)))
            else:
                self._call(partial(self._completed, report))
                return
            if not self._listen_again():
                return

    def _listen_again(self) -> bool:
        """Await the next source at the same address; return whether that is possible."""
        if self._is_closed or not isinstance(self._listener, migrate.SocketListener):
            return False
        try:
            self._listener = self._listen(self.uri)
        except TagalongError as error:
            self._call(partial(self._failed, error))
            return False
        self._call(self._await_next)
        return True

    def _receive(self) -> ArrivalReport:
        try:
            with self._listener:
                arrival = migrate.receive_from(
                    self._listener,
                    self._build,
                    take_over=self._take_over,
                    cancel=self._end,
                    tags_only=True,
                )
        finally:
            # The library serves one client: the next attempt needs its turn.
            if self._link is not None:
                self._link.close()
        arrival.machine.close()
        return ArrivalReport(
            migration_id=arrival.migration_id,
            was_running=arrival.was_running,
            acknowledged=arrival.acknowledged,
            digest=arrival.digest,
            pages=arrival.pages,
            moments_s=self._moments.all_s(),
        )

    def _build(self, description: MachineDescription) -> Machine:
        """Take the VM here for the one that is described. Raises MachineMismatchError."""
        self._call(partial(self._advance, MigrationStatus.ACTIVE))
        self._link = LibraryLink(self._library)
        if not self._link.state().flags & VmFlag.HELD:
            raise HostError(
                "the guest here is not held: its VMM was started without --incoming, or its tags "
                "have arrived already"
            )
        guest = ArrivingGuest(
            self._link,
            self._touched,
            tags_in_place=description.tags_in_place,
            guest_id=self._guest_id,
        )
        guest.require_like(description)
        self._moments = guest.moments
        return guest

    def _take_over(self, _guest: Machine, _ran: bool) -> None:
        """Let the vCPUs into the guest: all of its tags are there."""
        assert self._link is not None  # noqa: S101 (the guest was built)
        self._moments.note("committed")
        self._link.hold(False)
        self._moments.note("released")

    # --- in the event loop's thread ---

    def _await_next(self) -> None:
        self.record = self._new_record()
        self._emit(self.record)

    def _completed(self, report: ArrivalReport) -> None:
        self.record.report = report
        self._advance(MigrationStatus.COMPLETED)

    def _failed(self, error: TagalongError) -> None:
        self.record.error = error
        self._advance(MigrationStatus.FAILED)

    def _advance(self, status: MigrationStatus) -> None:
        if self.record.advance(status):
            self._emit(self.record)

    def _call(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(function)
