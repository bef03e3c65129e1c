"""Gathers the rows of a table from what measures them, each in a process of its own."""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from multiprocessing.connection import Connection

from bench.rows import Row, not_measured

_SPAWN = multiprocessing.get_context("spawn")

Measure = Callable[[int], Sequence[Row]]
"""Takes how many runs a median is of; returns the rows. Raises SystemExit with what is missing."""


@dataclass(frozen=True)
class Source:
    """Measures the rows `numbers` together."""

    numbers: tuple[int, ...]
    measure: Measure


def gather(sources: Sequence[Source], wanted: AbstractSet[int], runs: int) -> Iterator[Row]:
    """Yield the rows of the numbers `wanted`, as they are measured.

    Every source has a process of its own: peaks of memory are of that source alone, and one
    that fails takes no other with it.
    """
    for source in sources:
        if not wanted.isdisjoint(source.numbers):
            measured = _in_a_process(source, runs)
            yield from (row for row in measured if row.number in wanted)


def _in_a_process(source: Source, runs: int) -> Sequence[Row]:
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_measure, args=(source, runs, theirs))
    process.start()
    theirs.close()
    rows: Sequence[Row]
    was_heard = False
    try:
        rows = ours.recv()
        was_heard = True
    except EOFError:
        process.join()
        reason = f"its process ended with status {process.exitcode}"
        rows = [not_measured(number, reason) for number in source.numbers]
    finally:
        if not was_heard:  # a signal has ended the wait
            process.terminate()
        process.join()
    return rows


def _measure(source: Source, runs: int, peer: Connection) -> None:
    end_by_signal()
    try:
        rows = source.measure(runs)
    except SystemExit as reason:
        rows = [not_measured(number, str(reason)) for number in source.numbers]
    peer.send(rows)


def end_by_signal() -> None:
    """Let SIGTERM end this process as Ctrl-C does: with all that it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
