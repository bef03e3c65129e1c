"""The report of a demo, to the letter."""

from dataclasses import replace

from tagalong.cli.demo_text import demo_report
from tagalong.studies.demo.report import GuestProgress
from tests.support.demo_report import DEMO, MIGRATION

TEXT = """\
A guest that uses MTE was migrated from one process to another while it ran.

  memory      64.0 MiB of RAM, sent in 3 rounds
  data        42.0 MiB, sent as 16.5 MiB
  tags        1.3 MiB, sent as 2.9 KiB
  tagged      81,234 of 4,194,304 granules had a tag
  downtime    12.3 ms
  verified    digests of all memory and tags are equal on both sides
  source      120,000 operations, 900 tag faults provoked and caught
  destination 190,000 operations, 1,400 tag faults provoked and caught

It runs on at the destination, and its tags still protect it: it caught every
wrong-tag access and use-after-free that it tried there."""


def test_demo_report_success_reads_well() -> None:
    assert demo_report(DEMO) == TEXT


def test_demo_report_dropped_tags_says_that_the_guest_noticed() -> None:
    report = replace(
        DEMO,
        tags_dropped=True,
        migration=replace(MIGRATION, tags_dropped=True, source_digest=None,
                          rounds=MIGRATION.rounds[:1]),
        after=GuestProgress(0, 0),
        failures=tuple(f"churn: FAIL vcpu=0 n={n}" for n in range(5)),
    )  # fmt: skip

    text = demo_report(report)

    assert "  memory      64.0 MiB of RAM, sent in 1 round\n" in text
    assert "  tags        448.0 KiB, DROPPED\n" in text
    assert "  verified    no digests were compared\n" in text
    assert "  destination the guest reported no progress\n" in text
    assert text.count("  guest says  churn: FAIL vcpu=0 n=") == 3
    assert text.endswith(
        "The tags were dropped on purpose, and the guest noticed, as its own words show.\n"
        "This is what a migration without tags does to a guest that relies on them."
    )


def test_demo_report_other_outcomes_are_said_clearly() -> None:
    unverified = replace(MIGRATION, source_digest=None)
    cases = {
        "but the guest did NOT notice: a void experiment.": (True, ()),
        "its tags or data did NOT arrive intact.": (False, ("churn: FAIL",)),
    }
    for verdict, (dropped, failures) in cases.items():
        report = replace(DEMO, tags_dropped=dropped, migration=unverified, failures=failures)

        assert demo_report(report).endswith(verdict)


def test_demo_report_without_progress_is_no_success() -> None:
    report = replace(DEMO, after=DEMO.before)

    assert demo_report(report).endswith("The demo did NOT succeed: see the numbers above.")
