"""The demo's report in words."""

from tagalong.cli.migration_text import traffic, verified
from tagalong.cli.units import ms, row
from tagalong.studies.demo.report import DemoReport, GuestProgress

_SHOWN_FAILURES = 3


def demo_report(report: DemoReport) -> str:
    """Return what happened, the numbers, and what they mean."""
    migration = report.migration
    lines = [
        "A guest that uses MTE was migrated from one process to another while it ran.",
        "",
        *traffic(migration),
        row("tagged", f"{report.tagged_granules:,} of {report.granules:,} granules had a tag"),
        row("downtime", ms(migration.downtime.total_s)),
        verified(migration),
        row("source", _guest(report.before)),
        row("destination", _guest(report.after)),
        *(row("guest says", line) for line in report.failures[:_SHOWN_FAILURES]),
        "",
        _verdict(report),
    ]
    return "\n".join(lines)


def _guest(progress: GuestProgress) -> str:
    if not progress.operations:
        return "the guest reported no progress"
    return f"{progress.operations:,} operations, {progress.faults:,} tag faults provoked and caught"


def _verdict(report: DemoReport) -> str:
    noticed = bool(report.failures)
    if report.succeeded:
        return (
            "It runs on at the destination, and its tags still protect it: it caught every\n"
            "wrong-tag access and use-after-free that it tried there."
        )
    if report.tags_dropped and noticed:
        return (
            "The tags were dropped on purpose, and the guest noticed, as its own words show.\n"
            "This is what a migration without tags does to a guest that relies on them."
        )
    if report.tags_dropped:
        return "The tags were dropped on purpose, but the guest did NOT notice: a void experiment."
    if noticed:
        return "The guest found a broken invariant: its tags or data did NOT arrive intact."
    return "The demo did NOT succeed: see the numbers above."
