"""The comparison of the access strategies in words and tables."""

from collections.abc import Iterator, Sequence

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
        f"Machine: {report.machine} ({report.machine_reason}).\n"
        f"auto takes {report.chosen}: {report.chosen_reason}.",
        *_refused(report.strategies),
        "Faults while the guest stands, by checking mode, and what write(2) and read(2) say to "
        "the memory:\n" + _table(_faults(working)),
        "GiB of guest RAM per second with synchronous checks, and system calls + ioctls per GiB:\n"
        + _table(_costs(working)),
        *_races(working),
        "\n".join(_descriptions(report.strategies)),
    ]
    return "\n\n".join(parts)


def _refused(rows: Sequence[StrategyReport]) -> list[str]:
    lines = [f"{row.name} does not work here: {row.reason}." for row in rows if not row.works]
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
    if all(row.race is None for row in rows):
        return []
    seconds = next(row.race.seconds for row in rows if row.race is not None)
    return [
        f"Looks (tags, then data) for {seconds:g} s at a guest that changes both as fast as it "
        "can, and at the same\n"
        "guest paused; torn, stale and right are percentages of the granules seen:\n"
        + _table(_race_rows(rows))
    ]


def _race_rows(rows: Sequence[StrategyReport]) -> Iterator[Sequence[str]]:
    heads = ("looks", "faults", "torn", "stale", "right")
    yield "access", *heads, *(f"paused: {head}" if head == "looks" else head for head in heads)
    for row in rows:
        if row.race is not None:
            yield row.name, *_looks(row.race.running), *_looks(row.race.paused)


def _looks(looks: Looks) -> list[str]:
    seen = looks.torn + looks.stale + looks.right
    shares = [
        f"{100 * count / seen:.2f}" if seen else "-"
        for count in (looks.torn, looks.stale, looks.right)
    ]
    return [f"{looks.looks:,}", f"{looks.faults:,}", *shares]


def _descriptions(rows: Sequence[StrategyReport]) -> Iterator[str]:
    width = max(len(row.name) for row in rows)
    for row in rows:
        yield f"{row.name:{width}}  {row.summary}"
        yield f"{'':{width}}  needs: {'; '.join(row.needs)}"
        yield f"{'':{width}}  but: {'; '.join(row.hazards)}"


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
