"""Signals and commands for both sides of a migration between two real processes lose no VM.

The short form of `make faults`: an end at every record, and some orders as drawn.
"""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import pytest

from tagalong.wire import Role
from tests.support.certificates import Authority
from tests.support.cli_fork import cli_server
from tests.support.order_plan import (
    COMMANDS,
    SIGNALS,
    TRANSPORTS,
    Plan,
    Shape,
    draw_plan,
    orders_at_every_record,
)
from tests.support.order_trial import Trial, measure_shape, run_trial
from tests.support.order_verdict import judge

AT_ONCE = 4
DRAWN = 28
SEED = 20


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Authority(tmp_path_factory.mktemp("tls")).folder


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with cli_server() as path:
        yield path


@pytest.fixture(scope="module")
def shape(server: str, certificates: Path) -> Shape:
    return measure_shape(server, certificates)


def run_all(plans: Sequence[Plan], server: str, certificates: Path) -> list[Trial]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda plan: run_trial(server, plan, certificates), plans))


def verdicts(trials: Sequence[Trial]) -> list[str]:
    return [f"{trial.plan}: {text}" for trial in trials for text in judge(trial)]


def test_end_asked_for_at_every_record_loses_no_vm(
    server: str, shape: Shape, certificates: Path
) -> None:
    plans = orders_at_every_record(shape)
    # One kind of end per record and side; all kinds over the records.
    some = [plan for number, plan in enumerate(plans) if number % 5 == (number // 5) % 5]

    trials = run_all(some, server, certificates)

    assert not verdicts(trials)
    assert len(trials) == 2 * sum(map(len, shape.values()))
    assert {given.order.what for trial in trials for given in trial.given} == {*SIGNALS, "quit"}
    assert {given.order.side for trial in trials for given in trial.given} == {*Role}
    assert sum(bool(trial.given) for trial in trials) >= 0.8 * len(trials)


def test_orders_drawn_over_every_transport_lose_no_vm(
    server: str, shape: Shape, certificates: Path
) -> None:
    draw = random.Random(SEED)
    plans = [draw_plan(draw, shape, transport) for transport in islice(cycle(TRANSPORTS), DRAWN)]

    trials = run_all(plans, server, certificates)

    assert not verdicts(trials)
    given = {given.order.what for trial in trials for given in trial.given}
    assert len(given & {*COMMANDS}) >= 8
