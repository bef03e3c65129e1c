"""Compare this tree with the last release: python -m bench.ab [--base REV] [--runs 7] [--json].

Both trees take turns within each round, each figure as a ratio new/base with its spread. The
base is the newest tag, or the last commit that had another version; its tree and its build are
kept in build/ab. It takes some five minutes and 9 GiB of memory.

Exit status: 0 if no figure is worse than its bound beyond the noise of this run; 1 if one is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.ab.base import ROOT, base_revision, checked_out, environment_of
from bench.ab.figures import GUARDED, Guarded
from bench.ab.verdict import Comparison, verdict_text
from bench.gather import end_by_signal

_LEAST_RUNS = 3
_CORE = ROOT / "tests" / "golden" / "core-v1.core"


class Contestant:
    """A worker of one tree; ended at the end of a `with` statement."""

    def __init__(self, tree: Path, folder: Path) -> None:
        folder.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.ab.worker", str(folder), str(_CORE)],
            cwd=ROOT, env=environment_of(tree), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        found = Path(self._line())
        if found != tree / "src" / "tagalong":
            self._end()
            raise SystemExit(f"the worker of {tree} has imported {found}")

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def measure(self, key: str) -> float:
        """Return one sample. Raises SystemExit if the worker fails."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{key}\n")
        self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with status {self._process.wait()}")
        return line.strip()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()


def compare(base: Contestant, new: Contestant, guarded: Guarded, runs: int) -> Comparison:
    """Let both take turns, each round in the other order; the first round warms up."""
    samples: dict[Contestant, list[float]] = {base: [], new: []}
    for number in range(runs + 1):
        for each in (base, new) if number % 2 else (new, base):
            samples[each].append(each.measure(guarded.key))
    name, unit = guarded.name, guarded.unit
    return Comparison(name, unit, samples[base][1:], samples[new][1:], guarded.bound)


def _print(base: str, comparisons: Sequence[Comparison]) -> None:
    table = Table(
        "", "base", "new", "unit", "new/base", "±", "bound", "", title=f"beside {base[:12]}"
    )
    for each in comparisons:
        middle = sorted(each.base)[len(each.base) // 2], sorted(each.new)[len(each.new) // 2]
        better = "≥" if each.higher_is_better else "≤"
        table.add_row(
            each.name, *(f"{value:.3g}" for value in middle), each.unit, f"{each.ratio:.3f}",
            f"{each.noise:.3f}", f"{better} {each.bound}", each.mark,
        )  # fmt: skip
    Console().print(table)
    Console().print(verdict_text(comparisons))


def main() -> int:
    """Parse the command line, build, compare, print; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", metavar="REV")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.runs < _LEAST_RUNS:
        parser.error(f"--runs {arguments.runs} shows no noise; at least {_LEAST_RUNS} do")
    end_by_signal()
    tree = checked_out(base_revision(arguments.base))
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as scratch,
        Contestant(tree, Path(scratch) / "base") as base,
        Contestant(ROOT, Path(scratch) / "new") as new,
    ):
        console = Console(stderr=True)
        each = track(GUARDED, "comparing", console=console, transient=True)
        comparisons = [compare(base, new, guarded, arguments.runs) for guarded in each]
    if arguments.json:
        facts = [{**vars(c), "ratio": c.ratio, "noise": c.noise, "verdict": c.mark}
                 for c in comparisons]  # fmt: skip
        print(json.dumps({"base": tree.name, "figures": facts}, indent=2))
    else:
        _print(tree.name, comparisons)
    return 1 if any(each.is_worse for each in comparisons) else 0


if __name__ == "__main__":
    sys.exit(main())
