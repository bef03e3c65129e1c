"""Rows of what a migration costs whatever its size, and of guests that have used little."""

import statistics
from collections.abc import Sequence

from bench.migrate import ours
from bench.migrate.sparse import migrate_sparse
from bench.rows import Figure, Row
from tagalong.migrate import MigrationOptions
from tagalong.soft import SoftMachine

MIB = 1 << 20
_USED_MIB = 64
_LARGE_MIB = 65536


def cost_rows(runs: int) -> Sequence[Row]:
    """Return the row of a guest of 64 MiB that has used 1 MiB."""
    machine = SoftMachine.create(ram_bytes=64 * MIB)
    machine.memory.regions[0].raw_data[:MIB] = 0x5A
    samples = [ours.migrate(machine, MigrationOptions()) for _ in range(runs)]
    machine.close()
    seconds = statistics.median(each.seconds for each in samples)
    downtime = statistics.median(each.downtime_ms or 0.0 for each in samples)
    figures = (
        Figure("from the order to the end", seconds * 1e3, "ms", at_most=5),
        Figure("downtime", downtime, "ms", at_most=1.5),
    )
    return [Row(4, figures, f"1 MiB of 64 MiB used, one connection, medians of {runs} runs")]


def sparse_rows(runs: int) -> Sequence[Row]:
    """Return the row of a guest of 64 GiB that has used 64 MiB."""
    samples = [migrate_sparse(_LARGE_MIB * MIB, _USED_MIB * MIB) for _ in range(runs)]
    seconds = statistics.median(each.seconds for each in samples)
    source = max(each.source_grown_bytes for each in samples) / MIB
    destination = max(each.destination_grown_bytes for each in samples) / MIB
    figures = (
        Figure("from the order to the end", seconds, "s", at_most=0.08),
        Figure("the source grows by", source, "MiB", at_most=32),
        Figure(
            "the destination by, beyond what was used", destination - _USED_MIB, "MiB", at_most=32
        ),
    )
    how = f"64 MiB used, spread evenly; median of {runs} runs, peaks of memory of the worst"
    return [Row(11, figures, how)]
