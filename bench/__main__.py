"""Measure the machine, snapshots and cores: python -m bench.

    python -m bench [--json] [--runs 5] [--ram MIB] [--folder FOLDER]

Every figure is the median of --runs runs. Snapshots are written to FOLDER, by default
/dev/shm; it takes 5 GiB there, or three times --ram if that is more. Migrations are measured
by `python -m bench.migrate`; `make bench` compares what matters most with its peers.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import core_tags, snapshot
from bench.interpreter import MODES, million_instructions_per_second

MIB = 1 << 20


def _interpreter(runs: int) -> dict[str, float]:
    return {
        name: statistics.median(million_instructions_per_second(mode) for _ in range(runs))
        for name, mode in MODES.items()
    }


def _core_tags(runs: int) -> dict[str, float]:
    samples = [core_tags.measure() for _ in range(runs)]
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}


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
    parser.add_argument("--ram", type=int, default=512, metavar="MIB")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    arguments = parser.parse_args()
    figures = {
        "interpreter, million instructions/s": _interpreter(arguments.runs),
        "tags of 1 GiB of guest memory from a core": _core_tags(arguments.runs),
    }
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures.update(snapshot.measure(Path(folder), arguments.ram * MIB, arguments.runs))
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        _print(figures)


if __name__ == "__main__":
    main()
