"""Rows of migrations beside QEMU's and plain copies: rates and processor time."""

from collections.abc import Sequence
from pathlib import Path

from bench.migrate.guest import Content
from bench.migrate.series import CHANNELS, Figures, measure, ratios
from bench.rows import Figure, Row

MIB = 1 << 20
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def congestion_control() -> str:
    """Return the congestion control that sockets get here."""
    return _CONGESTION.read_text().strip()


def large_rows(runs: int) -> Sequence[Row]:
    """Return the rows of 2 GiB: to QEMU's best, to plain copies, and processor time."""
    figures = measure(Content(2048 * MIB), runs, with_qemu=True)
    found, control = ratios(figures), congestion_control()
    how = f"2 GiB over loopback in turn, {control}, medians of {runs} runs"
    best = found["rate, to QEMU's best"]
    cpu = found["CPU s/GiB, to QEMU's best"]
    return [
        Row(1, (Figure(control, best, at_least=1.5), *_rates(figures)), how),
        Row(2, _to_plain_copies(found, control, 0.9), how),
        Row(5, (Figure(control, cpu, at_most=0.7),), how),
    ]


def small_rows(runs: int) -> Sequence[Row]:
    """Return the row of 0.25 GiB."""
    found, control = (
        ratios(measure(Content(256 * MIB), runs, with_qemu=False)),
        congestion_control(),
    )
    how = f"0.25 GiB over loopback in turn, {control}, medians of {runs} runs"
    return [Row(3, _to_plain_copies(found, control, 0.85), how)]


def _rates(figures: dict[str, Figures]) -> list[Figure]:
    rates = {name: each["gb_per_s"] for name, each in figures.items()}
    return [Figure(name, rate, "GB/s") for name, rate in rates.items() if rate is not None]


def _to_plain_copies(found: dict[str, float], control: str, wanted: float) -> tuple[Figure, ...]:
    return tuple(
        Figure(
            f"{control}, {channels}", found[f"rate, to plain copy over {channels}"], at_least=wanted
        )
        for channels in CHANNELS
    )
