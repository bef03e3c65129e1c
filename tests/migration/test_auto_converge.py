"""A guest that is too fast for the channel stays; slowed down in steps, it moves."""

from collections.abc import Iterator

import pytest

from tagalong.errors import ConvergenceError
from tagalong.machine import RunState
from tagalong.migrate import AutoConverge, MigrationOptions, MigrationReport, SendProgress
from tagalong.soft import SoftMachine
from tests.support.fault_run import Case
from tests.support.running_guest import RunningGuest

# It changes all of its working set in each round, which is more than the channel carries.
SLOW_LINK = MigrationOptions(max_downtime_s=0.05, max_bandwidth=3e6, max_rounds=5)


@pytest.fixture
def guest() -> Iterator[RunningGuest]:
    running = RunningGuest(
        SoftMachine.create, "churn", "working-set=2M report=512", ram_bytes=8 << 20
    )
    running.machine.resume()
    running.wait_for("progress", 2)
    yield running
    running.close()


def test_guest_that_is_too_fast_stays_and_the_error_says_what_helps(guest: RunningGuest) -> None:
    case = Case(guest.machine, SoftMachine.from_description, options=SLOW_LINK)

    case.run()

    assert isinstance(case.source_error, ConvergenceError)
    assert "slow the guest down (--auto-converge)" in str(case.source_error)
    assert guest.machine.run_state is RunState.RUNNING
    guest.wait_for("progress", len(guest.lines_with("progress")) + 1)
    assert not guest.lines_with("FAIL")
    case.close()


def test_guest_that_is_slowed_down_moves_and_runs_at_full_speed_there(guest: RunningGuest) -> None:
    report, steps = migrate_slowed_down(guest)

    assert report.throttle_percent >= 50
    assert steps == sorted(steps)
    assert report.downtime.total_s < 2.0
    assert not guest.lines_with("FAIL")


def migrate_slowed_down(guest: RunningGuest) -> tuple[MigrationReport, list[int]]:
    steps: list[int] = []

    def watch(progress: SendProgress) -> None:
        steps.append(progress.throttle_percent)

    options = MigrationOptions(
        max_downtime_s=0.05,
        max_bandwidth=3e6,
        max_rounds=60,
        auto_converge=AutoConverge(50, 20, 99),
    )
    case = Case(guest.machine, SoftMachine.from_description, options=options, progress=watch)
    case.run()
    assert case.report is not None, repr(case.source_error)
    assert case.taken_over
    for machine in case.built:
        assert machine.run_state is RunState.RUNNING
    case.close()
    return case.report, steps
