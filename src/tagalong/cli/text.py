"""Words for people; no output here, so that every text can be tested."""

from collections.abc import Mapping
from typing import cast

from tagalong.studies.demo.report import DemoReport, GuestProgress
from tagalong.studies.probe import ProbeReport

Report = Mapping[str, object]

_KIBI = 1024
_SHOWN_FAILURES = 3


def migration_report(report: Report, uri: str) -> str:
    """Return a migration's report in words."""
    parts = cast("Mapping[str, float]", report["downtime_parts_ms"])
    spent = ", ".join(f"{name.replace('_', ' ')} {_ms(value)}" for name, value in parts.items())
    dirty_rate = _rate(report["dirty_rate_bytes_per_s"])
    if report["throttle_percent"]:
        dirty_rate += f", slowed down by {report['throttle_percent']} %"
    lines = [
        _what_happened(report, uri),
        "",
        *_traffic(report),
        _row("throughput", _rate(report["throughput_bytes_per_s"])),
        _row("dirty rate", dirty_rate),
        _row("downtime", f"{_ms(report['downtime_ms'])} ({spent})"),
        _row("verified", _verified(report)),
        *_access(report),
    ]
    return "\n".join(lines)


def _access(report: Report) -> list[str]:
    """Return a line on the access strategy, if one was asked for."""
    if "access" not in report:
        return []
    return [_row("access", f"{report['access']} ({report['access_reason']})")]


def save_report(report: Report) -> str:
    """Return the report of a snapshot or a dump in words."""
    size, disk = _size(report["size_bytes"]), _size(report["disk_bytes"])
    lines = [
        f"{report['path']} is complete.",
        "",
        _row("memory", f"{_size(report['ram_bytes'])} of RAM, {_space(report)}"),
        _row("file", f"{size}, of which {disk} on disk"),
        _row("time", _ms(report["duration_ms"])),
        _row("downtime", _stop(report)),
        *_access(report),
        *_missing(report),
    ]
    return "\n".join(lines)


def _space(report: Report) -> str:
    if report["space"] == "physical":
        return "by guest physical address"
    count = cast("int", report["segments"])
    pieces = f"{count:,} piece{'' if count == 1 else 's'}"
    return f"as its {report['space']} addresses map it: {pieces}"


def _stop(report: Report) -> str:
    if not report["was_running"]:
        return "the guest did not run"
    rounds = cast("int", report["rounds"])
    live = ""
    if rounds > 1:
        live = f" after {rounds - 1} round{'' if rounds == 2 else 's'} while it ran"
    excess = "" if report["converged"] else "; it changes memory faster than it can be written"
    return f"{_ms(report['downtime_ms'])}{live}{excess}"


def _missing(report: Report) -> list[str]:
    tables = report["unreadable_tables"]
    return [_row("missing", f"what {tables} translation tables map that are not in RAM")] * bool(
        tables
    )


def _what_happened(report: Report, uri: str) -> str:
    if report["one_way"]:
        state = "runs" if report["was_running"] else "is paused"
        return (
            f"The VM is kept in {uri} and {state} once that is loaded (tagalong run --incoming). "
            "Load it once only."
        )
    return (
        f"The VM has moved to {uri} and {'goes on' if report['was_running'] else 'stays paused'}."
    )


def demo_report(report: DemoReport) -> str:
    """Return the demo's report: what happened, the numbers, and what they mean."""
    migration = report.migration
    lines = [
        "A guest that uses MTE was migrated from one process to another while it ran.",
        "",
        *_traffic(migration),
        _row("tagged", f"{report.tagged_granules:,} of {report.granules:,} granules carried a tag"),
        _row("downtime", _ms(migration["downtime_ms"])),
        _row("verified", _verified(migration)),
        _row("source", _guest(report.before)),
        _row("destination", _guest(report.after)),
        *(_row("guest says", line) for line in report.failures[:_SHOWN_FAILURES]),
        "",
        _verdict(report),
    ]
    return "\n".join(lines)


def _guest(progress: GuestProgress) -> str:
    if not progress.operations:
        return "the guest reported no progress"
    return (
        f"the guest reported {progress.operations:,} operations, {progress.faults:,} tag faults "
        "provoked and caught"
    )


def probe_report(report: ProbeReport) -> str:
    """Return what a host can do, a line for each finding."""
    width = max(len(finding.name) for finding in report.findings)
    return "\n".join(
        f"{finding.name:{width}}  {finding.answer.value:7}  {finding.detail}"
        for finding in report.findings
    )


def _verdict(report: DemoReport) -> str:
    noticed = bool(report.failures)
    if report.succeeded:
        return (
            "It went on where it stood, and its tags still protect it: every wrong-tag access "
            "and\nuse-after-free that it tried at the destination was caught."
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


def _traffic(report: Report) -> list[str]:
    tags = f"{_size(report['tag_bytes_raw'])}, sent as {_size(report['tag_bytes_wire'])}"
    if report["tags_dropped"]:
        tags = f"{_size(report['tag_bytes_raw'])}, DROPPED"
    rounds = f"{report['rounds']} round{'' if report['rounds'] == 1 else 's'}"
    data = f"{_size(report['data_bytes'])}, sent as {_size(report['data_bytes_wire'])}"
    return [
        _row("memory", f"{_size(report['ram_bytes'])} of RAM, sent in {rounds}"),
        _row("data", data),
        _row("tags", tags),
    ]


def _row(name: str, value: str) -> str:
    return f"  {name:<11} {value}"


def _verified(report: Report) -> str:
    if report["verified"]:
        return "digests of all memory and tags are equal on both sides"
    return "no digests were compared"


def _size(value: object) -> str:
    """Return bytes in the largest unit that keeps a digit before the point."""
    number = float(cast("float", value))
    for unit in ("bytes", "KiB", "MiB"):
        if number < _KIBI:
            return f"{number:.0f} bytes" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= _KIBI
    return f"{number:.1f} GiB"


def _rate(value: object) -> str:
    return f"{float(cast('float', value)) / 1e6:,.0f} MB/s"


def _ms(value: object) -> str:
    return f"{float(cast('float', value)):.1f} ms"
