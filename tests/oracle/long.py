"""Compare random programs with QEMU's user mode for as long as you like.

    python -m tests.oracle.long --minutes 30
    python -m tests.oracle.long --minutes 0 --kind mixed --seed 6231     # one batch again

Seeds start where --seed says, or anywhere. Exit status 1 if a program differed.
"""

import argparse
import itertools
import random
import sys
import time
from pathlib import Path

from tests.support.fetch_qemu import QemuMissingError, find_qemu
from tests.support.oracle_compare import compare
from tests.support.oracle_generate import ENCODINGS, KINDS, batch
from tests.support.oracle_layout import SLOTS
from tests.support.oracle_report import explain
from tests.support.oracle_soft import SoftSide

_SEEDS = 1 << 40
_REPORT_EVERY_S = 30


def main() -> int:
    """Run batches until the time is over; return the exit status."""
    arguments = _arguments()
    kinds = [arguments.kind] if arguments.kind else [*KINDS, ENCODINGS]
    try:
        qemu = find_qemu()
    except QemuMissingError as error:
        say(f"missing qemu-aarch64 (user mode, 7.2 or newer): {error}")
        return 2
    say(f"oracle {qemu}, seeds from {arguments.seed}")
    soft = SoftSide()
    failed = _sweep(qemu, soft, kinds, arguments.seed // SLOTS, arguments.minutes * 60)
    soft.close()
    return int(failed)


def _sweep(qemu: Path, soft: SoftSide, kinds: list[str], first: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    next_report = time.monotonic() + _REPORT_EVERY_S
    programs = differing = words = 0
    for number in itertools.count(first):
        for kind in kinds:
            made = batch(kind, number)
            failures = compare(qemu, soft, made)
            programs += len(made)
            words += sum(len(program.words) for program in made)
            differing += len(failures)
            if failures:
                say(explain(qemu, soft, failures))
        if time.monotonic() >= min(end, next_report):
            next_report += _REPORT_EVERY_S
            say(f"{programs} programs, {words} instructions, {differing} programs differ")
        if time.monotonic() >= end:
            return bool(differing)
    return False


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kind", choices=[*KINDS, ENCODINGS], help="default: all")
    parser.add_argument("--seed", type=int, default=random.randrange(_SEEDS))
    return parser.parse_args()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
