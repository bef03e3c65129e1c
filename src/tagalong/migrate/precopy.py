"""Pre-copy: rounds of pages, while the guest runs, until what remains is sent fast enough."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tagalong import wire
from tagalong.errors import MigrationError
from tagalong.machine import Machine, RunState
from tagalong.memory import PageBitmap
from tagalong.migrate.convergence import Estimate
from tagalong.migrate.digest import Tick
from tagalong.migrate.link import Link
from tagalong.migrate.monitor import Monitor
from tagalong.migrate.page_sender import PageSender, Tally
from tagalong.migrate.report import RoundReport, Stage
from tagalong.mte import PACKED_RATIO


@dataclass(frozen=True)
class Limits:
    """When to stop the guest, and when to give up."""

    max_downtime_s: float
    max_rounds: int


class PreCopy:
    """Sends a machine's pages; `rounds` is what was sent, `estimate` what was measured.

    `tick` is called between batches and may raise.
    """

    def __init__(
        self, machine: Machine, link: Link, sender: PageSender, monitor: Monitor, tick: Tick
    ) -> None:
        self.rounds: list[RoundReport] = []
        self.estimate = Estimate(machine.description.page_size_bytes)
        self._machine = machine
        self._link = link
        self._sender = sender
        self._monitor = monitor
        self._tick = tick
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
        while True:
            pages = self._round(pages)
            left = _count(pages)
            if self.estimate.has_converged(left, limits.max_downtime_s):
                return pages
            if len(self.rounds) >= limits.max_rounds:
                raise self.estimate.give_up(len(self.rounds), left, limits.max_downtime_s)

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
        tally = self._send(pages, Stage.PRECOPY, is_live=True)
        sent = time.monotonic()
        self._link.send(wire.Round(len(self.rounds) + 1, tally.pages))
        self._link.expect(wire.Round)
        ended = time.monotonic()
        page = self._machine.description.page_size_bytes
        busy_s = tally.busy_s + ended - sent
        self.estimate.sent(tally.wire_bytes, busy_s, tally.pages * page, ended - began)
        dirty = self._harvest()
        self.rounds.append(self._report(tally, began, dirty_pages_left=_count(dirty)))
        self._require_alive()
        return dirty

    def _harvest(self) -> list[PageBitmap]:
        dirty = self._machine.harvest_dirty_log()
        now = time.monotonic()
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
