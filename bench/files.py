"""Rows of files: a guest to a file and back, beside cp and QEMU, and the start after a restore."""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import filed, resumed, snapshot
from bench.migrate.guest import Content
from bench.rows import Figure, Row

MIB = 1 << 20
_RAM_BYTES = 1024 * MIB
_FOLDERS = {"tmpfs": "/dev/shm", "disk": "/var/tmp"}
_OURS = ("snapshot", "migrate file:")


def dump_rows(runs: int) -> Sequence[Row]:
    """Return the row of files, in memory and on a disk."""
    figures: list[Figure] = []
    for name, parent in _FOLDERS.items():
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            samples = filed.measure(Path(folder), Content(_RAM_BYTES), runs)
        figures += _written(samples.to_file, name) + _loaded(samples.from_file, name)
    how = (
        f"{_RAM_BYTES // MIB} MiB of random RAM and tags in turn, medians of {runs} runs; QEMU "
        "with mapped-ram and multifd 2, the better of with and without direct-io; on the disk all "
        "are written up to the end of fsync, and loaded with an empty page cache"
    )
    return [Row(7, tuple(figures), how)]


def _written(seconds: filed.Seconds, where: str) -> list[Figure]:
    """Return what is wanted: on a disk of files that are on it."""
    suffix = "" if where == "tmpfs" else filed.SYNCED
    qemu = _better(seconds, f"QEMU{suffix}", f"QEMU, direct-io{suffix}")
    figures = []
    for ours in _OURS:
        of_qemu = filed.ratio(seconds, ours, qemu)
        of_cp = filed.ratio(seconds, ours, f"cp{suffix}")
        figures += [
            Figure(f"{ours} to QEMU, {where}", of_qemu, at_least=1.3),
            Figure(f"{ours} to cp, {where}", of_cp, at_least=1.0),
            Figure(ours, _rate(seconds[ours]), "GB/s"),
        ]
    if suffix:
        cached = filed.ratio(seconds, _OURS[0], "QEMU")
        figures.append(Figure("snapshot to QEMU without its fsync", cached))
    return figures


def _loaded(seconds: filed.Seconds, where: str) -> list[Figure]:
    qemu = _better(seconds, "QEMU", "QEMU, direct-io")
    return [
        Figure(f"{ours} to QEMU's loading, {where}", filed.ratio(seconds, ours, qemu), at_least=1.0)
        for ours in ("incoming file:", "restore, all read")
    ]


def _better(seconds: filed.Seconds, *names: str) -> str:
    return min(names, key=lambda name: statistics.median(seconds[name]))


def _rate(seconds: Sequence[float]) -> float:
    return _RAM_BYTES / statistics.median(seconds) / 1e9


def restore_rows(runs: int) -> Sequence[Row]:
    """Return the row of restores."""
    with tempfile.TemporaryDirectory(dir=_FOLDERS["tmpfs"]) as folder:
        found = snapshot.measure_restore(Path(folder), runs)
    with tempfile.TemporaryDirectory(dir=_FOLDERS["disk"]) as folder:
        cold_s = resumed.measure(Path(folder), runs)
    figures = (
        Figure("64 MiB", found["ms_64_mib"], "ms", at_most=1),
        Figure("4 GiB", found["ms_4096_mib"], "ms", at_most=1),
        Figure("10,000 operations of churn, cold file", cold_s["cold"] * 1e3, "ms"),
        Figure("10,000 operations of churn without a restore", cold_s["running"] * 1e3, "ms"),
    )
    how = (
        f"cores in tmpfs, all RAM with content, medians of {runs} restores; then a core of churn "
        "(heap of 32 MiB) on a disk, none of it in the page cache"
    )
    return [Row(10, figures, how)]
