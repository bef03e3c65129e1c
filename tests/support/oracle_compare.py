"""Runs programs on both sides and tells what differs."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support import oracle_qemu
from tests.support.oracle_lfsr import recover_rgsr
from tests.support.oracle_outcome import differences
from tests.support.oracle_program import Program
from tests.support.oracle_soft import SoftSide


@dataclass(frozen=True)
class Failure:
    """A program that ends differently on our side, and how."""

    program: Program
    slot: int
    lines: tuple[str, ...]


def compare(qemu: Path, soft: SoftSide, programs: list[Program]) -> list[Failure]:
    """Run a batch, one program in each slot, on both sides; return what differs."""
    soft.load_code(programs)
    failures = []
    for slot, (program, theirs) in enumerate(
        zip(programs, oracle_qemu.run(qemu, programs), strict=True)
    ):
        try:
            ours = soft.run(program, slot, recover_rgsr(theirs.irg_before))
        except RuntimeError as error:
            failures.append(Failure(program, slot, (str(error),)))
            continue
        lines = differences(ours, theirs.outcome, partial(program.word_at, slot))
        if lines:
            failures.append(Failure(program, slot, tuple(lines)))
    return failures
