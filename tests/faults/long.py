"""Let migrations go wrong for as long as you like.

    python -m tests.faults.long --faults 5000
    python -m tests.faults.long --faults 200 --seed 6231     # the same ones again
    python -m tests.faults.long --orders 5000                # signals and commands instead

Faults draw where and what goes wrong on the way, over how many connections, on which machine.
Orders draw a signal or a QMP command, or two, for either of two real processes, at a record, over
a transport (tests/support/order_plan.py). Then one guest is moved a hundred times in a row. Exit
status 1 if the VM was lost, was at both ends, or came to harm.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from tagalong.wire import Role
from tests.faults.test_faults import churn, fake, no_consoles
from tests.migration.test_back_and_forth import travel
from tests.support.certificates import Authority
from tests.support.cli_fork import cli_server
from tests.support.fault_proxy import Fault, Kind
from tests.support.fault_run import OPTIONS, Case, Tally, run_all, shape
from tests.support.order_plan import Plan, draw_plan, orders_at_every_record
from tests.support.order_trial import Trial, draw_seed, measure_shape, run_trial
from tests.support.order_verdict import judge

_BATCH = 64
_SOFT_SHARE = 0.25
_KINDS = [kind for kind in Kind if kind is not Kind.KILL]
_AT_ONCE = 4
_REPORT_EVERY = 100


def main() -> int:
    """Run faults, orders and migrations in a row; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, help="default: 5000 unless --orders is given")
    parser.add_argument("--orders", type=int, help="default: 5000 unless --faults is given")
    parser.add_argument("--moves", type=int, help="default: 100 unless one of them is given")
    parser.add_argument("--seed", type=int, default=draw_seed())
    given = parser.parse_args()
    is_all = given.faults is given.orders is given.moves is None
    counts = {
        name: count if (count := getattr(given, name)) is not None else default * is_all
        for name, default in (("faults", 5000), ("orders", 5000), ("moves", 100))
    }
    draw = random.Random(given.seed)
    say(f"{', '.join(f'{count} {name}' for name, count in counts.items())}; seed {given.seed}")
    wrong = run_faults(counts["faults"], draw) + run_orders(counts["orders"], draw)
    with tempfile.TemporaryDirectory(prefix="ta-") as folder:
        reports, _ = asyncio.run(travel(Path(folder), counts["moves"]))
    say(f"{len(reports)} migrations in a row")
    return int(wrong > 0)


def run_faults(count: int, draw: random.Random) -> int:
    """Run batches until `count` faults have struck; return how many trials were wrong."""
    began, struck, wrong = time.monotonic(), 0, 0
    while struck < count:
        tally = batch(draw)
        struck += tally.struck
        wrong += len(tally.wrong)
        for text in tally.wrong:
            say(f"WRONG: {text}")
        ends = f"{tally.moved} moved, {tally.stayed} stayed, {tally.uncertain} uncertain"
        say(f"{struck} faults in {time.monotonic() - began:.0f} s, {wrong} wrong; last {ends}")
    return wrong


def run_orders(count: int, draw: random.Random) -> int:
    """Give `count` orders or more, first at every record, then drawn; return how many are wrong."""
    if not count:
        return 0
    began, wrong = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="ta-") as folder, cli_server() as server:
        certificates = Authority(Path(folder)).folder
        records = measure_shape(server, certificates)
        drawn = (draw_plan(draw, records) for _ in range(count))
        trials = _trials(chain(orders_at_every_record(records), drawn), server, certificates)
        given = 0
        for number, trial in enumerate(trials, 1):
            given += len(trial.given)
            for text in judge(trial):
                wrong += 1
                say(f"WRONG: {trial.plan}: {text}\n  {trial.given}")
            if number % _REPORT_EVERY == 0:
                say(f"{given} orders in {time.monotonic() - began:.0f} s, {wrong} wrong")
            if given >= count:
                break
    say(f"{given} orders in {time.monotonic() - began:.0f} s, {wrong} wrong")
    return wrong


def _trials(plans: Iterator[Plan], server: str, certificates: Path) -> Iterator[Trial]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while some := list(islice(plans, _BATCH)):
            yield from pool.map(lambda plan: run_trial(server, plan, certificates), some)


def batch(draw: random.Random) -> Tally:
    """Run one batch: one machine, one set of options, many faults."""
    channels = draw.choice([1, 1, 2, 4])
    options = replace(
        OPTIONS,
        channels=channels,
        reconnect_s=draw.choice([0, 0, 2]),
        verify=draw.random() < 0.3,
    )
    consoles = no_consoles()
    is_soft = draw.random() < _SOFT_SHARE

    def make(fault: Fault | None = None) -> Case:
        case = churn(consoles, fault) if is_soft else fake(fault)
        return replace(case, options=options)

    sizes = shape(make)
    tally = run_all(make, [_fault(draw, sizes, channels) for _ in range(_BATCH)])
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
