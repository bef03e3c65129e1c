"""Results of migrations and of saving, with values that a test can recognise."""

from pathlib import Path

from tagalong.machine import AccessChoice
from tagalong.migrate import DowntimeParts, MigrationReport, RoundReport
from tagalong.qapi.reports import ArrivalReport, MigrationResult, SaveResult
from tagalong.snapshot import SaveReport


def migration_result(
    *, stop_s: float = 0.003, one_way: bool = False, access: AccessChoice | None = None
) -> MigrationResult:
    """Return the result of a migration of two rounds whose downtime was `stop_s`."""
    rounds = (
        RoundReport(1, 256, 1 << 20, 1 << 19, 1 << 15, 1 << 10, 0.5, 3),
        RoundReport(2, 3, 3 << 12, 3 << 11, 3 << 7, 3 << 2, 0.25, 0),
    )
    report = MigrationReport(
        migration_id="00ff" * 8,
        ram_bytes=1 << 20,
        rounds=rounds,
        downtime=DowntimeParts(stop_s=stop_s),
        duration_s=0.75,
        bytes_sent=600_000,
        throughput_bytes_per_s=1e6,
        dirty_rate_bytes_per_s=1e3,
        was_running=True,
        tags_dropped=False,
        throttle_percent=20,
        one_way=one_way,
        source_digest="ab",
        destination_digest="ab",
    )
    return MigrationResult(report, access)


def save_result(*, copied_bytes: int = 5000, access: AccessChoice | None = None) -> SaveResult:
    """Return the result of a snapshot to /tmp/vm.core."""
    report = SaveReport(
        path=Path("/tmp/vm.core"),
        space="physical",
        ram_bytes=1 << 20,
        copied_bytes=copied_bytes,
        size_bytes=6000,
        disk_bytes=5500,
        segments=1,
        duration_s=0.5,
        downtime_s=0.007,
        was_running=True,
        rounds=3,
        converged=False,
        compressed=True,
        unreadable_tables=1,
        not_ram_bytes=2,
    )
    return SaveResult(report, access)


ARRIVAL = ArrivalReport(
    migration_id="00ff" * 8, was_running=True, acknowledged=True, digest=None, pages=256
)
