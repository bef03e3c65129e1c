"""How good explanations are: a confusion matrix, calibration, and debuggerd's rule beside it.

    python -m tests.support.measure FOLDER...

explains the cores of folders that tests.support.mishaps wrote, and prints both.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tagalong.explain.analysis import explain
from tagalong.explain.crash import Crash
from tagalong.explain.explanation import Cause, Explanation
from tagalong.explain.readers import open_crashes
from tagalong.mte import GRANULE_BYTES
from tests.support.debuggerd_rule import debuggerd_says
from tests.support.mishaps import Mishap, read_truth

NEAR_BYTES = 256
STALE = frozenset((Cause.USE_AFTER_FREE, Cause.USE_AFTER_REUSE))
HEADERLESS = "simple"


@dataclass(frozen=True)
class Answer:
    """What was said of one crash of known cause."""

    allocator: str
    truth: Cause
    said: Cause | None
    probability: float
    is_right: bool
    is_decidable: bool
    debuggerd: Cause | None
    debuggerd_is_right: bool


def judge(mishap: Mishap, crash: Crash, found: Explanation) -> Answer:
    truth, top = Cause(mishap.cause), found.top
    said = None if top is None else top.cause
    other = debuggerd_says(crash)
    return Answer(
        mishap.allocator,
        truth,
        said,
        0.0 if top is None else top.probability,
        same(mishap, truth, said) and is_block(mishap, truth, found),
        is_decidable(mishap, truth, crash),
        other,
        same_kind(truth, other),
    )


def is_decidable(mishap: Mishap, truth: Cause, crash: Crash) -> bool:
    """Return whether no other cause has left the same bytes, by what really happened.

    A wild pointer can be anything. An overflow is decidable near its block: what lies further away
    can be another block's, by chance. A stale pointer is decidable if nothing near has its tag.
    """
    address, start, end = crash.fault.address, mishap.start, mishap.start + mishap.size
    if truth is Cause.WILD_POINTER or address is None:
        return truth is not Cause.WILD_POINTER
    if truth in (Cause.OVERFLOW, Cause.UNDERFLOW):
        return start - NEAR_BYTES <= address < end + NEAR_BYTES
    if truth in STALE or truth is Cause.DOUBLE_FREE:
        low = address // NEAR_BYTES * NEAR_BYTES - NEAR_BYTES
        tags = crash.memory.tags(low, 3 * NEAR_BYTES).tolist()
        return not any(
            tag == crash.fault.pointer_tag and not start <= low + number * GRANULE_BYTES < end
            for number, tag in enumerate(tags)
        )
    return True


def same(mishap: Mishap, truth: Cause, said: Cause | None) -> bool:
    """Return whether a cause is the true one. Without headers nothing tells free from reused."""
    if mishap.allocator == HEADERLESS and truth in STALE:
        return said in STALE
    return said is truth


def same_kind(truth: Cause, said: Cause | None) -> bool:
    """Return whether debuggerd, which knows three causes, names the true one."""
    if truth in STALE or truth is Cause.DOUBLE_FREE:
        return said in STALE
    return said is truth


def is_block(mishap: Mishap, truth: Cause, found: Explanation) -> bool:
    """Return whether an overflow was said to be of the block that it was of."""
    if truth not in (Cause.OVERFLOW, Cause.UNDERFLOW) or found.top is None:
        return True
    block = found.top.block
    return block is not None and block.start <= mishap.start < block.end


def answers(folders: Iterable[Path]) -> Iterator[Answer]:
    for folder in folders:
        for mishap in read_truth(folder):
            with open_crashes(mishap.core, folder) as (crash,):
                yield judge(mishap, crash, explain(crash))


def confusion(found: Sequence[Answer]) -> list[str]:
    counts = Counter((each.truth, each.said) for each in found)
    return [
        f"| {truth.value} | {said.value if said else 'nothing'} | {count} |"
        for (truth, said), count in sorted(counts.items(), key=str)
    ]


def calibration(found: Sequence[Answer]) -> list[str]:
    lines = []
    for low, high in (
        (0.0, 0.5),
        (0.5, 0.7),
        (0.7, 0.85),
        (0.85, 0.95),
        (0.95, 0.99),
        (0.99, 1.01),
    ):
        inside = [each for each in found if each.said and low <= each.probability < high]
        if inside:
            said = sum(each.probability for each in inside) / len(inside)
            lines.append(
                f"| {low:.2f} to {min(high, 1.0):.2f} | {len(inside)} | {said:.2f} |"
                f" {share(each.is_right for each in inside):.2f} |"
            )
    return lines


def share(values: Iterable[bool]) -> float:
    listed = list(values)
    return sum(listed) / max(1, len(listed))


def decidable(found: Iterable[Answer]) -> list[Answer]:
    return [each for each in found if each.is_decidable]


def report(found: Sequence[Answer]) -> str:
    sure = decidable(found)
    return "\n".join(
        [
            f"{len(found)} crashes, {len(sure)} of them decidable",
            f"right: {share(e.is_right for e in found):.3f} of all, "
            f"{share(e.is_right for e in sure):.3f} of the decidable",
            f"debuggerd's rule: {share(e.debuggerd_is_right for e in found):.3f} of all, "
            f"{share(e.debuggerd_is_right for e in sure):.3f} of the decidable",
            "", "| said with | crashes | mean | right |", "|---|---|---|---|", *calibration(found),
            "", "| cause | said | crashes |", "|---|---|---|", *confusion(found),
        ]
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    print(report(list(answers(parser.parse_args().folders))))


if __name__ == "__main__":
    main()
