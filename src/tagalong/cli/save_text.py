"""The report of a snapshot or a dump in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagalong.cli.migration_text import access
from tagalong.cli.units import count, ms, row, size

if TYPE_CHECKING:
    from tagalong.qapi.reports import SaveResult
    from tagalong.qemu import Attached, Converted
    from tagalong.snapshot import SaveReport


def save_report(result: SaveResult) -> str:
    """Return what was written, and how long the guest was stopped for it."""
    report = result.report
    on_disk = f"{size(report.size_bytes)}, of which {size(report.disk_bytes)} on disk"
    lines = [
        f"{report.path} is complete.",
        "",
        row("memory", f"{size(report.ram_bytes)} of RAM, {_space(report)}"),
        row("file", on_disk),
        row("time", ms(report.duration_s)),
        row("downtime", _stop(report)),
        *_consistency(report),
        *access(result.access),
        *_missing(report),
    ]
    return "\n".join(lines)


def converted_report(converted: Converted) -> str:
    """Return what was made of a file of QEMU's."""
    report = converted.report
    on_disk = f"{size(report.size_bytes)}, of which {size(report.disk_bytes)} on disk"
    tags = (
        "those that QEMU emulated" if converted.has_tags
        else "none in the file: QEMU writes those of its TCG alone, with mte=on"
    )  # fmt: skip
    lines = [
        f"{report.path} is complete.",
        "",
        row("memory", f"{size(report.ram_bytes)} of RAM, {_space(report)}"),
        row("tags", tags),
        row("vCPUs", f"{converted.vcpu_count}, with their registers"),
        row("file", on_disk),
        row("time", ms(report.duration_s)),
        *_missing(report),
    ]
    return "\n".join(lines)


def attached_report(attached: Attached) -> str:
    """Return what was written of the guest of a QEMU that runs."""
    report = attached.report
    on_disk = f"{size(report.size_bytes)}, of which {size(report.disk_bytes)} on disk"
    lines = [
        f"{report.path} is complete.",
        "",
        row("memory", f"{size(report.ram_bytes)} of RAM, {_space(report)}"),
        row("layout", attached.layout),
        row("tags", attached.tags),
        row("registers", attached.registers),
        row("pause", attached.pause),
        row("file", on_disk),
        row("time", ms(report.duration_s)),
    ]
    return "\n".join(lines)


def _space(report: SaveReport) -> str:
    if report.space == "physical":
        return "by guest physical address"
    return f"as its {report.space} addresses map it: {count(report.segments, 'piece')}"


def _stop(report: SaveReport) -> str:
    if not report.was_running:
        return "the guest did not run"
    live = ""
    if report.rounds > 1:
        live = f" after {count(report.rounds - 1, 'round')} while it ran"
    excess = "" if report.converged else "; it changes memory faster than it can be written"
    return f"{ms(report.downtime_s)}{live}{excess}"


def _consistency(report: SaveReport) -> list[str]:
    if not report.is_torn:
        return []
    words = "the guest ran on: its pages are of different moments, its registers of the first one"
    return [row("moment", words)]


def _missing(report: SaveReport) -> list[str]:
    if not report.unreadable_tables:
        return []
    tables = count(report.unreadable_tables, "translation table")
    return [row("missing", f"memory mapped by {tables} outside of RAM")]
