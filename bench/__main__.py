"""Measure the embedded machine: python -m bench [--json] [--runs 5].

Every figure is the median of --runs runs. Migrations are measured by `python -m bench.migrate`;
`make bench` does both.
"""

import argparse
import json
import statistics

from rich.console import Console
from rich.table import Table

from bench.interpreter import MODES, million_instructions_per_second


def _interpreter(runs: int) -> dict[str, float]:
    return {
        name: statistics.median(million_instructions_per_second(mode) for _ in range(runs))
        for name, mode in MODES.items()
    }


def _print(figures: dict[str, dict[str, float]]) -> None:
    for title, values in figures.items():
        table = Table(title=title, show_header=False)
        for name, value in values.items():
            table.add_row(name, f"{value:,.3f}" if value < 10 else f"{value:,.1f}")
        Console().print(table)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    figures = {
        "interpreter, million instructions/s": _interpreter(arguments.runs),
    }
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        _print(figures)


if __name__ == "__main__":
    main()
