"""Reports in words, to the letter."""

import dataclasses

import pytest

from tagalong.cli.text import demo_report, migration_report
from tagalong.studies.demo.report import DemoReport, GuestProgress

MIGRATION: dict[str, object] = {
    "verified": True,
    "tags_dropped": False,
    "was_running": True,
    "one_way": False,
    "throttle_percent": 0,
    "rounds": 3,
    "ram_bytes": 64 << 20,
    "data_bytes": 41 << 20,
    "data_bytes_wire": 33 << 19,
    "tag_bytes_raw": 41 << 15,
    "tag_bytes_wire": 1000,
    "throughput_bytes_per_s": 1.234e9,
    "dirty_rate_bytes_per_s": 5.6e6,
    "downtime_ms": 12.34,
    "downtime_parts_ms": {"stop": 1.0, "last_pages": 10.04, "commit": 1.3},
}

DEMO = DemoReport(
    tags_dropped=False,
    migration=MIGRATION,
    granules=4194304,
    tagged_granules=81234,
    before=GuestProgress(120000, 900),
    after=GuestProgress(190000, 1400),
    failures=(),
)

DEMO_TEXT = """\
A guest that uses MTE was migrated from one process to another while it ran.

  memory      64.0 MiB of RAM, sent in 3 rounds
  data        41.0 MiB, sent as 16.5 MiB
  tags        1.3 MiB, sent as 1000 bytes
  tagged      81,234 of 4,194,304 granules carried a tag
  downtime    12.3 ms
  verified    digests of all memory and tags are equal on both sides
  source      the guest reported 120,000 operations, 900 tag faults provoked and caught
  destination the guest reported 190,000 operations, 1,400 tag faults provoked and caught

It went on where it stood, and its tags still protect it: every wrong-tag access and
use-after-free that it tried at the destination was caught."""


def test_demo_report_success_reads_well() -> None:
    assert demo_report(DEMO) == DEMO_TEXT


def test_demo_report_dropped_tags_says_that_the_guest_noticed() -> None:
    report = dataclasses.replace(
        DEMO,
        tags_dropped=True,
        migration={**MIGRATION, "tags_dropped": True, "verified": False, "rounds": 1},
        after=GuestProgress(0, 0),
        failures=tuple(f"churn: FAIL vcpu=0 n={n}" for n in range(5)),
    )

    text = demo_report(report)

    assert "  memory      64.0 MiB of RAM, sent in 1 round\n" in text
    assert "  tags        1.3 MiB, DROPPED\n" in text
    assert "  verified    no digests were compared\n" in text
    assert "  destination the guest reported no progress\n" in text
    assert text.count("  guest says  churn: FAIL vcpu=0 n=") == 3
    assert text.endswith(
        "The tags were dropped on purpose, and the guest noticed, as its own words show.\n"
        "This is what a migration without tags does to a guest that relies on them."
    )


@pytest.mark.parametrize(
    ("tags_dropped", "failures", "verdict"),
    [
        (True, (), "but the guest did NOT notice: a void experiment."),
        (False, ("churn: FAIL",), "its tags or data did NOT arrive intact."),
    ],
)
def test_demo_report_other_outcomes_are_said_clearly(
    tags_dropped: bool, failures: tuple[str, ...], verdict: str
) -> None:
    report = dataclasses.replace(
        DEMO,
        tags_dropped=tags_dropped,
        migration={**MIGRATION, "verified": False},
        failures=failures,
    )

    assert demo_report(report).endswith(verdict)


def test_demo_report_without_progress_is_no_success() -> None:
    report = dataclasses.replace(DEMO, after=DEMO.before)

    assert demo_report(report).endswith("The demo did NOT succeed: see the numbers above.")


def test_migration_report_shows_the_downtimes_parts() -> None:
    assert migration_report(MIGRATION, "tcp:host.example:1") == (
        "The VM has moved to tcp:host.example:1 and goes on.\n"
        "\n"
        "  memory      64.0 MiB of RAM, sent in 3 rounds\n"
        "  data        41.0 MiB, sent as 16.5 MiB\n"
        "  tags        1.3 MiB, sent as 1000 bytes\n"
        "  throughput  1,234 MB/s\n"
        "  dirty rate  6 MB/s\n"
        "  downtime    12.3 ms (stop 1.0 ms, last pages 10.0 ms, commit 1.3 ms)\n"
        "  verified    digests of all memory and tags are equal on both sides"
    )


def test_migration_report_paused_vm_stays_paused() -> None:
    report = {**MIGRATION, "was_running": False, "ram_bytes": 3 << 30}

    text = migration_report(report, "unix:/x")

    assert text.startswith("The VM has moved to unix:/x and stays paused.\n")
    assert "3.0 GiB of RAM" in text


def test_migration_report_names_the_access_strategy_if_one_was_asked_for() -> None:
    asked = {**MIGRATION, "access": "tco", "access_reason": "asked for"}

    assert "\n  access      tco (asked for)" in migration_report(asked, "tcp:host.example:1")
    assert "  access " not in migration_report(MIGRATION, "tcp:host.example:1")


def test_migration_report_of_a_file_says_that_it_waits_there() -> None:
    text = migration_report({**MIGRATION, "one_way": True}, "file:/srv/vm")

    assert text.startswith(
        "The VM is kept in file:/srv/vm and runs once that is loaded (tagalong run --incoming). "
        "Load it once only.\n"
    )


def test_migration_report_tells_that_the_guest_was_slowed_down() -> None:
    text = migration_report({**MIGRATION, "throttle_percent": 40}, "tcp:host.example:1")

    assert "  dirty rate  6 MB/s, slowed down by 40 %\n" in text
