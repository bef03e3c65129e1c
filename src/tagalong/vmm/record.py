"""What is known of a VM's migration, outgoing or incoming, and its form in QMP.

Names and meaning of the members are QEMU's (qapi/migration.json, MigrationInfo); what QEMU
does not have is prefixed `x-`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from tagalong.errors import TagalongError, UsageError
from tagalong.vmm.causes import with_causes
from tagalong.vmm.settings import MigrationSettings


class MigrationStatus(Enum):
    """How far a migration is; the values are QMP's.

    Its names for a broken connection are about post-copy; ours say that this is not.
    """

    SETUP = "setup"
    ACTIVE = "active"
    PAUSED = "x-precopy-paused"
    RECOVER = "x-precopy-recover"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Tell whether nothing more will happen."""
        return self in _FINAL


_FINAL = {MigrationStatus.CANCELLED, MigrationStatus.COMPLETED, MigrationStatus.FAILED}


@dataclass(frozen=True)
class MigrationRequest:
    """What the operator asks for, and how it is to be done.

    `verify` compares a digest of all memory and tags before the commit; `drop_tags` sends
    all tags as zero, on purpose, to show what is lost without them. `access` names the
    strategy by which the source touches guest RAM from then on, None the one that it uses.
    Raises UsageError for `verify` and `drop_tags` at once.
    """

    uri: str
    settings: MigrationSettings = field(default_factory=MigrationSettings)
    verify: bool = False
    drop_tags: bool = False
    access: str | None = None

    def __post_init__(self) -> None:
        if self.verify and self.drop_tags:
            raise UsageError("dropped tags cannot be verified: ask for one or the other")


@dataclass(frozen=True)
class MigrationProgress:
    """A moment of a migration; `expected_downtime_ms` is None while nobody can tell.

    `bytes_per_s` and `dirty_bytes_per_s` are of guest RAM. `stage` is what the source is at, in
    words. `pages_sent` counts a page each time that it is sent. `is_reconnecting`: the connection
    broke and is dialled again.
    """

    total_bytes: int
    transferred_bytes: int
    remaining_bytes: int
    rounds: int
    bytes_per_s: float
    expected_downtime_ms: float | None = None
    dirty_bytes_per_s: float = 0.0
    throttle_percent: int = 0
    stage: str = ""
    pages_sent: int = 0
    page_size_bytes: int = 4096
    is_reconnecting: bool = False

    def to_qmp(self) -> dict[str, object]:
        """Return QMP's MigrationStats."""
        return {
            "total": self.total_bytes,
            "transferred": self.transferred_bytes,
            "remaining": self.remaining_bytes,
            "dirty-sync-count": self.rounds,
            "dirty-pages-rate": round(self.dirty_bytes_per_s / self.page_size_bytes),
            "mbps": round(self.bytes_per_s * 8 / 1e6, 3),
            "page-size": self.page_size_bytes,
            "pages-per-second": round(self.bytes_per_s / self.page_size_bytes),
            "x-pages": self.pages_sent,
        }


@dataclass
class MigrationRecord:
    """One migration from its request to its end.

    `socket_address` is where an incoming migration is awaited, in QMP's form. `report` is
    there once it completed, `error` once it failed or was cancelled.
    """

    status: MigrationStatus = MigrationStatus.SETUP
    socket_address: Mapping[str, object] | None = None
    progress: MigrationProgress | None = None
    report: Mapping[str, object] | None = None
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

    def to_qmp(self) -> dict[str, object]:
        """Return QMP's MigrationInfo."""
        elapsed_ns = (self.ended_ns or time.monotonic_ns()) - self.started_ns
        info: dict[str, object] = {
            "status": self.status.value,
            "total-time": elapsed_ns // 1_000_000,
        }
        if self.set_up_ns is not None:
            info["setup-time"] = (self.set_up_ns - self.started_ns) // 1_000_000
        if self.socket_address is not None:
            info["socket-address"] = [dict(self.socket_address)]
        if self.progress is not None:
            info["ram"] = self.progress.to_qmp()
            info["x-stage"] = self.progress.stage
            if self.progress.throttle_percent:
                info["cpu-throttle-percentage"] = self.progress.throttle_percent
            if self.progress.expected_downtime_ms is not None:
                info["expected-downtime"] = round(self.progress.expected_downtime_ms)
        info.update(self._end_to_qmp())
        return info

    def _end_to_qmp(self) -> dict[str, object]:
        if self.report is not None:
            return {"downtime": self._downtime_ms(), "x-report": dict(self.report)}
        if self.error is not None:
            name = type(self.error).__name__
            return {"error-desc": with_causes(self.error), "x-error-class": name}
        return {}

    def _downtime_ms(self) -> int:
        downtime = self.report.get("downtime_ms", 0) if self.report is not None else 0
        return round(downtime) if isinstance(downtime, int | float) else 0
