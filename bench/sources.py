"""Where each row of the table of `python -m bench.speed` comes from."""

from collections.abc import Sequence
from functools import partial

from bench import files, fixed, looks, moves, start
from bench.gather import Source
from bench.migrate import tls, zstd
from bench.rows import Row, not_measured
from bench.tags import contest


def _nothing(numbers: Sequence[int], _runs: int) -> Sequence[Row]:
    return [not_measured(number, "no benchmark") for number in numbers]


def _without_benchmark(*numbers: int) -> Source:
    return Source(numbers, partial(_nothing, numbers))


SOURCES = (
    Source((1, 2, 5), moves.large_rows),
    Source((3,), moves.small_rows),
    Source((4,), fixed.cost_rows),
    Source((6,), tls.rows),
    Source((7,), files.dump_rows),
    Source((8,), zstd.rows),
    Source((9,), contest.rows),
    Source((10,), files.restore_rows),
    Source((11,), fixed.sparse_rows),
    Source((12,), start.rows),
    Source((13,), looks.rows),
)
