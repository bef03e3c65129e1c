"""What a scan found, in words and as JSON.

Names come from files, and records from a file that others may have written: no text of theirs
steers the terminal.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tagalong.cli.units import count, row, wrapped
from tagalong.printable import one_line
from tagalong.scan.groups import CrashGroup, ScanResult, SharedFeature
from tagalong.views.page.crash_page import percent

_FAILED_SHOWN = 5
_SHARED_SHOWN = 6
_INDENT = " " * 8


def scan_report(result: ScanResult, most_groups: int) -> str:
    """Return the counts, the largest groups with what they share, and what failed."""
    return "\n".join(_lines(result, most_groups))


def _lines(result: ScanResult, most_groups: int) -> Iterator[str]:
    yield (
        f"{result.crashes:,} {'crash' if result.crashes == 1 else 'crashes'} in "
        f"{count(result.files, 'file')}, in {count(len(result.groups), 'group')}"
    )
    for group in result.groups[:most_groups]:
        yield ""
        yield from _group(group)
    if len(result.groups) > most_groups:
        yield ""
        yield f"... {count(len(result.groups) - most_groups, 'more group')}"
    yield from _failures(result)


def _group(group: CrashGroup) -> Iterator[str]:
    sure = "" if group.probability is None else f" ({percent(group.probability)} sure)"
    yield wrapped(f"{one_line(group.title)}{sure}", f"{group.count:>6,}  ", _INDENT)
    shared = ", ".join(_shared(each) for each in group.shared[:_SHARED_SHOWN])
    if shared:
        yield wrapped(f"shared: {shared}", _INDENT, _INDENT + "  ")
    for url in group.examples[:1]:
        yield f"{_INDENT}for instance {one_line(url)}"


def _shared(feature: SharedFeature) -> str:
    name = feature.name.replace("_", " ")
    most = "" if feature.share == 1 else f" in {percent(feature.share)}"
    return f"{name} {one_line(str(feature.value))}{most}"


def _failures(result: ScanResult) -> Iterator[str]:
    if not result.failed:
        return
    yield ""
    kinds = ", ".join(
        f"{number:,} {one_line(name)}" for name, number in result.failures.most_common()
    )
    yield row("failed", f"{count(len(result.failed), 'file')} could not be explained: {kinds}")
    for each in result.failed[:_FAILED_SHOWN]:
        yield wrapped(one_line(f"{each.url}: {each.error}"), "    ", "      ")
    if len(result.failed) > _FAILED_SHOWN:
        yield f"    ... {len(result.failed) - _FAILED_SHOWN:,} more"


def scan_json(result: ScanResult, most_groups: int) -> dict[str, object]:
    """Return the counts and the largest groups for JSON; times in seconds."""
    return {
        "files": result.files,
        "crashes": result.crashes,
        "failed": len(result.failed),
        "failures": dict(result.failures),
        "duration_s": round(result.duration_s, 3),
        "explained_s": round(result.explained_s, 3),
        "group_count": len(result.groups),
        "groups": [asdict(each) for each in result.groups[:most_groups]],
    }


def interrupted_text(out: Path | None) -> str:
    """Return what an interrupt leaves."""
    if out is None:
        return "the scan was interrupted; without --out nothing of it is kept"
    return f"the scan was interrupted; the same command with --out {out} goes on from there"
