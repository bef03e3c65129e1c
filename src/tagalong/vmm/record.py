"""The books of one migration, outgoing or incoming; only the event loop's thread writes them.

    setup       -> active, x-precopy-recover, cancelling, an end
    active      -> x-precopy-recover, x-precopy-paused, cancelling, an end
    recover     -> active, x-precopy-paused, cancelling, an end
    paused      -> x-precopy-recover, cancelling, an end
    cancelling  -> an end: cancelled, or completed or failed if it was too late
    an end      -> nothing: cancelled, completed, failed

The thread of a migration and an operator's commands both move the status, and neither knows what
the other has just done: a `migrate` with `resume` may come after the reconnect time ran out, a
report of progress after a cancel. So every move goes through `advance`, which makes the ones in
this table and no other. An end is an end in this one place.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tagalong.errors import TagalongError
from tagalong.migrate import SendProgress
from tagalong.qapi.failure import Failure
from tagalong.qapi.migration import MigrationInfo, MigrationStatus, RamInfo, SocketAddress
from tagalong.qapi.reports import ArrivalReport, MigrationResult

_NS_PER_MS = 1_000_000

_ENDS = frozenset(status for status in MigrationStatus if status.is_final)
_CANCELLING = frozenset({MigrationStatus.CANCELLING})

MIGRATION_TRANSITIONS: Mapping[MigrationStatus, frozenset[MigrationStatus]] = MappingProxyType(
    {
        MigrationStatus.NONE: frozenset({MigrationStatus.SETUP}),
        MigrationStatus.SETUP: frozenset({MigrationStatus.ACTIVE, MigrationStatus.RECOVER})
        | _CANCELLING
        | _ENDS,
        MigrationStatus.ACTIVE: frozenset({MigrationStatus.RECOVER, MigrationStatus.PAUSED})
        | _CANCELLING
        | _ENDS,
        MigrationStatus.RECOVER: frozenset({MigrationStatus.ACTIVE, MigrationStatus.PAUSED})
        | _CANCELLING
        | _ENDS,
        MigrationStatus.PAUSED: frozenset({MigrationStatus.RECOVER}) | _CANCELLING | _ENDS,
        MigrationStatus.CANCELLING: _ENDS,
        **{status: frozenset() for status in _ENDS},
    }
)


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

    def advance(self, status: MigrationStatus) -> bool:
        """Enter `status` and return True, or return False if the table does not allow that.

        The clock stops with a final status.
        """
        if status not in MIGRATION_TRANSITIONS[self.status]:
            return False
        self.status = status
        if status is MigrationStatus.ACTIVE and self.set_up_ns is None:
            self.set_up_ns = time.monotonic_ns()
        if status.is_final:
            self.ended_ns = time.monotonic_ns()
        return True

    @property
    def is_completed(self) -> bool:
        """Return whether the VM has moved, or has arrived."""
        return self.status is MigrationStatus.COMPLETED

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
