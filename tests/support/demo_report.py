"""A report of a migration and one of a demo, with values that a test can recognise."""

from tagalong.migrate import DowntimeParts, MigrationReport, RoundReport
from tagalong.studies.demo.report import DemoReport, GuestProgress

ROUNDS = tuple(
    RoundReport(number, 3584, 14 << 20, 11 << 19, 14 << 15, 1000, 0.1, 5) for number in (1, 2, 3)
)

MIGRATION = MigrationReport(
    migration_id="00ff" * 8,
    ram_bytes=64 << 20,
    rounds=ROUNDS,
    downtime=DowntimeParts(stop_s=0.001, last_pages_s=0.01004, commit_s=0.0013),
    duration_s=0.3,
    bytes_sent=18 << 20,
    throughput_bytes_per_s=1.234e9,
    dirty_rate_bytes_per_s=5.6e6,
    was_running=True,
    tags_dropped=False,
    source_digest="ab",
    destination_digest="ab",
)

DEMO = DemoReport(
    tags_dropped=False,
    migration=MIGRATION,
    granules=4194304,
    tagged_granules=81234,
    before=GuestProgress(120000, 900),
    after=GuestProgress(190000, 1400),
    failures=(),
)
