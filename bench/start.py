"""The row of how long commands take to start."""

import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

from bench.rows import Figure, Row

CORE = Path(__file__).parents[1] / "tests/golden/core-v3.core"
_RUNS_EACH = 3


def rows(runs: int) -> Sequence[Row]:
    """Return the row: from the start of a process to its end, in turn with Python's own."""
    tagalong = str(Path(sysconfig.get_path("scripts")) / "tagalong")
    commands = {
        "tagalong --help": [tagalong, "--help"],
        "tagalong info FILE": [tagalong, "info", str(CORE)],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(_RUNS_EACH * runs + 1):
        for name, command in commands.items():
            samples[name].append(seconds_of(command))
    # The first of each reads its files from the disk.
    medians = {name: statistics.median(each[1:]) for name, each in samples.items()}
    *ours, python = medians
    figures = [Figure(name, medians[name], "s", at_most=0.15) for name in ours]
    how = f"processes in turn, medians of {_RUNS_EACH * runs}; Python's own start is part of each"
    return [Row(12, (*figures, Figure(python, medians[python], "s")), how)]


def seconds_of(command: Sequence[str]) -> float:
    """Return how long a command takes. Raises CalledProcessError if it fails."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
