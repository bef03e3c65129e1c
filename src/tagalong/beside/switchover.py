"""When the VMM has stopped its guest for good, and what becomes of the VMM's migration.

    Driven   we start the VMM's migration once the destination is ready for tags, let it switch
             over once most tags are there, and hold it at `pre-switchover` for the last ones
    Watched  somebody else does all that; the last tags are sent once the guest has stopped

At `pre-switchover` no vCPU runs, the VMM has not handed anything over, and a cancellation costs
the guest no more than the pause. So whatever fails with the tags ends there: the guest runs on.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tagalong.beside.monitor import ACTIVE, STOPPED_FOR_MIGRATION, VmmMigration, VmmMonitor
from tagalong.errors import (
    CommandError,
    ConvergenceError,
    GuestEndedError,
    MigrationCancelledError,
    MigrationError,
    TagalongError,
)
from tagalong.machine import RunState
from tagalong.migrate import Steering
from tagalong.progress import CancelToken

_PAUSE_FIRST: Final = "pause-before-switchover"
_LOOK_AGAIN_S: Final = 0.01
_ROUND_EVERY_S: Final = 0.2
_LIMIT: Final = "downtime-limit"

# Until most tags have arrived, the VMM is to copy on: it then switches over at zero only.
_NOT_YET_MS: Final = 0

_ENDED = frozenset(("shutdown", "guest-panicked", "internal-error"))
_NO_POSTCOPY = (
    "the VMM is set to post-copy (postcopy-ram), in which its guest runs at the destination before "
    "its memory, and its tags, are there: switch that off (migrate-set-capabilities)"
)


def require_no_postcopy(monitor: VmmMonitor) -> None:
    """Raise MigrationError, naming the capability, if the VMM may switch to post-copy."""
    if monitor.capabilities().get("postcopy-ram"):
        raise MigrationError(_NO_POSTCOPY)


class WatchedDeparture:
    """A guest that somebody else migrates; implements guest.VmmDeparture and machine.Freezer."""

    def __init__(self, monitor: VmmMonitor, cancel: CancelToken) -> None:
        self.stopped_at: float | None = None
        self.is_ready_for_switchover = False
        self._monitor = monitor
        self._cancel = cancel
        self._seen_at = 0.0
        self._status, self._run_state = VmmMigration(), "running"

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
        if self._status.status in ("failed", "cancelled", "cancelling"):
            why = f": {self._status.error}" if self._status.error else ""
            kind = MigrationError if self._status.status == "failed" else MigrationCancelledError
            raise kind(f"the VMM's own migration is {self._status.status}{why}")
        if self._status.status.startswith("postcopy"):
            raise MigrationError(_NO_POSTCOPY)
        if self._status.status not in ACTIVE and self._run_state not in STOPPED_FOR_MIGRATION:
            raise MigrationError(
                f"the VMM does not migrate any more ({self._status.status}), and its guest is "
                f"{self._run_state}: the tags go nowhere without it"
            )

    @property
    def is_final(self) -> bool:
        """As VmmDeparture."""
        self._look()
        is_stopped = self._run_state in STOPPED_FOR_MIGRATION
        if is_stopped and self.stopped_at is None:
            self.stopped_at = time.monotonic()
        return is_stopped

    # --- machine.Freezer ---

    def freeze(self) -> bool:
        """As Freezer: the VMM has stopped the guest already."""
        self.check()
        return True

    def thaw(self) -> None:
        """As Freezer: the VMM's migration is not ours to end."""

    # --- the end ---

    def let_switch_over(self) -> None:
        """Note that most tags have arrived."""
        self.is_ready_for_switchover = True

    def finish(self) -> VmmMigration | None:
        """Return what became of the VMM's migration; None: its driver knows."""
        return None

    def wait_for_start(self) -> None:
        """Wait until the VMM migrates, or has. Raises MigrationCancelledError if that is ordered.

        The order may be given long before.
        """
        while True:
            self._seen_at = 0.0
            self._look()
            if self._status.status in ACTIVE or self._run_state == "postmigrate":
                return
            self._require_wanted()
            time.sleep(_ROUND_EVERY_S)

    def _require_wanted(self) -> None:
        if self._cancel.is_set():
            raise MigrationCancelledError("the migration was cancelled")

    def _look(self) -> None:
        """Ask the VMM, at most a hundred times a second."""
        if time.monotonic() - self._seen_at < _LOOK_AGAIN_S:
            return
        self._run_state = self._monitor.run_state()
        self._status = self._monitor.migration()
        self._seen_at = time.monotonic()


@dataclass(frozen=True)
class Drive:
    """How to drive the VMM's migration: its URI, and the downtime that the operator allows."""

    uri: str
    max_downtime_ms: int


class DrivenDeparture(WatchedDeparture):
    """A guest whose VMM we drive."""

    def __init__(self, monitor: VmmMonitor, cancel: CancelToken, drive: Drive) -> None:
        super().__init__(monitor, cancel)
        self._drive = drive
        self._has_begun = False
        self._has_continued = False
        self._before: dict[str, bool] = {}
        self._limit_before: int | None = None

    def begin(self) -> None:
        """As VmmDeparture: let the VMM migrate, up to its pre-switchover."""
        monitor = self._monitor
        require_no_postcopy(monitor)
        capabilities = monitor.capabilities()
        if _PAUSE_FIRST not in capabilities:
            raise MigrationError(
                f"the VMM cannot pause before it switches over ({_PAUSE_FIRST}): its last tags "
                "could not be sent in time"
            )
        self._before = {_PAUSE_FIRST: capabilities[_PAUSE_FIRST]}
        self._limit_before = monitor.parameter(_LIMIT)
        try:
            monitor.set_capabilities({_PAUSE_FIRST: True})
            monitor.ask("migrate-set-parameters", {_LIMIT: _NOT_YET_MS})
            monitor.ask("migrate", {"uri": self._drive.uri})
        except CommandError as error:
            self._restore()
            raise MigrationError(f"the VMM does not migrate: {error}") from error
        self._has_begun = True
        self._seen_at = 0.0

    def let_switch_over(self) -> None:
        """Let the VMM stop its guest when its own rest is small enough."""
        if not self.is_ready_for_switchover:
            self._monitor.ask("migrate-set-parameters", {_LIMIT: self._drive.max_downtime_ms})
        super().let_switch_over()

    def check(self) -> None:
        """As VmmDeparture. Raises ConvergenceError if the last tags take too long."""
        super().check()
        if self.stopped_at is None or self._has_continued:
            return
        passed_ms = (time.monotonic() - self.stopped_at) * 1000
        if passed_ms > self._drive.max_downtime_ms:
            raise ConvergenceError(
                f"the last tags take longer than the guest may be stopped ({passed_ms:.0f} ms of "
                f"{self._drive.max_downtime_ms} ms): nothing was handed over"
            )

    @property
    def is_final(self) -> bool:
        """As VmmDeparture: the guest is stopped and the VMM waits for us."""
        return super().is_final and self._status.status == "pre-switchover"

    def thaw(self) -> None:
        """As Freezer: cancel the VMM's migration, so that its guest runs here again."""
        if not self._has_begun or self._has_continued:
            return
        self._has_begun = False
        with suppress(TagalongError):
            self._monitor.ask("migrate_cancel")
            self._wait_for_end()
        self._restore()

    def finish(self) -> VmmMigration:
        """Let the VMM hand its guest over, and return what it says of that.

        Raises MigrationError if it failed: its guest runs here again.
        """
        self._has_continued = True
        try:
            self._monitor.ask("migrate-continue", {"state": "pre-switchover"})
            end = self._wait_for_end()
        except CommandError as error:
            self._has_continued = False
            raise MigrationError(f"the VMM does not switch over: {error}") from error
        self._restore()
        if end.status != "completed":
            raise MigrationError(
                f"all tags had arrived, then the VMM's own migration was {end.status}"
                f"{f': {end.error}' if end.error else ''}"
            )
        return end

    def _wait_for_end(self) -> VmmMigration:
        while (end := self._monitor.migration()).status in ACTIVE:
            time.sleep(_LOOK_AGAIN_S)
        return end

    def _restore(self) -> None:
        """Leave the VMM's settings as they were."""
        with suppress(TagalongError):
            self._monitor.set_capabilities(self._before)
            if self._limit_before is not None:
                self._monitor.ask("migrate-set-parameters", {_LIMIT: self._limit_before})


class BesideSteering(Steering):
    """Steering that ends the rounds when the VMM has stopped its guest, and not before."""

    def __init__(self, departure: WatchedDeparture) -> None:
        super().__init__(freezer=departure)
        self._departure = departure

    def begin_switchover(self) -> bool:
        """As Steering. Waits a while for the VMM: meanwhile few pages become due again."""
        self._departure.let_switch_over()
        until = time.monotonic() + _ROUND_EVERY_S
        while not self._departure.is_final:
            self._departure.check()
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_AGAIN_S)
        return super().begin_switchover()
