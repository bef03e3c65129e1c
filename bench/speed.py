"""Measure everything that is wanted to be fast, and say whether it is: python -m bench.speed.

    python -m bench.speed [--rows 1,2,9] [--runs 5] [--json | --markdown]

One row is one thing that is wanted (docs/guide/speed.md). All contestants of a row take turns in
one run; every figure is the median of --runs runs. What cannot be measured here says why. All rows
take about 30 minutes and 7 GiB of memory.

Exit status: 0 if all rows were measured, reached or not; 1 otherwise.
"""

import argparse
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from multiprocessing.connection import Connection

from rich.console import Console

from bench.rows import Row, as_json, as_markdown, as_table, not_measured
from bench.sources import SOURCES, Source

_SPAWN = multiprocessing.get_context("spawn")
_ALL = sorted(number for source in SOURCES for number in source.numbers)


def gather(wanted: AbstractSet[int], runs: int) -> Iterator[Row]:
    """Yield the rows of the numbers `wanted`, as they are measured.

    Every source has a process of its own: peaks of memory are of that source alone, and one
    that fails takes no other with it.
    """
    for source in SOURCES:
        if not wanted.isdisjoint(source.numbers):
            measured = _in_a_process(source, runs)
            yield from (row for row in measured if row.number in wanted)


def _in_a_process(source: Source, runs: int) -> Sequence[Row]:
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_measure, args=(source, runs, theirs))
    process.start()
    theirs.close()
    try:
        rows: Sequence[Row] = ours.recv()
    except EOFError:
        process.join()
        reason = f"its process ended with status {process.exitcode}"
        rows = [not_measured(number, reason) for number in source.numbers]
    process.join()
    return rows


def _measure(source: Source, runs: int, peer: Connection) -> None:
    try:
        rows = source.measure(runs)
    except SystemExit as reason:
        rows = [not_measured(number, str(reason)) for number in source.numbers]
    peer.send(rows)


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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rows = []
    for row in gather(arguments.rows, arguments.runs):
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
