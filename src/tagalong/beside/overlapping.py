"""Drives the VMM's migration without letting it wait: the last tags travel while it hands over.

    begin       as driving.py; but the VMM does not pause before it switches over
    stopped     the VMM hands over, and at the same time the last tags are sent
    hand_over   all tags are there: the destination's guest is held no more
    thaw        anything failed before COMMIT: the VMM's migration is cancelled, if it is not over

A guest that is stopped for its tags costs less so, and a failure more: once the VMM has handed its
guest over, that is paused here and held there until its tags have arrived after all. From COMMIT on
nothing is cancelled: the destination may have let its guest go, and a cancellation that comes at
the very end of the VMM's migration would let it run here, too.
"""

import threading
from collections.abc import Mapping
from contextlib import suppress

from tagalong.beside.driving import Drive, DrivenDeparture, has_left, wait_for_end
from tagalong.beside.monitor import VmmMigration, VmmMonitor
from tagalong.beside.vmm_settings import PAUSE_FIRST
from tagalong.errors import CommandError, ConvergenceError, TagalongError
from tagalong.progress import CancelToken


class OverlappingDeparture(DrivenDeparture):
    """A guest whose VMM we drive, and which hands over while the last tags are under way.

    `end`: of the VMM's migration, if it was waited for because the tags had failed.
    """

    waits_for_tags = False

    def __init__(self, monitor: VmmMonitor, cancel: CancelToken, drive: Drive) -> None:
        super().__init__(monitor, cancel, drive)
        self.end: VmmMigration | None = None
        self._cancelling = threading.Lock()

    def _wanted(self, capabilities: Mapping[str, bool]) -> dict[str, bool]:
        wanted = super()._wanted(capabilities)
        return {name: name != PAUSE_FIRST for name in wanted}

    @property
    def _is_at_rest(self) -> bool:
        return True  # the VMM has stopped its guest, and does not wait for us

    def check_time(self) -> None:
        """As VmmDeparture: the VMM's migration is cancelled if the last tags take too long.

        If it is too late for that, the tags go on: the guest is held until they are there.
        """
        if self.has_moved:
            return
        try:
            super().check_time()
        except ConvergenceError:
            self.thaw()
            if not self.has_moved:
                raise

    def thaw(self) -> None:
        """As Freezer: cancel the VMM's migration, unless it has completed: `has_moved`.

        From any thread that sends: all of them find that the tags take too long.
        """
        self._monitor.news.hurries = False
        with self._cancelling:
            if not self._has_begun or self._has_continued:
                return
            self._has_begun = False
            self._await_end("the VMM to cancel its migration", cancels=True)

    def abandon(self, *, has_committed: bool) -> None:
        """As WatchedDeparture. After COMMIT the VMM's migration takes its course."""
        if not has_committed:
            self.thaw()
            return
        self._monitor.news.hurries = False
        self._await_end("the VMM to hand its guest over", cancels=False)

    def _await_end(self, what: str, *, cancels: bool) -> None:
        try:
            if cancels:
                with suppress(CommandError):  # it ends by itself just now
                    self._monitor.ask("migrate_cancel")
            self.end = wait_for_end(self._monitor, what)
            self.has_moved = has_left(self._monitor, self.end)
        except TagalongError as error:
            self.unsettled = error
        else:
            self._restore()

    def hand_over(self) -> None:
        """Note that all tags are there: the VMM has been handing its guest over all the while."""
        self._has_continued = True
        self._monitor.news.hurries = False

    def finish(self) -> VmmMigration:
        """As DrivenDeparture."""
        if self.end is not None:
            return self.end
        return super().finish()

    @property
    def tags_ms(self) -> float:
        """Return how long the guest was held at its destination for its tags, about.

        From the end of the VMM's migration until the destination's answer is here.
        """
        at_s = self.moments_s()
        if "completed" not in at_s or "answered" not in at_s:
            return 0.0
        return max(0.0, at_s["answered"] - at_s["completed"]) * 1000

    @property
    def held_ms(self) -> float:
        """As DrivenDeparture: the VMM knows nothing of it."""
        return self.tags_ms
