"""The report of a migration, to the letter."""

from dataclasses import replace

from tagalong.cli.migration_text import migration_report
from tagalong.cli.units import COLUMNS
from tagalong.machine import AccessChoice
from tagalong.migrate import DowntimeParts
from tagalong.qapi.reports import MigrationResult
from tests.support.demo_report import MIGRATION

LONG = DowntimeParts(0.0123456, 0.0123456, 0.0123456, 0.0123456, 0.0123456, 0.0123456, 0.0123456)


def test_migration_report_shows_the_downtimes_parts() -> None:
    assert migration_report(MigrationResult(MIGRATION), "tcp:host.example:1") == (
        "The VM has moved to tcp:host.example:1 and runs there.\n"
        "\n"
        "  memory      64.0 MiB of RAM, sent in 3 rounds\n"
        "  data        42.0 MiB, sent as 16.5 MiB\n"
        "  tags        1.3 MiB, sent as 2.9 KiB\n"
        "  throughput  1,234 MB/s\n"
        "  dirty rate  6 MB/s\n"
        "  downtime    12.3 ms\n"
        "              stop 1.0 ms, last pages 10.0 ms, commit 1.3 ms\n"
        "  verified    digests of all memory and tags are equal on both sides"
    )


def test_migration_report_fits_into_80_columns() -> None:
    reason = "asked for; a machine with a host that needs a long explanation for what it chooses"
    result = MigrationResult(replace(MIGRATION, downtime=LONG), AccessChoice("tco", reason))

    text = migration_report(result, "tcp:[2001:db8:1234:5678:9abc:def0:1234:5678]:44444")

    assert all(len(line) <= COLUMNS for line in text.splitlines()), text
    assert text.count(" ms") == 8


def test_migration_report_paused_vm_stays_paused() -> None:
    report = replace(MIGRATION, was_running=False, ram_bytes=3 << 30)

    text = migration_report(MigrationResult(report), "unix:/x")

    assert text.startswith("The VM has moved to unix:/x and is paused.\n")
    assert "3.0 GiB of RAM" in text


def test_migration_report_names_the_access_strategy_if_one_was_asked_for() -> None:
    asked = MigrationResult(MIGRATION, AccessChoice("tco", "asked for"))

    assert "\n  access      tco (asked for)" in migration_report(asked, "tcp:host.example:1")
    assert "  access " not in migration_report(MigrationResult(MIGRATION), "tcp:host.example:1")


def test_migration_report_of_a_file_says_that_it_waits_there() -> None:
    result = MigrationResult(replace(MIGRATION, one_way=True))

    assert migration_report(result, "file:/srv/vm").startswith(
        "The VM is in file:/srv/vm and runs once that is loaded (tagalong run\n"
        "--incoming). Load it once only.\n"
    )


def test_migration_report_tells_that_the_guest_was_slowed_down() -> None:
    result = MigrationResult(replace(MIGRATION, throttle_percent=40))

    assert "  dirty rate  6 MB/s, slowed down by 40 %\n" in migration_report(result, "tcp:h:1")


def test_migration_report_of_tags_in_place_says_that_none_was_sent() -> None:
    result = MigrationResult(replace(MIGRATION, tags_in_place=True))

    assert "  tags        none sent: the destination has them in place\n" in (
        migration_report(result, "unix:/x")
    )
