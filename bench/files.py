"""Rows of files: dumps beside cp and QEMU, and restores."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import snapshot
from bench.rows import Figure, Row

MIB = 1 << 20
_RAM_BYTES = 1024 * MIB
_MEMORY = "/dev/shm"


def dump_rows(runs: int) -> Sequence[Row]:
    """Return the row of dumps."""
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        found = snapshot.measure_dump(Path(folder), _RAM_BYTES, runs)
    figures = [Figure("dump to cp, tmpfs", found["dump_ratio_to_cp"], at_least=1.0)]
    if "dump_ratio_to_qemu" in found:
        figures.append(
            Figure("dump to QEMU's dump-guest-memory, tmpfs", found["dump_ratio_to_qemu"])
        )
    how = f"1 GiB of random RAM and tags in turn, medians of {runs} runs"
    return [Row(7, tuple(figures), how)]


def restore_rows(runs: int) -> Sequence[Row]:
    """Return the row of restores."""
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        found = snapshot.measure_restore(Path(folder), runs)
    figures = (
        Figure("64 MiB", found["ms_64_mib"], "ms", at_most=1),
        Figure("4 GiB", found["ms_4096_mib"], "ms", at_most=1),
    )
    return [Row(10, figures, f"cores in tmpfs, all RAM with content, medians of {runs} restores")]
