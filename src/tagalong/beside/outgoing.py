"""Sends a guest's tags away: one migration at a time, in a thread, with its books in the loop.

setup -> active -> completed    the tags are there; the VMM's migration has ended, if we drove it
                -> failed       the guest runs here, or the message says how to go on
                -> cancelled    as failed

A standing order begins anew after a failure: the VMM's next migration has tags, too.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from tagalong import migrate
from tagalong.beside.driving import Drive, DrivenDeparture
from tagalong.beside.explained import explained
from tagalong.beside.guest import DepartingGuest, require_usable
from tagalong.beside.link import LibraryLink
from tagalong.beside.monitor import VmmMigration, VmmMonitor
from tagalong.beside.overlapping import OverlappingDeparture
from tagalong.beside.staying import StayingGuest
from tagalong.beside.switchover import BesideSteering, WatchedDeparture, require_no_postcopy
from tagalong.beside.vmm_settings import SettingsFile
from tagalong.errors import (
    DigestMismatchError,
    GuestEndedError,
    HandoverUncertainError,
    HostError,
    MigrationCancelledError,
    MigrationError,
    MigrationStage,
    RunStateError,
    TagalongError,
)
from tagalong.migrate import (
    MigrationReport,
    RoundReport,
    SendProgress,
    TcpAddress,
    UnixAddress,
    parse_address,
)
from tagalong.qapi.migration import MigrationRequest, MigrationStatus, Switchover
from tagalong.qapi.reports import MigrationResult, VmmReport
from tagalong.vmm.bugs import unexpected
from tagalong.vmm.record import MigrationRecord

# Rounds are as many as the VMM takes time: the limit on them is about the guest, not the VMM.
_ANY_ROUNDS: Final = 1_000_000

_SHOWN_ROUNDS: Final = 100

# Between the attempts of a standing order, doubled after each.
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0

# A destination that has rejected a source is at its address again after a moment.
_LISTENS_AGAIN_S: Final = 10.0
_LISTEN_POLL_S: Final = 0.05

Emit = Callable[[MigrationRecord], None]


@dataclass(frozen=True)
class VmmAccess:
    """How to reach the VMM: its monitor, and the library in its process.

    `settings`: where the VMM's own settings are noted while we drive it. `guest_id`: what names
    its guest, as in MachineDescription.
    """

    monitor: VmmMonitor
    library: Path
    settings: SettingsFile
    guest_id: bytes = b""


class TagsOutgoing:
    """The outgoing migrations of one guest's tags; `record` is the last one's.

    `emit` gets the record in each new status, in the event loop's thread.
    """

    def __init__(self, access: VmmAccess, emit: Emit) -> None:
        self.record: MigrationRecord | None = None
        self._access = access
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._cancelled = threading.Event()
        self._request: MigrationRequest | None = None
        self._done = asyncio.Event()

    @property
    def is_under_way(self) -> bool:
        """Return whether a migration is, or waits for the VMM's."""
        return self.record is not None and not self.record.status.is_final

    def start(self, request: MigrationRequest) -> None:
        """Begin to send tags, now or when the VMM migrates. Raises RunStateError if one is on."""
        if self.is_under_way:
            raise RunStateError("There's a migration process in progress")
        self.record = MigrationRecord()
        self._cancelled, self._done = threading.Event(), asyncio.Event()
        self._request = request
        self._emit(self.record)
        run = partial(self._run, request, self._cancelled)
        threading.Thread(target=run, name="tags", daemon=True).start()

    @property
    def awaits_vmm(self) -> str | None:
        """Return where the tags are to go once the VMM migrates; None if they wait for nothing."""
        if self.record is None or self.record.status is not MigrationStatus.SETUP:
            return None
        request = self._request
        return request.uri if request is not None and request.vmm_uri is None else None

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

    def _departure(self, request: MigrationRequest) -> WatchedDeparture:
        if request.vmm_uri is None:
            return WatchedDeparture(self._access.monitor, self._cancelled)
        limit_ms = request.settings.downtime_limit
        drive = Drive(request.vmm_uri, limit_ms, self._access.settings)
        overlaps = request.switchover is Switchover.OVERLAP
        kind = OverlappingDeparture if overlaps else DrivenDeparture
        return kind(self._access.monitor, self._cancelled, drive)

    # --- in the migration's thread ---

    def _run(self, request: MigrationRequest, cancelled: threading.Event) -> None:
        pause_s = _FIRST_PAUSE_S
        while self._is_to_try_again(request, cancelled):
            cancelled.wait(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _is_to_try_again(self, request: MigrationRequest, cancelled: threading.Event) -> bool:
        """Send the tags; return whether the order still stands."""
        departure = self._departure(request)
        try:
            result = self._send(request, departure, cancelled)
        except Exception as error:  # noqa: BLE001 (a bug of ours must not lose the VM)
            failure = error if isinstance(error, TagalongError) else unexpected(error)
            departure.abandon(has_committed=isinstance(failure, HandoverUncertainError))
            stands = request.standing and _may_stand(failure) and not cancelled.is_set()
            self._call(partial(self._failed, failure, departure, stands=stands))
            return stands
        self._call(partial(self._completed, result))
        return False

    def _send(
        self, request: MigrationRequest, departure: WatchedDeparture, cancelled: threading.Event
    ) -> MigrationResult:
        if request.vmm_uri is None:
            self._require_possible()
            departure.wait_for_start()
        with closing(LibraryLink(self._access.library)) as link, _logging(link):
            if _may_stay(request, departure):
                report = self._compare_or_send(request, departure, cancelled, link)
            else:
                guest = DepartingGuest(link, departure, guest_id=self._access.guest_id)
                report = self._migrate(request, departure, cancelled, guest)
        end = departure.finish()
        report = replace(report, rounds=_merged(report.rounds))
        return MigrationResult(report, vmm=_vmm_report(end, departure))

    def _require_possible(self) -> None:
        """Refuse by name, before the VMM migrates, what would be refused once it does."""
        require_no_postcopy(self._access.monitor)
        with closing(LibraryLink(self._access.library)) as link:
            require_usable(link.state())

    def _compare_or_send(
        self,
        request: MigrationRequest,
        departure: WatchedDeparture,
        cancelled: threading.Event,
        link: LibraryLink,
    ) -> MigrationReport:
        """Hand tags over that stay in place, or send them.

        They are sent if the memory is not shared after all, if the destination's has other tags, or
        if its release cannot compare.
        """
        until = time.monotonic()
        staying = StayingGuest(link, departure, guest_id=self._access.guest_id)
        if staying.is_shared:
            try:
                return self._migrate(request, departure, cancelled, staying)
            except MigrationError as error:
                if not _must_send(error):
                    raise
            until = time.monotonic() + _LISTENS_AGAIN_S
        staying.close()
        while True:
            guest = DepartingGuest(link, departure, guest_id=self._access.guest_id)
            try:
                return self._migrate(request, departure, cancelled, guest)
            except MigrationError as error:
                is_early = _was_not_heard(error) and time.monotonic() < until
                if not is_early or cancelled.wait(_LISTEN_POLL_S):
                    raise

    def _migrate(
        self,
        request: MigrationRequest,
        departure: WatchedDeparture,
        cancelled: threading.Event,
        guest: DepartingGuest,
    ) -> MigrationReport:
        steering = BesideSteering(departure)
        departure.is_ending, departure.no_vcpu_runs = guest.is_ending, guest.no_vcpu_runs
        steering.confirm_with(guest.require_final)
        with closing(guest):
            return migrate.migrate_to(
                request.uri,
                guest,
                replace(request.options(), max_rounds=_ANY_ROUNDS),
                progress=partial(self._tell_progress, departure),
                cancel=cancelled,
                steering=steering,
            )

    def _tell_progress(self, departure: WatchedDeparture, moment: SendProgress) -> None:
        if departure.stopped_at is None:  # later a report would only add to the downtime
            self._call(partial(self._progressed, moment))

    # --- in the event loop's thread ---

    def _progressed(self, progress: SendProgress) -> None:
        if self.record is not None:
            self.record.progress = progress
            if self.record.status is MigrationStatus.SETUP:
                self._advance(MigrationStatus.ACTIVE)

    def _completed(self, result: MigrationResult) -> None:
        if self.record is not None:
            self.record.report = result
        self._end(MigrationStatus.COMPLETED)

    def _failed(self, error: TagalongError, departure: WatchedDeparture, *, stands: bool) -> None:
        told = explained(error, departure)
        if self.record is not None:
            self.record.error = told
        is_order = isinstance(told, MigrationCancelledError)
        status = MigrationStatus.CANCELLED if is_order else MigrationStatus.FAILED
        if not stands:
            self._end(status)
            return
        self._advance(status)
        self.record = MigrationRecord()
        self._emit(self.record)

    def _end(self, status: MigrationStatus) -> None:
        self._advance(status)
        self._done.set()

    def _advance(self, status: MigrationStatus) -> None:
        if self.record is not None and self.record.advance(status):
            self._emit(self.record)

    def _call(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(function)


@contextmanager
def _logging(link: LibraryLink) -> Iterator[None]:
    """Let a VMM that ends wait for its last tags, from here on: an update in place is quick."""
    link.start_log()
    try:
        yield
    finally:
        with suppress(HostError):
            link.stop_log()


def _may_stay(request: MigrationRequest, departure: WatchedDeparture) -> bool:
    """Return whether the tags may be where the destination needs them, and can be compared."""
    answers = isinstance(parse_address(request.uri), TcpAddress | UnixAddress)
    is_ours = request.vmm_uri is not None
    return answers and not is_ours and not request.drop_tags and departure.keeps_memory


def _was_not_heard(error: MigrationError) -> bool:
    """Return whether the destination may have had no listener yet, or one that it was closing.

    A connection that waits in the queue of a listener when that is closed ends in set-up.
    """
    is_lost = type(error) is MigrationError and error.stage is MigrationStage.SETUP
    return is_lost or error.stage is MigrationStage.CONNECT


def _must_send(error: MigrationError) -> bool:
    """Return whether tags that could not be handed over in place may be sent instead.

    Not after any other failure: if the guest runs on here, it still has the memory that the
    destination would write to.
    """
    is_other_memory = isinstance(error, DigestMismatchError)
    is_cancelled = isinstance(error, MigrationCancelledError)
    return is_other_memory or (error.stage is MigrationStage.SETUP and not is_cancelled)


def _may_stand(error: TagalongError) -> bool:
    """Return whether a standing order is still one after this error."""
    return not isinstance(error, HandoverUncertainError | GuestEndedError)


def _vmm_report(end: VmmMigration | None, departure: WatchedDeparture) -> VmmReport | None:
    if end is None or not isinstance(departure, DrivenDeparture):
        return None
    return VmmReport(
        status=end.status,
        total_ms=end.total_ms or 0,
        downtime_ms=round((end.downtime_ms or 0) + departure.held_ms),
        tags_ms=departure.tags_ms,
        moments_s=departure.moments_s(),
        transferred_bytes=end.transferred_bytes or 0,
    )


def _merged(rounds: Sequence[RoundReport]) -> tuple[RoundReport, ...]:
    """Return at most _SHOWN_ROUNDS rounds with the same sums: neighbours become one."""
    share = -(-len(rounds) // _SHOWN_ROUNDS)
    merged: list[RoundReport] = []
    for at in range(0, len(rounds), max(share, 1)):
        part = rounds[at : at + share]
        merged.append(
            RoundReport(
                number=len(merged) + 1,
                pages=sum(each.pages for each in part),
                data_bytes=sum(each.data_bytes for each in part),
                data_bytes_wire=sum(each.data_bytes_wire for each in part),
                tag_bytes_raw=sum(each.tag_bytes_raw for each in part),
                tag_bytes_wire=sum(each.tag_bytes_wire for each in part),
                duration_s=sum(each.duration_s for each in part),
                dirty_pages_left=part[-1].dirty_pages_left,
            )
        )
    return tuple(merged)
