"""Shrinks a failing program: drops chunks as long as the two sides still differ.

All candidates of a round run in one batch, so that a round costs one start of the oracle.
"""

from pathlib import Path

from tests.support.oracle_compare import Failure, compare
from tests.support.oracle_layout import SLOTS
from tests.support.oracle_program import Program
from tests.support.oracle_soft import SoftSide


def minimise(qemu: Path, soft: SoftSide, failure: Failure) -> Failure:
    """Return the smallest failure that was found on the way from `failure`."""
    best = failure
    while True:
        smaller = _first_failure(qemu, soft, _candidates(best.program))
        if smaller is None:
            return best
        best = smaller


def _candidates(program: Program) -> list[Program]:
    """Return the program with one range of chunks dropped, the largest ranges first."""
    total = len(program.chunks)
    candidates = []
    count = total // 2
    while count:
        candidates += [program.without(first, count) for first in range(0, total, count)]
        count //= 2
    return candidates[:SLOTS]


def _first_failure(qemu: Path, soft: SoftSide, candidates: list[Program]) -> Failure | None:
    failures = compare(qemu, soft, candidates) if candidates else []
    return failures[0] if failures else None
