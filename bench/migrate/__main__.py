"""Measure migrations: python -m bench.migrate.

    python -m bench.migrate [--ram MIB] [--zero PERCENT] [--runs 5] [--no-qemu] [--json]

All contestants take turns; every figure is the median. The memory of all destinations is
there before the clock starts.
"""

import argparse
import json

from rich.console import Console
from rich.table import Table

from bench.migrate.guest import Content
from bench.migrate.series import Figures, measure, ratios

MIB = 1 << 20


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ram", type=int, default=2048, metavar="MIB")
    parser.add_argument("--zero", type=int, default=0, metavar="PERCENT")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-qemu", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    content = Content(arguments.ram * MIB, arguments.zero)
    figures = measure(content, arguments.runs, with_qemu=not arguments.no_qemu)
    result = {"ram_mib": arguments.ram, "zero_percent": arguments.zero, "runs": arguments.runs}
    if arguments.json:
        print(json.dumps({**result, "figures": figures, "ratios": ratios(figures)}, indent=2))
    else:
        _print(str(result), figures)


def _print(title: str, figures: dict[str, Figures]) -> None:
    names = list(next(iter(figures.values())))
    table = Table("", *names, title=title)
    for who, values in figures.items():
        table.add_row(who, *(_text(values[name]) for name in names))
    Console().print(table)
    for what, ratio in ratios(figures).items():
        Console().print(f"{what}: {ratio:.2f}")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
