"""The books of one migration, outgoing or incoming; only the event loop's thread writes them.

A record moves by `advance` alone, and a final status is final: a command that comes late finds
a finished migration and is refused instead of reviving it.
"""

import time
from dataclasses import dataclass, field

from tagalong.errors import TagalongError
from tagalong.migrate import SendProgress
from tagalong.qapi.failure import Failure
from tagalong.qapi.migration import MigrationInfo, MigrationStatus, RamInfo, SocketAddress
from tagalong.qapi.reports import ArrivalReport, MigrationResult

_NS_PER_MS = 1_000_000


@dataclass
class MigrationRecord:
    """One migration from its request to its end.

    `socket_address` is where an incoming migration is awaited. `report` is there once it
    completed, `error` once it failed or was cancelled.
    """

    status: MigrationStatus = MigrationStatus.SETUP
    socket_address: SocketAddress | None = None
    progress: SendProgress | None = None
    report: MigrationResult | ArrivalReport | None = None
    error: TagalongError | None = None
    started_ns: int = field(default_factory=time.monotonic_ns)
    set_up_ns: int | None = None
    ended_ns: int | None = None

    def advance(self, status: MigrationStatus) -> None:
        """Enter `status`; the clock stops with a final one."""
        self.status = status
        if status is MigrationStatus.ACTIVE and self.set_up_ns is None:
            self.set_up_ns = time.monotonic_ns()
        if status.is_final:
            self.ended_ns = time.monotonic_ns()

    def info(self) -> MigrationInfo:
        """Return what query-migrate says of it now."""
        progress = self.progress
        elapsed_ns = (self.ended_ns or time.monotonic_ns()) - self.started_ns
        return MigrationInfo(
            status=self.status,
            total_time_ms=elapsed_ns // _NS_PER_MS,
            setup_time_ms=self._setup_time_ms(),
            socket_address=self.socket_address,
            ram=RamInfo.of(progress) if progress else None,
            stage=progress.stage.value if progress else None,
            throttle_percent=progress.throttle_percent if progress else 0,
            expected_downtime_ms=_expected_downtime_ms(progress),
            report=self.report,
            failure=Failure.of(self.error) if self.error and not self.report else None,
        )

    def _setup_time_ms(self) -> int | None:
        return None if self.set_up_ns is None else (self.set_up_ns - self.started_ns) // _NS_PER_MS


def _expected_downtime_ms(progress: SendProgress | None) -> int | None:
    if progress is None or progress.expected_downtime_s is None:
        return None
    return round(progress.expected_downtime_s * 1000)
