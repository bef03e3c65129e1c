"""Sends a guest's tags away: one migration at a time, in a thread, with its books in the loop.

setup -> active -> completed    the tags are there; the VMM's migration has ended, if we drove it
                -> failed       the guest runs here, or the message says how to go on
                -> cancelled    as failed
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from tagalong import migrate
from tagalong.beside.guest import DepartingGuest
from tagalong.beside.link import LibraryLink
from tagalong.beside.monitor import VmmMigration, VmmMonitor
from tagalong.beside.switchover import BesideSteering, Drive, DrivenDeparture, WatchedDeparture
from tagalong.errors import (
    HandoverUncertainError,
    MigrationCancelledError,
    MigrationError,
    RunStateError,
    TagalongError,
)
from tagalong.migrate import RoundReport, SendProgress
from tagalong.qapi.migration import MigrationRequest, MigrationStatus
from tagalong.qapi.reports import MigrationResult, VmmReport
from tagalong.vmm.bugs import unexpected
from tagalong.vmm.record import MigrationRecord

# Rounds are as many as the VMM takes time: the limit on them is about the guest, not the VMM.
_ANY_ROUNDS: Final = 1_000_000

_SHOWN_ROUNDS: Final = 100

Emit = Callable[[MigrationRecord], None]


@dataclass(frozen=True)
class VmmAccess:
    """How to reach the VMM: its monitor, and the library in its process."""

    monitor: VmmMonitor
    library: Path


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
        self._steering: BesideSteering | None = None
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
        departure = self._departure(request)
        self._steering = BesideSteering(departure)
        self._emit(self.record)
        run = partial(self._run, request, departure, self._steering, self._cancelled)
        threading.Thread(target=run, name="tags", daemon=True).start()

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
        drive = Drive(request.vmm_uri, request.settings.downtime_limit)
        return DrivenDeparture(self._access.monitor, self._cancelled, drive)

    # --- in the migration's thread ---

    def _run(
        self,
        request: MigrationRequest,
        departure: WatchedDeparture,
        steering: BesideSteering,
        cancelled: threading.Event,
    ) -> None:
        try:
            result = self._send(request, departure, steering, cancelled)
        except TagalongError as error:
            departure.thaw()
            self._call(partial(self._failed, error, departure))
        except Exception as error:  # noqa: BLE001 (a bug of ours must not lose the VM)
            departure.thaw()
            self._call(partial(self._failed, unexpected(error), departure))
        else:
            self._call(partial(self._completed, result))

    def _send(
        self,
        request: MigrationRequest,
        departure: WatchedDeparture,
        steering: BesideSteering,
        cancelled: threading.Event,
    ) -> MigrationResult:
        if request.vmm_uri is None:
            departure.wait_for_start()
        with (
            closing(LibraryLink(self._access.library)) as link,
            closing(DepartingGuest(link, departure)) as guest,
        ):
            report = migrate.migrate_to(
                request.uri,
                guest,
                replace(request.options(), max_rounds=_ANY_ROUNDS),
                progress=lambda moment: self._call(partial(self._progressed, moment)),
                cancel=cancelled,
                steering=steering,
            )
        end = departure.finish()
        report = replace(report, rounds=_merged(report.rounds))
        return MigrationResult(report, vmm=_vmm_report(end))

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

    def _failed(self, error: TagalongError, departure: WatchedDeparture) -> None:
        if self.record is not None:
            self.record.error = _explained(error, departure)
        is_order = isinstance(error, MigrationCancelledError)
        self._end(MigrationStatus.CANCELLED if is_order else MigrationStatus.FAILED)

    def _end(self, status: MigrationStatus) -> None:
        self._advance(status)
        self._done.set()

    def _advance(self, status: MigrationStatus) -> None:
        if self.record is not None and self.record.advance(status):
            self._emit(self.record)

    def _call(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(function)


def _explained(error: TagalongError, departure: WatchedDeparture) -> TagalongError:
    """Return the error for the operator: where the guest is, and how to go on."""
    driven = isinstance(departure, DrivenDeparture)
    if isinstance(error, HandoverUncertainError) and driven:
        # The VMM has handed nothing over, so its own cancellation settles it.
        explained: TagalongError = MigrationError(
            f"the destination did not confirm the tags ({error.__cause__ or error}); the VMM's "
            "migration was cancelled, its guest stays here"
        )
    elif driven or departure.stopped_at is None:
        return error
    else:
        explained = type(error)(
            f"{error}. If the VMM's migration has completed, its guest is paused here and held at "
            "the destination, which does not run it without its tags: send them again (tagalong "
            "migrate CONTROL URI), or end the destination and then continue the guest here (cont)"
        )
    explained.__cause__ = error.__cause__
    if isinstance(explained, MigrationError):
        explained.stage = getattr(error, "stage", None)
    return explained


def _vmm_report(end: VmmMigration | None) -> VmmReport | None:
    if end is None:
        return None
    return VmmReport(
        status=end.status,
        total_ms=end.total_ms or 0,
        downtime_ms=end.downtime_ms or 0,
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
