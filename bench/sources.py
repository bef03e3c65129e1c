"""Where each row of the table of `python -m bench.speed` comes from."""

from bench import files, fixed, looks, moves, start
from bench.gather import Source
from bench.migrate import tls, zstd
from bench.tags import contest

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
