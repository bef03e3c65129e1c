"""Orders to end, at every record of a migration between two real processes: no VM is lost.

Each trial holds one record back, gives one side an order to end (a signal or `quit`) and lets
the record pass: 50 ms later, so that the order must have been noticed, or at once, so that both
meet. tests/support/order_verdict.py says what may become of it. The long form,
`python -m tests.faults.long --orders 5000`, draws from more orders, transports and moments.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tagalong.wire import Role
from tests.support.certificates import Authority
from tests.support.cli_fork import cli_server
from tests.support.order_plan import Plan, orders_at_every_record
from tests.support.order_trial import measure_shape, run_trial
from tests.support.order_verdict import judge

_AT_ONCE = 4


@dataclass(frozen=True)
class Stage:
    """What the trials share: the process that starts others, and every plan of an end."""

    server: str
    certificates: Path
    plans: list[Plan]

    def wrong(self, plans: list[Plan]) -> list[str]:
        """Carry plans out; return all that is wrong with what became of them."""

        def run(plan: Plan) -> list[str]:
            trial = run_trial(self.server, plan, self.certificates)
            return [f"{plan}: {text}" for text in judge(trial)]

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [text for texts in pool.map(run, plans) for text in texts]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    certificates = Authority(tmp_path_factory.mktemp("tls")).folder
    with cli_server() as server:
        shape = measure_shape(server, certificates)
        plans = [plan for plan in orders_at_every_record(shape) if plan.orders[0].what != "SIGKILL"]
        yield Stage(server, certificates, plans)


def test_end_ordered_at_the_destination_at_any_record_loses_no_vm(stage: Stage) -> None:
    plans = [plan for plan in stage.plans if plan.orders[0].side is Role.DESTINATION]
    last = {role: max(plan.number for plan in plans if plan.role is role) for role in Role}
    # At the records of the hand-over every kind of end, before them one signal and `quit`.
    chosen = [
        plan
        for plan in plans
        if plan.orders[0].what in ("SIGTERM", "quit") or plan.number >= last[plan.role] - 1
    ]

    assert stage.wrong(chosen) == []


def test_end_ordered_at_the_source_at_any_record_loses_no_vm(stage: Stage) -> None:
    # A source that is ended before COMMIT ends its VM, as ordered, so the kinds of ends differ
    # less: each record gets two of them, in turns.
    plans = [plan for plan in stage.plans if plan.orders[0].side is Role.SOURCE]

    assert stage.wrong(plans[::3]) == []


def test_end_ordered_as_commit_arrives_loses_no_vm(stage: Stage) -> None:
    last = max(plan.number for plan in stage.plans if plan.role is Role.SOURCE)
    plans = [
        replace(plan, hold_s=hold_s)
        for plan in stage.plans
        if (plan.role, plan.number) == (Role.SOURCE, last)
        if plan.orders[0].side is Role.DESTINATION
        for hold_s in (0.0, 0.001, 0.005)
    ]

    assert stage.wrong(plans) == []
