"""What a measurement comes to: rows of one table, for terminals, programs and documents.

A figure carries its own bound, so what is wanted and whether it is reached are never told apart
from what was measured.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Column, Table

from bench.goals import GOALS

_MARKS = {True: "yes", False: "no", None: "-"}


@dataclass(frozen=True)
class Figure:
    """One measured value in `unit` ("" for a ratio), and what is wanted of it, if anything.

    Give `at_least` or `at_most`, or neither for a figure that explains others.
    """

    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool | None:
        """Return whether the value is within its bounds; None if it has none."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name}: {value_text(self.value)}{unit}"


@dataclass(frozen=True)
class Row:
    """One row: its figures, and how they were made. What it is about is in `goals`.

    `problem` says why there are no figures, or why some are missing.
    """

    number: int
    figures: tuple[Figure, ...]
    how: str
    problem: str = ""

    @property
    def what(self) -> str:
        """Return what the row measures."""
        return GOALS[self.number].what

    @property
    def wanted(self) -> str:
        """Return what is wanted of it, in words."""
        return GOALS[self.number].wanted

    @property
    def reached(self) -> bool | None:
        """Return whether every figure with a bound is within it; None if that is not known.

        A row with a problem cannot have reached what is wanted of it.
        """
        judged = [each.reached for each in self.figures if each.reached is not None]
        if self.problem:
            return False if False in judged else None
        return all(judged) if judged else None


def not_measured(number: int, problem: str) -> Row:
    """Return a row without figures."""
    return Row(number, (), "", problem)


def value_text(value: float) -> str:
    """Return a value with three digits, or more if its whole part has more.

    >>> value_text(0.0123), value_text(1.204), value_text(15432.1)
    ('0.0123', '1.20', '15,432')
    """
    size = abs(value)
    if size >= 100 or size == int(size):
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:.3g}"


def as_table(rows: Iterable[Row]) -> Table:
    """Return the rows for a terminal."""
    number, reached = Column("#", justify="right"), Column("reached", no_wrap=True)
    table = Table(number, "what", "measured", "wanted", reached, show_lines=True)
    for row in rows:
        table.add_row(
            str(row.number), row.what, "\n".join(_lines(row)), row.wanted, _MARKS[row.reached]
        )
    return table


def as_json(rows: Iterable[Row]) -> str:
    """Return the rows as a JSON array; a bound that is not set is left out."""
    return json.dumps([_as_object(row) for row in rows], indent=2)


def as_markdown(rows: Iterable[Row]) -> str:
    """Return the rows as a table of Markdown, one line per row."""
    lines = ["| # | what | measured | wanted | reached | how |", "|---|---|---|---|---|---|"]
    for row in rows:
        measured = "; ".join(_lines(row))
        cells = (row.number, row.what, measured, row.wanted, _MARKS[row.reached], row.how)
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _lines(row: Row) -> Sequence[str]:
    lines = [str(figure) for figure in row.figures]
    return [*lines, f"not measured: {row.problem}"] if row.problem else lines


def _as_object(row: Row) -> dict[str, object]:
    return {
        "number": row.number,
        "what": row.what,
        "figures": [
            {name: value for name, value in vars(each).items() if value is not None}
            for each in row.figures
        ],
        "wanted": row.wanted,
        "reached": row.reached,
        "how": row.how,
        "problem": row.problem,
    }
