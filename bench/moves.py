"""Rows of migrations beside QEMU's and plain copies: rates and processor time."""

from collections.abc import Sequence

from bench.migrate.congestion import CONTROLS, figures_with
from bench.migrate.sample import Figures
from bench.migrate.series import CHANNELS, ratios
from bench.rows import Figure, Row


def large_rows(runs: int) -> Sequence[Row]:
    """Return the rows of 2 GiB: to QEMU's best, to plain copies, and processor time."""
    rates: list[Figure] = []
    to_copies: list[Figure] = []
    cpu: list[Figure] = []
    for control in CONTROLS:
        figures = _measured(control, 2048, runs)
        found = ratios(figures)
        rates += [Figure(control, found["rate, to QEMU's best"], at_least=1.5)]
        rates += _rates(control, figures)
        to_copies += _to_plain_copies(found, control, 0.9)
        to_copies += [
            Figure(f"{control}, auto, to our best", found["rate of auto, to the best number"])
        ]
        cpu += [Figure(control, found["CPU s/GiB, to QEMU's best"], at_most=0.7)]
    how = f"2 GiB over loopback, all in turn, medians of {runs} runs per congestion control"
    return [
        Row(1, tuple(rates), how),
        Row(2, tuple(to_copies), how),
        Row(5, tuple(cpu), how),
    ]


def small_rows(runs: int) -> Sequence[Row]:
    """Return the row of 0.25 GiB."""
    to_copies: list[Figure] = []
    for control in CONTROLS:
        found = ratios(_measured(control, 256, runs, "--no-qemu"))
        to_copies += _to_plain_copies(found, control, 0.85)
    how = f"0.25 GiB over loopback, in turn, medians of {runs} runs per congestion control"
    return [Row(3, tuple(to_copies), how)]


def _measured(control: str, ram_mib: int, runs: int, *more: str) -> dict[str, Figures]:
    arguments = ["--ram", str(ram_mib), "--runs", str(runs), *more]
    (figures,) = figures_with(control, arguments).values()
    return figures


def _rates(control: str, figures: dict[str, Figures]) -> list[Figure]:
    rates = {f"{control}: {name}": each["gb_per_s"] for name, each in figures.items()}
    return [Figure(name, rate, "GB/s") for name, rate in rates.items() if rate is not None]


def _to_plain_copies(found: dict[str, float], control: str, wanted: float) -> list[Figure]:
    return [
        Figure(
            f"{control}, {channels}", found[f"rate, to plain copy over {channels}"], at_least=wanted
        )
        for channels in CHANNELS
    ]
