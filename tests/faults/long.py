"""Let migrations go wrong for as long as you like.

    python -m tests.faults.long --faults 5000
    python -m tests.faults.long --faults 200 --seed 6231     # the same ones again

Draws where and what goes wrong, over how many connections, on which machine. Exit status 1
if the VM was lost, was at both ends, or came to harm.
"""

import argparse
import random
import sys
import time
from dataclasses import replace

from tagalong.wire import Role
from tests.faults.test_faults import churn, fake, no_consoles
from tests.support.fault_proxy import Fault, Kind
from tests.support.fault_run import OPTIONS, Case, Tally, run_all, shape

_BATCH = 64
_SOFT_SHARE = 0.25
_KINDS = [kind for kind in Kind if kind is not Kind.KILL]


def main() -> int:
    """Run batches until there were enough; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    say(f"{arguments.faults} faults from seed {arguments.seed}")
    began, struck, wrong = time.monotonic(), 0, 0
    while struck < arguments.faults:
        tally = batch(draw)
        struck += tally.struck
        wrong += len(tally.wrong)
        for text in tally.wrong:
            say(f"WRONG: {text}")
        ends = f"{tally.moved} moved, {tally.stayed} stayed, {tally.uncertain} uncertain"
        say(f"{struck} faults in {time.monotonic() - began:.0f} s, {wrong} wrong; last {ends}")
    return int(wrong > 0)


def batch(draw: random.Random) -> Tally:
    """Run one batch: one machine, one set of options, many faults."""
    options = replace(
        OPTIONS,
        channels=draw.choice([1, 1, 2, 4]),
        reconnect_s=draw.choice([0, 0, 2]),
        verify=draw.random() < 0.3,
    )
    consoles = no_consoles()
    is_soft = draw.random() < _SOFT_SHARE

    def make(fault: Fault | None = None) -> Case:
        case = churn(consoles, fault) if is_soft else fake(fault)
        return replace(case, options=options)

    sizes = shape(make)
    tally = run_all(make, [_fault(draw, sizes, options.channels) for _ in range(_BATCH)])
    failures = [line for console in consoles for line in console.lines_with("FAIL")]
    tally.wrong += [f"the guest noticed: {line}" for line in failures]
    return tally


def _fault(draw: random.Random, sizes: dict[Role, list[int]], channels: int) -> Fault:
    role, kind = draw.choice(list(Role)), draw.choice(_KINDS)
    number = draw.randrange(-1, len(sizes[role]))
    place = draw.choice([0, draw.randrange(max(sizes[role][number], 16)), 1 << 30])
    connection = draw.randrange(channels) if draw.random() < 0.5 else 0
    return Fault(kind, role, number, place, draw.randrange(1 << 16), connection)


def say(text: str) -> None:
    """Print at once."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
