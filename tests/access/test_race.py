"""The strategies against a guest that changes tags and data as fast as it can, and paused.

Inside the lab the guest has a CPU of its own, under KVM; elsewhere the embedded machine's
thread. The table that comes of it is in docs/design/access.md.
"""

import os
import time
from collections.abc import Iterator

import pytest

from tagalong.access import STRATEGIES, Outcome
from tagalong.cli.access_text import access_report
from tagalong.studies.comparison import CONTROL, ComparisonOptions, ComparisonReport, Looks, compare
from tagalong.studies.comparison.machines import machine_maker
from tagalong.studies.comparison.race import Retagger, retagger
from tagalong.studies.race.options import RaceOptions, run_races
from tests.access.conftest import INSIDE_LAB

KIND = "kvm" if INSIDE_LAB else "soft"
RACE_S = 0.5 if INSIDE_LAB else 0.3
PATIENCE_S = 60.0

# In the lab the explorer is an interpreter on an emulator, and takes its time.
EXPLORED = ["ioctl", "match"] if INSIDE_LAB else [*STRATEGIES]

# Before Linux 6.2 the RAM of a KVM guest with MTE cannot be shared memory.
OLD = INSIDE_LAB and tuple(map(int, os.uname().release.split(".")[:2])) < (6, 2)
ABSENT = {"alias"} if OLD else set()


@pytest.fixture(scope="module")
def report() -> ComparisonReport:
    """Return the whole comparison, with its races."""
    found = compare(ComparisonOptions(KIND, RACE_S))
    print(access_report(found))
    return found


@pytest.fixture
def guest() -> Iterator[Retagger]:
    with retagger(machine_maker(KIND)) as running:
        yield running


def looks_of(report: ComparisonReport, name: str) -> tuple[Looks, Looks]:
    row = report.of(name)
    if name in ABSENT:
        pytest.skip(f"{name}: {row.reason}")
    race = row.race
    assert race is not None
    return race.running, race.paused


def outcomes(looks: Looks) -> set[Outcome]:
    counts = {
        Outcome.FAULT: looks.faults,
        Outcome.TORN: looks.torn,
        Outcome.STALE: looks.stale,
        Outcome.RIGHT: looks.right,
    }
    return {outcome for outcome, count in counts.items() if count}


def test_every_strategy_works_here_and_does_what_it_promises(report: ComparisonReport) -> None:
    assert [row.name for row in report.strategies] == [CONTROL, *STRATEGIES]
    assert {row.name for row in report.strategies if not row.works} == ABSENT
    assert report.is_as_promised
    assert report.chosen == "ioctl"


def test_control_faults_under_checking_and_race_or_no_race(report: ComparisonReport) -> None:
    control = report.of(CONTROL)

    assert control.attempts == 32
    assert control.faults == {"none": 0, "sync": 16, "async": 16}
    assert control.wrong == {"none": 0, "sync": 0, "async": 0}
    for looks in looks_of(report, CONTROL):
        assert looks.faults == looks.looks > 0


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "match"])
def test_strategy_never_faults_under_a_guest_that_changes_tags(
    report: ComparisonReport, name: str
) -> None:
    running, _ = looks_of(report, name)

    assert running.looks > 0
    assert running.faults == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_race_is_not_there_while_the_guest_is_paused(report: ComparisonReport, name: str) -> None:
    _, paused = looks_of(report, name)

    assert outcomes(paused) == {Outcome.RIGHT}


def test_match_faults_under_a_guest_that_changes_tags_and_not_when_it_is_paused(
    guest: Retagger,
) -> None:
    strategy = STRATEGIES["match"](guest.host)
    deadline, faults = time.monotonic() + PATIENCE_S, 0
    while not faults and time.monotonic() < deadline:
        faults += guest.look_for(strategy, 0.5).faults
    guest.machine.pause()

    standing = guest.look_for(strategy, 0.5)

    assert faults > 0
    assert outcomes(standing) == {Outcome.RIGHT}


@pytest.mark.parametrize("name", EXPLORED)
def test_explorer_knows_every_outcome_that_was_seen(report: ComparisonReport, name: str) -> None:
    (explored,) = run_races(RaceOptions(access=name))
    possible = {outcome for outcome, count in explored.outcomes.items() if count}

    seen = outcomes(looks_of(report, name)[0])

    assert seen <= possible
    assert Outcome.FAULT not in possible or name == "match"


def test_system_calls_take_what_the_strategy_says(report: ComparisonReport) -> None:
    sync = {
        row.name: row.system_calls["sync"].write for row in report.strategies if row.system_calls
    }

    assert {name for name, said in sync.items() if said == "ok"} == {
        "ioctl",
        "alias",
        "prctl",
    } - ABSENT
    assert set(sync.values()) == {"ok", "EFAULT"}


def test_costs_are_those_of_the_strategies(report: ComparisonReport) -> None:
    operations = {
        name: report.of(name).operations or {} for name in STRATEGIES if name not in ABSENT
    }

    assert all(each.gib_per_s > 0 for row in operations.values() for each in row.values())
    ioctls = {name for name, row in operations.items() if row["read_tags"].ioctls_per_gib}
    assert ioctls == {"ioctl"}
    calls = {name: row["read_data"].system_calls_per_gib for name, row in operations.items()}
    assert min(calls["prctl"], calls["sp"], calls["kernel"]) > 0
    assert calls["tco"] < calls["prctl"]
