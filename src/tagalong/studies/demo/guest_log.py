"""Reads what the demo's guests print on their consoles.

Two kinds of lines matter; the words before the first `key=value` distinguish them:

    churn: progress vcpu=0 ops=4096 blocks=300 retags=120 faults=64
    churn: FAIL vcpu=0 ops=5000 allocation tag at 0x40255420: expected 0xc got 0

    tagkeeper: progress seconds=3 checked=3215360 changed=2996 faults=6 ...
    tagkeeper: FAIL thread=0 granule=0x2e30 address=0x... allocation tag: expected 0xc got 0; ...
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from tagalong.studies.demo.report import GuestProgress

_CHURN = re.compile(r"churn: progress vcpu=(\d+) ops=(\d+) blocks=\d+ retags=\d+ faults=(\d+)")
_TAGKEEPER = re.compile(r"tagkeeper: progress seconds=\d+ checked=(\d+) changed=\d+ faults=(\d+)")
_FAIL = re.compile(r"(churn|tagkeeper): FAIL\b")


@dataclass(frozen=True)
class ReportedProgress:
    """One reporter's counters since the guest started, which only grow.

    `reporter`: a vCPU of churn, or 0. `operations` counts steps of the workload, `faults` the tag
    check faults that the guest provoked and took.
    """

    reporter: int
    operations: int
    faults: int


def parse_progress(line: str) -> ReportedProgress | None:
    """Return the counters in a progress line, None for any other line."""
    if found := _CHURN.match(line):
        return ReportedProgress(*(int(number) for number in found.groups()))
    if found := _TAGKEEPER.match(line):
        return ReportedProgress(0, *(int(number) for number in found.groups()))
    return None


class GuestLog:
    """The console output of one side so far, and a way to wait for more."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.ended = False
        self._last: dict[int, ReportedProgress] = {}
        self._reports: dict[int, int] = {}
        self._changed = asyncio.Event()

    def add(self, line: str) -> None:
        """Record one line of console output."""
        progress = parse_progress(line)
        if progress is not None:
            self._last[progress.reporter] = progress
            self._reports[progress.reporter] = self._reports.get(progress.reporter, 0) + 1
        elif _FAIL.match(line):
            self.failures.append(line.rstrip())
        self._changed.set()

    def end(self) -> None:
        """Record that no more output will come."""
        self.ended = True
        self._changed.set()

    def progress(self) -> GuestProgress:
        """Return the sum of what each reporter reported last."""
        last = self._last.values()
        return GuestProgress(sum(p.operations for p in last), sum(p.faults for p in last))

    def reports(self, reporter_count: int) -> int:
        """Return the number of progress lines of the reporter that has the fewest."""
        return min(self._reports.get(each, 0) for each in range(reporter_count))

    async def wait_until(self, condition: Callable[["GuestLog"], bool]) -> None:
        """Return once `condition` holds or no more output will come."""
        while not (condition(self) or self.ended):
            self._changed.clear()
            await self._changed.wait()
