"""When the VMM has stopped its guest for good, so that the last tags can be read.

    Watched  another client drives the VMM's migration; the last tags are sent once the guest has
             stopped
    Driven   we do (driving.py)

The VMM's events wake us, so that a stopped guest waits for no poll; the VMM is asked all the same,
less often, because an event can be lost with its connection.
"""

import time
from collections.abc import Callable
from typing import Final

from tagalong.beside.moments import Moments
from tagalong.beside.monitor import (
    ACTIVE,
    STOPPED_FOR_MIGRATION,
    TELLS_WITHIN_S,
    UPDATE_IN_PLACE,
    VmmMigration,
    VmmMonitor,
)
from tagalong.errors import (
    CommandError,
    ControlError,
    GuestEndedError,
    MigrationCancelledError,
    MigrationError,
)
from tagalong.machine import RunState
from tagalong.migrate import Steering
from tagalong.progress import CancelToken

LOOK_AGAIN_S: Final = 0.01
_LOOK_ALTHOUGH_TOLD_S: Final = 0.2
_ROUND_EVERY_S: Final = 0.2
NO_ROUND_S: Final = 2.0
"""From the guest's stop to the VMM's switch-over; longer, it was stopped for another reason."""

# A VMM that ends closes its monitor first.
_END_AFTER_MONITOR_S: Final = 2.0

_ENDED = frozenset(("shutdown", "guest-panicked", "internal-error"))
# Run states by what a VMM's events say of its migration, once its guest has stopped.
_SWITCHING = {
    "pre-switchover": "finish-migrate", "device": "finish-migrate", "completed": "postmigrate",
}  # fmt: skip
_ENDS_IN_WORDS = {
    "failed": "has failed", "cancelled": "was cancelled", "cancelling": "is being cancelled",
}  # fmt: skip
_NO_POSTCOPY = (
    "the VMM is set to post-copy (postcopy-ram), in which its guest runs at the destination before "
    "its memory, and its tags, are there: switch that off (migrate-set-capabilities)"
)


def require_no_postcopy(monitor: VmmMonitor) -> None:
    """Raise MigrationError, naming the capability, if the VMM may switch to post-copy."""
    if monitor.capabilities().get("postcopy-ram"):
        raise MigrationError(_NO_POSTCOPY)


class WatchedDeparture:
    """A guest that another client migrates; implements guest.VmmDeparture and machine.Freezer.

    `is_ending` returns whether the VMM's process ends, `no_vcpu_runs` whether every vCPU is out of
    the guest; both are set once its library can be asked. `has_vmm_failed`: the VMM's own migration
    has, or did not begin.
    """

    def __init__(self, monitor: VmmMonitor, cancel: CancelToken) -> None:
        self.stopped_at: float | None = None
        self.has_vmm_failed = False
        self.is_ready_for_switchover = False
        self.moments = Moments()
        self._monitor = monitor
        self._cancel = cancel
        self._seen_at = 0.0
        self._told: str | None = None
        self.is_ending: Callable[[], bool] = lambda: False
        self.no_vcpu_runs: Callable[[], bool] = lambda: True
        self._status, self._run_state = VmmMigration(), "running"
        monitor.news.begin()

    # --- guest.VmmDeparture ---

    @property
    def run_state(self) -> RunState:
        """As VmmDeparture."""
        self._look()
        if self._run_state in _ENDED:
            return RunState.SHUTDOWN
        return RunState.RUNNING if self._run_state == "running" else RunState.PAUSED

    def begin(self) -> None:
        """As VmmDeparture: the VMM's migration has begun already, or ended."""
        require_no_postcopy(self._monitor)

    def check(self) -> None:
        """As VmmDeparture."""
        self._look()
        if self._run_state in _ENDED:
            raise GuestEndedError("the guest has ended before it had moved")
        if self._status.status in _ENDS_IN_WORDS:
            self.has_vmm_failed = self._status.status == "failed"
            kind = MigrationError if self.has_vmm_failed else MigrationCancelledError
            raise kind(self.in_words(self._status))
        if self._status.status.startswith("postcopy"):
            raise MigrationError(_NO_POSTCOPY)
        if self._status.status not in ACTIVE and self._run_state not in STOPPED_FOR_MIGRATION:
            raise MigrationError(
                f"the VMM does not migrate any more ({self._status.status}), and its guest is "
                f"{self._run_state}: the tags go nowhere without it"
            )

    @property
    def _vmm_uri(self) -> str | None:
        """Return where the VMM migrates to, None if its driver knows."""
        return None

    def in_words(self, end: VmmMigration) -> str:
        """Return what became of the VMM's own migration, with its reason."""
        to = f" to {self._vmm_uri}" if self._vmm_uri is not None else ""
        why = f": {end.error}" if end.error else ""
        words = _ENDS_IN_WORDS.get(end.status, f"has ended ({end.status})")
        return f"the VMM's own migration{to} {words}{why}"

    def note_due(self, ram_bytes: int) -> None:
        """As VmmDeparture: how fast the VMM is, is up to who drives it."""

    def check_time(self) -> None:
        """As VmmDeparture: how long the guest is stopped is up to who drives the VMM."""

    @property
    def waits_for_tags(self) -> bool:
        """Return whether the VMM hands nothing over before all tags are there."""
        return False

    @property
    def is_near_end(self) -> bool:
        """As VmmDeparture: once most tags have arrived, at any time."""
        return self.is_ready_for_switchover

    @property
    def is_final(self) -> bool:
        """As VmmDeparture."""
        self._look()
        # QEMU's state changes before it stops its vCPUs, and its event comes after that.
        is_stopped = self._run_state in STOPPED_FOR_MIGRATION and (
            self._monitor.news.has_stopped or self.no_vcpu_runs()
        )
        if is_stopped and self.stopped_at is None:
            self.stopped_at = time.monotonic()
            self.moments.note("woken")
        return is_stopped

    @property
    def keeps_memory(self) -> bool:
        """Return whether the VMM's successor takes the guest's memory over as it is."""
        return self._monitor.migration_mode() == UPDATE_IN_PLACE

    def moments_s(self) -> dict[str, float]:
        """Return when the steps of the switch-over were, the VMM's and ours, by name."""
        return {**self._monitor.news.moments_s(), **self.moments.all_s()}

    # --- machine.Freezer ---

    def freeze(self) -> bool:
        """As Freezer: the VMM has stopped the guest already."""
        self.check()
        return True

    def thaw(self) -> None:
        """As Freezer: the VMM's migration is not ours to end."""

    # --- the end ---

    @property
    def next_round_s(self) -> float:
        """Return how long after the last round the next one is to begin."""
        # A round that begins when the guest has stopped would only delay the end.
        is_at_end = self.is_ready_for_switchover and self._monitor.news.has_stopped
        return NO_ROUND_S if is_at_end else _ROUND_EVERY_S

    def let_switch_over(self) -> None:
        """Note that most tags have arrived."""
        self.is_ready_for_switchover = True

    def hand_over(self) -> None:
        """Note that all tags are there."""

    def abandon(self, *, has_committed: bool) -> None:  # noqa: ARG002 (see OverlappingDeparture)
        """Give the migration up; `has_committed`: the destination may have all tags."""
        self.thaw()

    def finish(self) -> VmmMigration | None:
        """Return what became of the VMM's migration; None: its driver knows."""
        return None

    def wait_for_start(self) -> None:
        """Wait until the VMM migrates, or has. Raises MigrationCancelledError if that is ordered.

        The order may be given long before: there is no other end to this wait.
        """
        while True:
            self._seen_at = 0.0
            self._look()
            is_under_way = self._status.status in ACTIVE - {"cancelling"}
            if is_under_way or self._run_state == "postmigrate":
                return
            self._require_wanted()
            self._monitor.news.wait(_ROUND_EVERY_S)

    def wait_for_news(self, timeout_s: float) -> None:
        """Wait until the VMM says something, or it is time to ask, or time is up."""
        self._monitor.news.wait(min(timeout_s, self._look_again_s))

    def _require_wanted(self) -> None:
        if self._cancel.is_set():
            raise MigrationCancelledError("the migration was cancelled")

    @property
    def _look_again_s(self) -> float:
        if self._monitor.news.is_about_to_tell:
            return TELLS_WITHIN_S
        is_told = self._monitor.news.status is not None
        return _LOOK_ALTHOUGH_TOLD_S if is_told else LOOK_AGAIN_S

    def _look(self) -> None:
        """Ask the VMM, unless that was a moment ago, or its events have said what it is about."""
        news = self._monitor.news
        if news.has_stopped and news.status in _SWITCHING:
            # The guest is stopped, and each question would add to that: a VMM that hands over
            # answers none meanwhile.
            self._status, self._run_state = VmmMigration(news.status), _SWITCHING[news.status]
            return
        if news.is_about_to_tell:
            return
        if time.monotonic() - self._seen_at >= self._look_again_s or self._is_outdated:
            self._told = self._monitor.news.status
            try:
                self._run_state = self._monitor.run_state()
                self._status = self._monitor.migration()
            except ControlError as error:
                self._require_ending(error)
                self._run_state = "postmigrate"
            self._seen_at = time.monotonic()

    def _require_ending(self, error: ControlError) -> None:
        """Raise `error` unless the VMM does not answer because its process ends.

        Its driver ends it once the guest runs elsewhere; the library then keeps the process until
        the last tags have left, and the guest out of it.
        """
        until = time.monotonic() + _END_AFTER_MONITOR_S
        while not self.is_ending():
            if isinstance(error, CommandError) or time.monotonic() > until:
                raise error
            time.sleep(LOOK_AGAIN_S)

    @property
    def _is_outdated(self) -> bool:
        """Return whether an event has told of another status since the VMM was asked."""
        return self._monitor.news.status != self._told


def _nothing() -> None:
    """Check nothing."""


class BesideSteering(Steering):
    """Steering that ends the rounds when the VMM has stopped its guest, and not before."""

    def __init__(self, departure: WatchedDeparture) -> None:
        super().__init__(freezer=departure)
        self.commits_ahead = departure.waits_for_tags
        self._confirm = _nothing
        self._departure = departure

    def confirm_with(self, confirm: Callable[[], None]) -> None:
        """Let `confirm` check, before COMMIT, that the last tags are the last."""
        self._confirm = confirm

    def begin_switchover(self) -> bool:
        """As Steering. Waits a while for the VMM: meanwhile few pages become due again."""
        self._departure.let_switch_over()
        began = time.monotonic()
        while not self._departure.is_final:
            self._departure.check()
            left_s = began + self._departure.next_round_s - time.monotonic()
            if left_s < 0:
                return False
            self._departure.wait_for_news(left_s)
        return super().begin_switchover()

    def check(self) -> None:
        """As Steering: the guest must not be stopped for longer than it may be."""
        self._departure.check_time()

    def confirm_last(self) -> None:
        """As Steering."""
        self._departure.moments.note("sent")
        self._confirm()
        self._departure.moments.note("confirmed")

    def handed_over(self) -> None:
        """As Steering: the VMM may hand its guest over."""
        self._departure.moments.note("answered")
        self._departure.hand_over()
