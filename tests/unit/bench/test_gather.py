"""The gathering of rows: each source in its own process, and none takes others with it."""

import os
import sys
from collections.abc import Sequence
from functools import partial

from bench.gather import Source, gather
from bench.rows import Figure, Row, not_measured


def measured(number: int, runs: int) -> Sequence[Row]:
    return [Row(number, (Figure("runs", runs), Figure("pid", os.getpid())), "in turn")]


def lacks_its_peer(_runs: int) -> Sequence[Row]:
    sys.exit("no qemu-system-aarch64")


def dies(_runs: int) -> Sequence[Row]:
    os._exit(7)


def test_gather_takes_the_wanted_rows_only() -> None:
    sources = (Source((1,), partial(measured, 1)), Source((3,), dies))

    (row,) = gather(sources, {1}, runs=2)

    assert (row.number, row.figures[0].value) == (1, 2)
    assert row.figures[1].value != os.getpid()


def test_gather_names_what_a_source_lacks_and_measures_the_others() -> None:
    sources = (
        Source((1, 2), lacks_its_peer),
        Source((3,), dies),
        Source((4,), partial(measured, 4)),
    )

    rows = list(gather(sources, {1, 2, 3, 4}, runs=1))

    assert rows[:3] == [
        not_measured(1, "no qemu-system-aarch64"),
        not_measured(2, "no qemu-system-aarch64"),
        not_measured(3, "its process ended with status 7"),
    ]
    assert rows[3].number == 4
