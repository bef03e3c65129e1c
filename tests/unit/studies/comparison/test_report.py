"""What counts as promised, and the JSON."""

import json
from dataclasses import replace

from tagalong.studies.comparison import (
    CONTROL,
    ComparisonReport,
    Looks,
    RaceResult,
    StrategyReport,
    SystemCalls,
)

GOOD = StrategyReport(
    name="tco",
    summary="s",
    needs=("an arm64 host",),
    hazards=("h",),
    attempts=4,
    faults={"none": 0, "sync": 0},
    wrong={"none": 0, "sync": 0},
    system_calls={"sync": SystemCalls("EFAULT", "ok")},
    race=RaceResult(1.0, Looks(2, 1, 3, 4, 5), Looks(2, 0, 0, 0, 9)),
)


def report(*rows: StrategyReport) -> ComparisonReport:
    return ComparisonReport("soft", "asked for", "ioctl", "it is the best", rows)


def test_faults_of_the_control_and_of_a_race_break_no_promise() -> None:
    control = replace(GOOD, name=CONTROL, faults={"sync": 4}, race=None)

    assert report(control, GOOD).is_as_promised


def test_fault_wrong_byte_or_torn_granule_of_a_standing_guest_breaks_it() -> None:
    for bad in (
        replace(GOOD, faults={"sync": 1}),
        replace(GOOD, wrong={"none": 1}),
        replace(GOOD, race=RaceResult(1.0, Looks(0, 0, 0, 0, 0), Looks(1, 0, 1, 0, 0))),
        replace(GOOD, race=RaceResult(1.0, Looks(0, 0, 0, 0, 0), Looks(1, 1, 0, 0, 0))),
    ):
        assert not report(bad).is_as_promised


def test_strategy_that_does_not_work_here_breaks_nothing() -> None:
    assert report(replace(GOOD, reason="no", faults=None, wrong=None, race=None)).is_as_promised


def test_json_has_everything_by_name() -> None:
    found = json.loads(json.dumps(report(GOOD).to_json()))

    assert (found["machine"], found["auto"]) == ("soft", "ioctl")
    (row,) = found["strategies"]
    assert row["works"] is True
    assert row["system_calls"] == {"sync": {"write": "EFAULT", "read": "ok"}}
    assert row["race"]["running"] == {"looks": 2, "faults": 1, "torn": 3, "stale": 4, "right": 5}
