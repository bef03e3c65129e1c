"""The comparison of the access strategies in words and tables."""

from collections.abc import Iterator, Mapping, Sequence

from tagalong.cli.units import wrapped
from tagalong.studies.comparison import (
    ComparisonReport,
    Looks,
    Operation,
    StrategyReport,
    SystemCalls,
)

_OPERATIONS = {
    "read_data": "read data",
    "write_data": "write data",
    "read_tags": "read tags",
    "write_tags": "write tags",
}
_SMALL = 0.1


def access_report(report: ComparisonReport) -> str:
    """Return all tables, and what auto would take."""
    working = [row for row in report.strategies if row.works]
    parts = [
        wrapped(f"Machine: {report.machine} ({report.machine_reason}).")
        + "\n"
        + wrapped(f"auto takes {report.chosen}: {report.chosen_reason}."),
        *_refused(report.strategies),
        "Faults while the guest is paused, by checking mode, and what write(2) and\n"
        "read(2) say to the memory:\n" + _table(_faults(working)),
        "GiB of guest RAM per second with synchronous checks, and system calls + ioctls\n"
        "per GiB:\n" + _table(_costs(working)),
        *_races(working),
        *_descriptions(report.strategies),
    ]
    return "\n\n".join(parts)


def _refused(rows: Sequence[StrategyReport]) -> list[str]:
    """Return what does not work here; strategies that lack the same thing share a line."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.reason is not None:
            reasons.setdefault(row.reason, []).append(row.name)
    lines = [
        wrapped(f"{', '.join(names)}: {'does' if len(names) == 1 else 'do'} not work here: {why}.")
        for why, names in reasons.items()
    ]
    return ["\n".join(lines)] if lines else []


def _faults(rows: Sequence[StrategyReport]) -> Iterator[Sequence[str]]:
    yield "access", "none", "sync", "async", "wrong", "write, read: none", "sync", "async"
    for row in rows:
        faults, wrong, calls = row.faults or {}, row.wrong or {}, row.system_calls or {}
        counts = [f"{count}/{row.attempts}" for count in faults.values()]
        yield row.name, *counts, str(sum(wrong.values())), *map(_calls, calls.values())


def _calls(calls: SystemCalls) -> str:
    return calls.write if calls.write == calls.read else f"{calls.write}, {calls.read}"


def _costs(rows: Sequence[StrategyReport]) -> Iterator[Sequence[str]]:
    yield "access", *_OPERATIONS.values()
    for row in rows:
        if row.operations is not None:
            yield row.name, *(_cost(row.operations[name]) for name in _OPERATIONS)


def _cost(cost: Operation) -> str:
    digits = 2 if cost.gib_per_s >= _SMALL else 4
    calls = f"{cost.system_calls_per_gib:,.0f}+{cost.ioctls_per_gib:,.0f}"
    return f"{cost.gib_per_s:.{digits}f} ({calls})"


def _races(rows: Sequence[StrategyReport]) -> list[str]:
    races = {row.name: row.race for row in rows if row.race is not None}
    if not races:
        return []
    seconds = next(iter(races.values())).seconds
    running = {name: race.running for name, race in races.items()}
    paused = {name: race.paused for name, race in races.items()}
    return [
        f"Looks (tags, then data) for {seconds:g} s at a guest that changes both as fast as it\n"
        "can; torn, stale and right are percentages of the granules that were read:\n"
        + _table(_race_rows(running)),
        "The same while that guest is paused:\n" + _table(_race_rows(paused)),
    ]


def _race_rows(looks: Mapping[str, Looks]) -> Iterator[Sequence[str]]:
    yield "access", "looks", "faults", "torn", "stale", "right"
    for name, each in looks.items():
        yield name, *_looks(each)


def _looks(looks: Looks) -> list[str]:
    seen = looks.torn + looks.stale + looks.right
    shares = [
        f"{100 * count / seen:.2f}" if seen else "-"
        for count in (looks.torn, looks.stale, looks.right)
    ]
    return [f"{looks.looks:,}", f"{looks.faults:,}", *shares]


def _descriptions(rows: Sequence[StrategyReport]) -> Iterator[str]:
    """Yield what all strategies need, then each with what it needs beside that."""
    common = set.intersection(*(set(row.needs) for row in rows)) if rows else set()
    if common:
        yield wrapped(f"All of them need: {'; '.join(sorted(common))}.")
    width = max(len(row.name) for row in rows) + 2
    lines = []
    for row in rows:
        lines.append(wrapped(row.summary, f"{row.name:{width}}", " " * width))
        for title, texts in (("needs", [n for n in row.needs if n not in common]),
                             ("but", row.hazards)):  # fmt: skip
            if texts:
                first = f"{'':{width}}{title}: "
                lines.append(wrapped("; ".join(texts), first, " " * (width + 2)))
    yield "\n".join(lines)


def _table(rows: Iterator[Sequence[str]]) -> str:
    """Return rows as columns: the first to the left, numbers to the right."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:{'<' if number == 0 else '>'}{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )
