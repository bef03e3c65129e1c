"""Pre-copy: rounds of pages, while the guest runs, until what remains is sent fast enough."""

import time
from collections.abc import Sequence

from tagalong import wire
from tagalong.errors import MigrationError
from tagalong.machine import Machine, RunState
from tagalong.memory import PageBitmap
from tagalong.migrate.convergence import Convergence, Estimate, Limits
from tagalong.migrate.digest import Tick
from tagalong.migrate.link import Link
from tagalong.migrate.monitor import Monitor
from tagalong.migrate.pacer import Pacer
from tagalong.migrate.page_sender import PageSender, Tally
from tagalong.migrate.report import RoundReport, Stage
from tagalong.mte import PACKED_RATIO


class PreCopy:
    """Sends a machine's pages; `rounds` is what was sent, `estimate` what was measured.

    `tick` is called between batches and during waits, and may raise. `pacer` keeps the rounds
    of a guest that runs below a bandwidth.
    """

    def __init__(
        self,
        machine: Machine,
        link: Link,
        sender: PageSender,
        monitor: Monitor,
        tick: Tick,
        pacer: Pacer,
    ) -> None:
        self.rounds: list[RoundReport] = []
        self.estimate = Estimate(machine.description.page_size_bytes)
        self._machine = machine
        self._link = link
        self._sender = sender
        self._monitor = monitor
        self._tick = tick
        self._pacer = pacer
        self._harvested = time.monotonic()

    def run(self, limits: Limits) -> list[PageBitmap]:
        """Send rounds until the guest may be stopped; return the pages left to send.

        The dirty log is on from here. Raises ConvergenceError if the guest is too fast,
        MigrationError if it ended.
        """
        # The log first: a page that is used after this question is dirty in the log.
        self._machine.start_dirty_log()
        self._harvested = time.monotonic()
        pages = self._machine.populated_pages()
        convergence = Convergence(limits, self.estimate, self._throttle)
        while True:
            pages = self._round(pages)
            if convergence.may_stop(self.rounds[-1].pages, _count(pages)):
                return pages

    def _throttle(self, percent: int) -> None:
        self._machine.throttle(percent)
        self._monitor.update(throttle_percent=percent)

    def send_last(self, pages: Sequence[PageBitmap]) -> None:
        """Send `pages` and what was changed since, of a guest that stands."""
        began = time.monotonic()
        dirty = self._machine.harvest_dirty_log()
        last = [before | since for before, since in zip(pages, dirty, strict=True)]
        tally = self._send(last, Stage.LAST_PAGES, is_live=False)
        self.rounds.append(self._report(tally, began, dirty_pages_left=0))

    def _round(self, pages: Sequence[PageBitmap]) -> list[PageBitmap]:
        """Send one round; return the pages that the guest changed meanwhile."""
        began = time.monotonic()
        waited_s = self._pacer.waited_s
        tally = self._send(pages, Stage.PRECOPY, is_live=True)
        waited_s = self._pacer.waited_s - waited_s
        sent = time.monotonic()
        self._link.send(wire.Round(len(self.rounds) + 1, tally.pages))
        self._link.expect(wire.Round)
        ended = time.monotonic()
        page = self._machine.description.page_size_bytes
        # What a limited channel could carry besides is not known: its limit counts.
        busy_s = tally.busy_s + waited_s + ended - sent
        self.estimate.fixed.answered(ended - sent)
        self.estimate.sent(tally.wire_bytes, busy_s, tally.pages * page, ended - began)
        dirty = self._harvest()
        self.rounds.append(self._report(tally, began, dirty_pages_left=_count(dirty)))
        self._require_alive()
        return dirty

    def _harvest(self) -> list[PageBitmap]:
        began = time.monotonic()
        dirty = self._machine.harvest_dirty_log()
        now = time.monotonic()
        self.estimate.fixed.stop_s = now - began
        self.estimate.dirtied(_count(dirty), now - self._harvested)
        self._harvested = now
        left = _count(dirty)
        self._monitor.update(
            pages_remaining=left,
            bytes_remaining=left * self.estimate.unit_bytes,
            throughput_bytes_per_s=self.estimate.rate,
            dirty_rate_bytes_per_s=self.estimate.dirty_rate,
            expected_downtime_s=self.estimate.downtime_s(left),
        )
        return dirty

    def _send(self, pages: Sequence[PageBitmap], stage: Stage, *, is_live: bool) -> Tally:
        tally = Tally()
        count = _count(pages)
        sent_before = self._monitor.progress.pages_sent
        self._monitor.update(stage=stage, round_number=len(self.rounds) + 1)

        def tell() -> None:
            self._tick()
            if is_live:
                self._pacer.wait(self._link.bytes_sent, self._tick)
            left = count - tally.pages
            self._monitor.update(
                pages_sent=sent_before + tally.pages,
                pages_remaining=left,
                bytes_remaining=left * self.estimate.unit_bytes,
                bytes_sent=self._link.bytes_sent,
            )

        self._sender.send(pages, tell, tally=tally, is_live=is_live)
        tell()
        return tally

    def _report(self, tally: Tally, began: float, *, dirty_pages_left: int) -> RoundReport:
        data_bytes = tally.pages * self._machine.description.page_size_bytes
        return RoundReport(
            number=len(self.rounds) + 1,
            pages=tally.pages,
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
