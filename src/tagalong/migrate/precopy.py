"""Pre-copy: rounds of pages while the guest runs, until what remains is sent fast enough."""

import time
from collections.abc import Callable, Sequence

from tagalong.errors import HostError, MigrationError, MigrationStage, RemoteProtocolError
from tagalong.machine import RunState
from tagalong.memory import PageBitmap
from tagalong.migrate.convergence import Convergence
from tagalong.migrate.pages.sender import Tally
from tagalong.migrate.report import RoundReport
from tagalong.migrate.session import SourceSession
from tagalong.mte import PACKED_RATIO

Recover = Callable[[Exception, int, list[PageBitmap]], list[PageBitmap] | None]
"""Brings the connections back after an error, with so many rounds ended and these pages to send.

Returns those of the pages that the destination has not placed, None if it has ended the round.
Raises the error, or another, if that cannot be done.
"""


class PreCopy:
    """Sends a machine's pages; `rounds` is what was sent."""

    def __init__(self, session: SourceSession) -> None:
        self.rounds: list[RoundReport] = []
        self._session = session
        self._machine = session.machine
        self._senders = session.senders
        self._sent = session.sent
        self._monitor = session.monitor
        self._pacer = session.pacer
        self._estimate = session.estimate
        self._harvested = time.monotonic()

    def run(self, recover: Recover) -> list[PageBitmap]:
        """Send rounds until the guest may be stopped; return the pages that are left to send.

        The dirty log is on from here. Raises ConvergenceError if the guest is too fast,
        MigrationError if it ended, and what sending raises and `recover` does not mend.
        """
        # The log first: a page that is first used after this query is dirty in the log.
        self._machine.start_dirty_log()
        self._harvested = time.monotonic()
        pages = self._machine.populated_pages()
        self._sent.prepare(pages)
        convergence = Convergence(self._session.limits, self._estimate, self._throttle)
        while True:
            pages = self._round(pages, recover)
            may_stop = convergence.may_stop(self.rounds[-1].pages, _count(pages))
            # A pause that came just now broke the connections: the next round brings them back.
            if may_stop and self._session.steering.begin_switchover():
                return pages

    def _throttle(self, percent: int) -> None:
        self._machine.throttle(percent)
        self._monitor.update(throttle_percent=percent)

    def collect_last(self, pages: Sequence[PageBitmap]) -> list[PageBitmap]:
        """Return `pages` and what was changed since, of a guest that is paused now."""
        dirty = self._machine.harvest_dirty_log()
        return [before | since for before, since in zip(pages, dirty, strict=True)]

    def send_last(self, pages: Sequence[PageBitmap]) -> float:
        """Send `pages` of a paused guest; return the seconds that reading their tags took."""
        began = time.monotonic()
        tally = Tally()
        self._send(pages, MigrationStage.LAST_PAGES, tally, is_live=False)
        self._senders.end_last_round(len(self.rounds) + 1)
        self.rounds.append(self._report(tally, began, dirty_pages_left=0))
        return tally.tags_s

    def _round(self, pages: list[PageBitmap], recover: Recover) -> list[PageBitmap]:
        """Send one round; return the pages that the guest changed meanwhile."""
        began = time.monotonic()
        waited_s = self._pacer.waited_s
        tally, answer_s = self._send_round(pages, recover)
        waited_s = self._pacer.waited_s - waited_s
        ended = time.monotonic()
        page = self._machine.description.page_size_bytes
        # Time spent below a bandwidth limit counts: what the channel could carry beyond the
        # limit is not known.
        busy_s = tally.busy_s + waited_s + answer_s
        self._estimate.fixed.note_answer(answer_s)
        self._estimate.note_round(tally.wire_bytes, busy_s, tally.done_pages * page, ended - began)
        dirty = self._harvest()
        self.rounds.append(self._report(tally, began, dirty_pages_left=_count(dirty)))
        self._require_alive()
        return dirty

    def _send_round(self, pages: list[PageBitmap], recover: Recover) -> tuple[Tally, float]:
        """Send pages until all of them are placed; return also how long the answer took."""
        number = len(self.rounds) + 1
        tally = Tally()
        while True:
            sent = time.monotonic()
            try:
                self._send(pages, MigrationStage.PRECOPY, tally, is_live=True)
                sent = time.monotonic()
                self._senders.end_round(number)
            except (HostError, RemoteProtocolError) as error:
                left = recover(error, number - 1, pages)
                if left is not None:
                    pages = left
                    self._sent.forget(pages)
                    continue
            return tally, time.monotonic() - sent

    def _harvest(self) -> list[PageBitmap]:
        began = time.monotonic()
        dirty = self._machine.harvest_dirty_log()
        now = time.monotonic()
        self._estimate.fixed.stop_s = now - began
        self._estimate.note_dirtied(_count(dirty), now - self._harvested)
        self._harvested = now
        left = _count(dirty)
        self._monitor.update(
            pages_remaining=left,
            bytes_remaining=left * self._estimate.unit_bytes,
            throughput_bytes_per_s=self._estimate.rate,
            dirty_rate_bytes_per_s=self._estimate.dirty_rate,
            expected_downtime_s=self._estimate.downtime_s(left),
        )
        return dirty

    def _send(
        self, pages: Sequence[PageBitmap], stage: MigrationStage, tally: Tally, *, is_live: bool
    ) -> None:
        count, began = _count(pages), time.monotonic()
        sent_before = self._monitor.moment.pages_sent
        self._monitor.update(stage=stage, round_number=len(self.rounds) + 1)

        def report(now: Tally) -> None:
            self._session.tick()
            left = max(0, count - now.done_pages)
            passed_s = max(time.monotonic() - began, 1e-6)
            self._monitor.update(
                # A large guest's first round is long: a rate is shown before it ends.
                throughput_bytes_per_s=self._estimate.rate or now.wire_bytes / passed_s or None,
                pages_sent=sent_before + now.done_pages,
                pages_remaining=left,
                bytes_remaining=left * self._estimate.unit_bytes,
                bytes_sent=self._senders.bytes_sent,
            )

        self._senders.send(pages, tally, report, is_live=is_live)
        report(tally)

    def _report(self, tally: Tally, began: float, *, dirty_pages_left: int) -> RoundReport:
        data_bytes = tally.done_pages * self._machine.description.page_size_bytes
        return RoundReport(
            number=len(self.rounds) + 1,
            pages=tally.done_pages,
            data_bytes=data_bytes,
            data_bytes_wire=tally.data_bytes_wire,
            tag_bytes_raw=data_bytes // PACKED_RATIO,
            tag_bytes_wire=tally.tag_bytes_wire,
            duration_s=time.monotonic() - began,
            dirty_pages_left=dirty_pages_left,
        )

    def _require_alive(self) -> None:
        state = self._machine.run_state
        if state in (RunState.SHUTDOWN, RunState.FAILED):
            raise MigrationError(
                f"the guest ended ({state.value}) while it was migrated: there is nothing to move"
            ) from self._machine.failure


def _count(pages: Sequence[PageBitmap]) -> int:
    return sum(bitmap.count() for bitmap in pages)
