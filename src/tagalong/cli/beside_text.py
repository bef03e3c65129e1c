"""The report of `tagalong beside demo` in words."""

from tagalong.cli.migration_text import vmm_rows
from tagalong.cli.units import count, ms, row, size, wrapped
from tagalong.studies.beside import BesideDemoReport


def beside_demo_report(report: BesideDemoReport) -> str:
    """Return what the guest says, and what the migrations cost."""
    checked = report.after.checked - report.before.checked
    lines = [wrapped(_outcome(report)), ""]
    for result in report.migrations[-1:]:
        migration = result.report
        pages = sum(each.pages for each in migration.rounds)
        sent = f"{size(migration.tag_bytes_wire)} of tags, for {count(pages, 'page')}"
        lines += [
            row("migrations", str(len(report.migrations))),
            row("tags", f"{sent}, in {count(len(migration.rounds), 'round')} (the last migration)"),
            *vmm_rows(result.vmm),
        ]
    if len(report.migrations) > 1:
        own_ms, tags_ms = report.median_own_downtime_ms, report.median_tags_ms
        medians = f"{ms(own_ms / 1000)} without tags, {ms(tags_ms / 1000)} more for them"
        lines.append(row("medians", f"{medians}, of all migrations"))
    lines.append(row("guest", f"checked {count(max(0, checked), 'granule')} since it moved"))
    return "\n".join([*lines, *report.failures])


def _outcome(report: BesideDemoReport) -> str:
    if report.succeeded:
        return (
            "The guest of an unmodified QEMU has moved with its tags: the process in it runs on, "
            "and no granule is wrong."
        )
    if report.tags_dropped:
        return "The tags were dropped, and the guest has noticed, as it should."
    return "The guest has noticed something wrong."
