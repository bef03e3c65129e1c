"""Drives the VMM's migration, around that of its guest's tags.

    begin       the destination is ready for tags: the VMM starts to copy
    let_switch_over    most tags are there: the VMM may go on, and stop its guest in time (pace.py)
    pre-switchover     the VMM has stopped it and waits: the last tags are sent
    hand_over   all tags are there: the VMM goes on, and ends its migration
    thaw        anything failed: the VMM's migration is cancelled, its guest runs on

At `pre-switchover` no vCPU runs, the VMM has not handed anything over, and a cancellation costs
the guest no more than the pause. So whatever fails with the tags ends there: the guest runs on.

Every wait for the VMM ends when the VMM makes no progress (`Stall`).
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tagalong.beside.monitor import (
    ACTIVE,
    STOPPED_FOR_MIGRATION,
    PreparedOrder,
    VmmMigration,
    VmmMonitor,
)
from tagalong.beside.pace import Pace
from tagalong.beside.switchover import NO_ROUND_S, WatchedDeparture, require_no_postcopy
from tagalong.beside.vmm_settings import (
    EVENTS,
    PARAMETERS,
    PAUSE_FIRST,
    RETURN_PATH,
    SettingsFile,
    VmmSettings,
)
from tagalong.errors import CommandError, ConvergenceError, MigrationError, TagalongError
from tagalong.progress import CancelToken

# A VMM that moves no byte and changes no status for so long is stuck, or its destination is.
STALLED_S: Final = 60.0

_WAIT_S: Final = 0.05

# A connection to the VMM's monitor that has ended is there again within this.
_RECONNECTS_S: Final = 5.0

_CONTINUE: Final = "migrate-continue"
_AT_PAUSE: Final = {"state": "pre-switchover"}

# To these the VMM's stream is a conversation, in which the destination confirms its end.
_WITH_RETURN_PATH = ("tcp:", "unix:", "vsock:")


class Stall:
    """Notices that a VMM's migration makes no progress; `what` is being waited for."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._last: object = None
        self._since = time.monotonic()

    def note(self, migration: VmmMigration) -> None:
        """Look at what the VMM says. Raises MigrationError if it has said the same for too long."""
        now = (migration.status, migration.transferred_bytes)
        if now != self._last:
            self._last, self._since = now, time.monotonic()
        elif time.monotonic() - self._since > STALLED_S:
            raise MigrationError(
                f"waited for {self._what}: the VMM's migration has made no progress in "
                f"{STALLED_S:.0f} s (it is {migration.status}, with "
                f"{migration.transferred_bytes or 0} bytes sent): look at its destination, and at "
                "the link to it"
            )


def wait_for_end(monitor: VmmMonitor, what: str) -> VmmMigration:
    """Wait until the VMM's migration is over; return what the VMM says of it.

    Raises MigrationError, with `what` in it, if it makes no progress.
    """
    stall = Stall(what)
    while (now := monitor.migration()).status in ACTIVE:
        stall.note(now)
        monitor.news.wait(_WAIT_S)
    return now


def has_left(monitor: VmmMonitor, end: VmmMigration) -> bool:
    """Return whether a VMM's migration that ended so has taken its guest away.

    A VMM says "completed" of the one that brought its guest, too, until it begins another.
    """
    return end.status == "completed" and monitor.run_state() in STOPPED_FOR_MIGRATION


@dataclass(frozen=True)
class Drive:
    """How to drive the VMM's migration: its URI, and the downtime that the operator allows.

    `settings`: where the VMM's own settings are noted meanwhile.
    """

    uri: str
    max_downtime_ms: int
    settings: SettingsFile


class DrivenDeparture(WatchedDeparture):
    """A guest whose VMM we drive.

    `unsettled`: why the VMM did not let its migration be ended, or does not say how it has ended.
    `has_moved`: it had handed its guest over before it could be cancelled.
    """

    def __init__(self, monitor: VmmMonitor, cancel: CancelToken, drive: Drive) -> None:
        super().__init__(monitor, cancel)
        self.unsettled: TagalongError | None = None
        self.has_moved = False
        self._drive = drive
        self._has_begun = False
        self._pace = Pace(monitor, {}, drive.max_downtime_ms)
        self._has_continued, self._continued_at = False, 0.0
        self._order: PreparedOrder | None = None
        self._is_answer_due = False
        self._refusal: TagalongError | None = None
        self._before = VmmSettings()
        self._stall = Stall("the VMM to copy its guest's memory")

    def begin(self) -> None:
        """As VmmDeparture: let the VMM migrate, up to its pre-switchover."""
        monitor = self._monitor
        require_no_postcopy(monitor)
        capabilities = monitor.capabilities()
        if self.waits_for_tags and PAUSE_FIRST not in capabilities:
            raise MigrationError(
                f"the VMM cannot pause before it switches over ({PAUSE_FIRST}): its last tags "
                "could not be sent in time"
            )
        wanted = self._wanted(capabilities)
        before = {name: capabilities[name] for name in wanted}
        # What an attempt before this one could not restore is still noted: then the VMM has ours.
        self._before = self._drive.settings.read() or VmmSettings(
            before, monitor.parameters(PARAMETERS)
        )
        self._drive.settings.write(self._before)
        self._pace = Pace(monitor, self._before.parameters, self._drive.max_downtime_ms)
        try:
            VmmSettings(wanted).apply(monitor)
            self._pace.begin()
            self._order = monitor.prepare(_CONTINUE, _AT_PAUSE) if self.waits_for_tags else None
            self._has_begun = True  # also if no answer comes
            monitor.ask("migrate", {"uri": self._drive.uri})
        except CommandError as error:
            self._has_begun = False
            self._forget_order()
            self._restore()
            self.has_vmm_failed = True
            raise MigrationError(
                f"the VMM does not migrate to {self._drive.uri}: {error}"
            ) from error
        monitor.news.hurries = True
        self._seen_at = 0.0

    def _wanted(self, capabilities: Mapping[str, bool]) -> dict[str, bool]:
        """Return the capabilities that the VMM needs, of those that it has."""
        has_answer = self._drive.uri.startswith(_WITH_RETURN_PATH)
        names = (PAUSE_FIRST, EVENTS, *((RETURN_PATH,) if has_answer else ()))
        return {name: True for name in names if name in capabilities}

    @property
    def next_round_s(self) -> float:
        """As WatchedDeparture: so that none is under way when the guest stops."""
        pace_s = self._pace.next_round_s
        is_at_end = self.is_near_end and self._monitor.news.has_stopped
        return max(pace_s, NO_ROUND_S) if is_at_end else pace_s

    @property
    def waits_for_tags(self) -> bool:
        """As WatchedDeparture: it waits at its pre-switchover."""
        return True

    @property
    def is_near_end(self) -> bool:
        """As VmmDeparture: once the VMM's first pass is over."""
        return self._pace.is_near_end

    def note_due(self, ram_bytes: int) -> None:
        """As VmmDeparture: the VMM waits for the tags of what it has begun to copy."""
        self._pace.note_due(ram_bytes)

    def let_switch_over(self) -> None:
        """Let the VMM copy on, and stop its guest when its own rest is small enough."""
        self._pace.note_round()

    def check(self) -> None:
        """As VmmDeparture. Raises MigrationError, too, if the VMM makes no progress."""
        super().check()
        if self.stopped_at is None:
            self._stall.note(self._status)
            if self._status.status == "active":
                syncs = max(self._status.dirty_syncs, self._monitor.news.dirty_syncs)
                self._pace.note_syncs(syncs)
        self.check_time()

    def check_time(self) -> None:
        """As VmmDeparture: the last tags must not take longer than the operator allows."""
        if self.stopped_at is None or self._has_continued:
            return
        passed_ms = (time.monotonic() - self.stopped_at) * 1000
        if passed_ms > self._drive.max_downtime_ms:
            raise ConvergenceError(
                f"the last tags take longer than the guest may be stopped ({passed_ms:.0f} ms of "
                f"{self._drive.max_downtime_ms} ms): nothing was handed over"
            )

    @property
    def _is_at_rest(self) -> bool:
        """Return whether the VMM, whose guest is stopped, waits for us."""
        return self._status.status == "pre-switchover"

    @property
    def is_final(self) -> bool:
        """As VmmDeparture: the guest is stopped and the VMM waits for us."""
        return super().is_final and self._is_at_rest

    def thaw(self) -> None:
        """As Freezer: cancel the VMM's migration, so that its guest runs here again."""
        self._forget_order()
        self._monitor.news.hurries = False
        if not self._has_begun or self._has_continued:
            return
        self._has_begun = False
        try:
            self._monitor.ask("migrate_cancel")
            end = wait_for_end(self._monitor, "the VMM to cancel its migration")
            self.has_moved = has_left(self._monitor, end)
        except TagalongError as error:
            self.unsettled = error
        else:
            self._restore()

    def hand_over(self) -> None:
        """Let the VMM hand its guest over: all tags are there. Raises nothing."""
        self._has_continued, self._continued_at = True, time.monotonic()
        self._monitor.news.hurries = False
        self._is_answer_due = self._order is not None and self._order.send()
        self.moments.note("continued")
        if not self._is_answer_due:
            self._refusal = self._error_of(lambda: self._monitor.ask(_CONTINUE, _AT_PAUSE))

    @staticmethod
    def _error_of(call: Callable[[], object]) -> TagalongError | None:
        try:
            call()
        except TagalongError as error:
            return error
        return None

    def finish(self) -> VmmMigration:
        """Wait for the end of the VMM's migration, and return what it says of that.

        Raises MigrationError if it failed: its guest runs here again; as wait_for_end if the VMM
        does not say, `unsettled` then.
        """
        if self._is_answer_due and self._order is not None:
            self._refusal = self._error_of(self._order.require_answer)
        self._forget_order()
        if isinstance(self._refusal, CommandError) and not self._has_gone_on:
            self._has_continued = False
            raise MigrationError(
                f"the VMM does not switch over: {self._refusal}"
            ) from self._refusal
        if self._refusal is not None:
            self._tell_again(self._refusal)
        try:
            end = wait_for_end(self._monitor, "the VMM to hand its guest over")
        except TagalongError as error:
            self.unsettled = error
            raise
        self._restore()
        if end.status != "completed":
            self.has_vmm_failed = True
            raise MigrationError(f"all tags had arrived, then {self.in_words(end)}")
        return end

    def _tell_again(self, refusal: TagalongError | None) -> None:
        """Repeat the order to go on until it is answered: it may be lost, or be obeyed already.

        In that case the VMM refuses the second one. It must not be cancelled: its guest may run at
        the destination.
        """
        until = time.monotonic() + _RECONNECTS_S
        while refusal is not None and not isinstance(refusal, CommandError):
            if time.monotonic() > until:
                return
            time.sleep(_WAIT_S)
            refusal = self._error_of(lambda: self._monitor.ask(_CONTINUE, _AT_PAUSE))

    @property
    def _has_gone_on(self) -> bool:
        """Return whether the VMM, which refuses to go on, was told so by another client."""
        with suppress(TagalongError):
            return self._monitor.migration().status in ("device", "completed")
        return False

    @property
    def has_handed_over(self) -> bool:
        """Return whether the VMM was told to go on: all tags are at the destination."""
        return self._has_continued

    @property
    def _vmm_uri(self) -> str | None:
        return self._drive.uri

    @property
    def tags_ms(self) -> float:
        """Return how long the VMM has waited, with its guest stopped, for the tags."""
        told = self._monitor.news.ms_between("pre-switchover", "device")
        if told is not None or self.stopped_at is None:
            return told or 0.0
        return (self._continued_at - self.stopped_at) * 1000

    @property
    def held_ms(self) -> float:
        """Return how long the guest was stopped beyond what the VMM knows of."""
        return 0.0

    def _forget_order(self) -> None:
        if self._order is not None:
            self._order.close()
            self._order = None

    def _restore(self) -> None:
        """Leave the VMM's settings as they were."""
        with suppress(TagalongError):
            self._before.apply(self._monitor)
            self._drive.settings.remove()


def settle(monitor: VmmMonitor, settings: SettingsFile) -> str | None:
    """End what an earlier process beside this VMM drove, and did not end; return what to tell.

    None: there was nothing. Raises as VmmMonitor's methods, and MigrationError if the VMM makes no
    progress.
    """
    before = settings.read()
    if before is None:
        return None
    if _can_be_cancelled(monitor):
        with suppress(CommandError):  # it ends by itself just now
            monitor.ask("migrate_cancel")
    end = wait_for_end(monitor, "the end of a migration that an earlier process had begun")
    left = has_left(monitor, end)
    before.apply(monitor)
    settings.remove()
    words = (
        "the process beside this VMM was ended while it moved the guest: the VMM's migration is "
        f"{end.status}"
    )
    if left:
        return (
            f"{words}, and the guest is at the destination; if its tags had not arrived there, it "
            "is held: then send them (tagalong migrate CONTROL URI)"
        )
    return f"{words}, and its guest is here ({monitor.run_state()})"


def _can_be_cancelled(monitor: VmmMonitor) -> bool:
    """Return whether a VMM's migration is under way, and its guest certainly not elsewhere.

    All tags may be there once the VMM has stopped its guest without waiting (overlapping.py). Then
    the destination may have its guest running before the source knows.
    """
    status = monitor.migration().status
    if status == "pre-switchover":
        return True
    is_copying = status in ACTIVE - {"device"}
    return is_copying and monitor.run_state() not in STOPPED_FOR_MIGRATION
