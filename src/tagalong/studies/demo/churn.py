"""Reads what the guest program `churn` prints on its console.

Two kinds of lines matter; the words before the first `key=value` distinguish them:

    churn: progress vcpu=0 ops=4096 blocks=300 retags=120 faults=64
    churn: FAIL vcpu=0 ops=5000 allocation tag at 0x40255420: expected 0xc got 0
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from tagalong.studies.demo.report import GuestProgress

_PROGRESS = re.compile(
    r"churn: progress vcpu=(\d+) ops=(\d+) blocks=(\d+) retags=(\d+) faults=(\d+)"
)
_FAIL = re.compile(r"churn: FAIL\b")


@dataclass(frozen=True)
class ChurnProgress:
    """One vCPU's counters since the guest started. All but `blocks` only grow.

    `operations` counts steps of the workload, `blocks` live blocks, `retags` changes of tags
    alone, `faults` tag check faults that the guest provoked and took.
    """

    vcpu: int
    operations: int
    blocks: int
    retags: int
    faults: int


def parse_progress(line: str) -> ChurnProgress | None:
    """Return the counters in a progress line, None for any other line."""
    found = _PROGRESS.match(line)
    return ChurnProgress(*(int(number) for number in found.groups())) if found else None


class ChurnLog:
    """The console output of one side so far, and a way to wait for more."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.ended = False
        self._last: dict[int, ChurnProgress] = {}
        self._reports: dict[int, int] = {}
        self._changed = asyncio.Event()

    def add(self, line: str) -> None:
        """Record one line of console output."""
        progress = parse_progress(line)
        if progress is not None:
            self._last[progress.vcpu] = progress
            self._reports[progress.vcpu] = self._reports.get(progress.vcpu, 0) + 1
        elif _FAIL.match(line):
            self.failures.append(line.rstrip())
        self._changed.set()

    def end(self) -> None:
        """Record that no more output will come."""
        self.ended = True
        self._changed.set()

    def progress(self) -> GuestProgress:
        """Return the sum of what each vCPU reported last."""
        last = self._last.values()
        return GuestProgress(sum(p.operations for p in last), sum(p.faults for p in last))

    def reports(self, vcpu_count: int) -> int:
        """Return the number of progress lines of the vCPU that has the fewest."""
        return min(self._reports.get(vcpu, 0) for vcpu in range(vcpu_count))

    async def wait_until(self, condition: Callable[["ChurnLog"], bool]) -> None:
        """Return once `condition` holds or no more output will come."""
        while not (condition(self) or self.ended):
            self._changed.clear()
            await self._changed.wait()
