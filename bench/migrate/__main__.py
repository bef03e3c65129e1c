"""Measure migrations: python -m bench.migrate.

    python -m bench.migrate [--ram MIB] [--zero PERCENT] [--runs 5] [--no-qemu] [--json]
                            [--congestion host|cubic|bbr|both]
    python -m bench.migrate --tls [--ram MIB] [--runs 5] [--no-qemu] [--json]
    python -m bench.migrate --grow [--runs 5] [--no-qemu] [--json]
    python -m bench.migrate --sparse MIB [--runs 5] [--json]
    python -m bench.migrate --churn [--runs 100] [--max-downtime MS] [--no-qemu] [--json]

All contestants take turns; every figure is the median. The memory of all destinations is
there before the clock starts, except with --sparse. --congestion measures in a network
namespace of its own, where all connections get that congestion control, or in one after the
other; without it they get that of the host.
"""

import argparse
import json
import signal
import statistics
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Column, Table

from bench.migrate import churn, tls
from bench.migrate.congestion import CONTROLS, run_with
from bench.migrate.guest import Content
from bench.migrate.sample import Figures
from bench.migrate.series import has_room, measure, ratios
from bench.migrate.sparse import migrate_sparse

MIB = 1 << 20
GROWING_MIB = (256, 1024, 4096, 8192)
SPARSE_USED_BYTES = 64 * MIB
RUNS = 5
CHURN_RUNS = 100

Ratios = Callable[[dict[str, Figures]], dict[str, float]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ram", type=int, default=2048, metavar="MIB")
    parser.add_argument("--zero", type=int, default=0, metavar="PERCENT")
    parser.add_argument("--sparse", type=int, metavar="MIB")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--grow", action="store_true")
    parser.add_argument("--churn", action="store_true")
    parser.add_argument("--max-downtime", type=int, default=300, metavar="MS")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--no-qemu", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--congestion", choices=("host", *CONTROLS, "both"), default="host")
    return parser.parse_args()


def main() -> None:
    """Parse the command line, measure, print."""
    arguments = _arguments()
    # Ended as by Ctrl-C: with its processes, and with the RAM that QEMU was given as a file.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if arguments.congestion != "host":
        _measure_with(arguments.congestion, as_json=arguments.json)
        return
    if arguments.churn:
        _show(
            churn.measure(
                churn.Workload(),
                arguments.runs or CHURN_RUNS,
                arguments.max_downtime / 1e3,
                with_qemu=not arguments.no_qemu,
            ),
            as_json=arguments.json,
        )
        return
    runs = arguments.runs or RUNS
    if arguments.sparse:
        _show({"sparse": _sparse(arguments.sparse * MIB, runs)}, as_json=arguments.json)
        return
    if arguments.tls:
        content = Content(arguments.ram * MIB)
        figures = tls.measure(content, runs, with_qemu=not arguments.no_qemu)
        title = f"{arguments.ram} MiB, {runs} runs"
        _show({title: figures}, as_json=arguments.json, ratios_of=tls.ratios)
        return
    _measure_sizes(arguments, runs)


def _measure_sizes(arguments: argparse.Namespace, runs: int) -> None:
    """Measure one size of a guest, or several that grow; each is printed as it is measured."""
    sizes = GROWING_MIB if arguments.grow else (arguments.ram,)
    results = {}
    for ram_mib in sizes:
        content = Content(ram_mib * MIB, arguments.zero)
        if arguments.grow and not has_room(2, content):
            print(f"{ram_mib} MiB: left out, the memory is not there", file=sys.stderr)
            continue
        title = f"{ram_mib} MiB, {arguments.zero} % zero pages, {runs} runs"
        results[title] = measure(content, runs, with_qemu=not arguments.no_qemu)
        if not arguments.json:
            _print(title, results[title])
    if arguments.json:
        _show(results, as_json=True)


def _measure_with(congestion: str, *, as_json: bool) -> None:
    """Run this command once per control; the later --congestion counts."""
    controls = CONTROLS if congestion == "both" else (congestion,)
    texts = {
        control: run_with(control, [*sys.argv[1:], "--congestion", "host"]) for control in controls
    }
    if as_json:
        print(json.dumps({name: json.loads(text) for name, text in texts.items()}, indent=2))
        return
    for control, text in texts.items():
        print(f"congestion control {control}:\n{text}")


def _sparse(ram_bytes: int, runs: int) -> dict[str, Figures]:
    samples = [migrate_sparse(ram_bytes, SPARSE_USED_BYTES) for _ in range(runs)]

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    return {
        f"{ram_bytes // MIB} MiB, of which {SPARSE_USED_BYTES // MIB} MiB are used": {
            "seconds": median([each.seconds for each in samples]),
            "source_grown_mib": max(each.source_grown_bytes for each in samples) / MIB,
            "destination_grown_mib": max(each.destination_grown_bytes for each in samples) / MIB,
        }
    }


def _show(
    results: dict[str, dict[str, Figures]], *, as_json: bool, ratios_of: Ratios = ratios
) -> None:
    if as_json:
        with_ratios = {
            title: {"figures": figures, "ratios": ratios_of(figures)}
            for title, figures in results.items()
        }
        print(json.dumps(with_ratios, indent=2))
        return
    for title, figures in results.items():
        _print(title, figures, ratios_of)


def _print(title: str, figures: dict[str, Figures], ratios_of: Ratios = ratios) -> None:
    names = list(next(iter(figures.values())))
    if len(figures) < len(names) // 2:  # narrow rather than wide
        table = Table("", *figures, title=title)
        for name in names:
            table.add_row(name.replace("_", " "), *(_text(each[name]) for each in figures.values()))
        Console().print(table)
        return
    table = Table(Column(no_wrap=True), *(name.replace("_", " ") for name in names), title=title)
    for who, values in figures.items():
        table.add_row(who, *(_text(values[name]) for name in names))
    Console().print(table)
    for what, ratio in ratios_of(figures).items():
        Console().print(f"{what}: {ratio:.2f}")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
