"""Measure everything that is wanted to be fast, and say whether it is: python -m bench.speed.

    python -m bench.speed [--rows 1,2,9] [--runs 5] [--json | --markdown]

One row is one thing that is wanted (docs/guide/speed.md). All contestants of a row take turns in
one run; every figure is the median of --runs runs. What cannot be measured here says why. All rows
take about 30 minutes and 7 GiB of memory.

Exit status: 0 if all rows were measured, reached or not; 1 otherwise.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from bench.gather import end_by_signal, gather
from bench.rows import Row, as_json, as_markdown, as_table
from bench.sources import SOURCES

_ALL = sorted(number for source in SOURCES for number in source.numbers)


def _numbers(text: str) -> frozenset[int]:
    """Return the row numbers of "1,2,9". Raises ValueError for others."""
    numbers = frozenset(int(word) for word in text.split(","))
    if not numbers.issubset(_ALL):
        raise ValueError(f"rows are {_ALL[0]} to {_ALL[-1]}")
    return numbers


def main() -> int:
    """Parse the command line, measure, print; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=_numbers, default=frozenset(_ALL), metavar="1,2,9")
    parser.add_argument("--runs", type=int, default=5)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    end_by_signal()
    rows = []
    for row in gather(SOURCES, arguments.rows, arguments.runs):
        rows.append(row)
        if not arguments.json and not arguments.markdown:
            Console().print(as_table([row]))
    rows.sort(key=lambda row: row.number)
    if arguments.json:
        print(as_json(rows))
    elif arguments.markdown:
        print(as_markdown(rows))
    else:
        _print(rows)
    return 1 if any(row.problem for row in rows) else 0


def _print(rows: Sequence[Row]) -> None:
    console = Console()
    console.print(as_table(rows))
    for row in rows:
        if row.how:
            console.print(f"{row.number}: {row.how}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
