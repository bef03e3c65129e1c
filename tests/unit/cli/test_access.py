"""`tagalong access`: its tables, and its exit status."""

import json
from dataclasses import replace

import pytest

from tagalong.cli import access as command
from tagalong.cli.access_text import access_report
from tagalong.cli.app import invoke
from tagalong.cli.units import COLUMNS
from tagalong.studies.comparison import (
    ComparisonOptions,
    ComparisonReport,
    Looks,
    Operation,
    RaceResult,
    StrategyReport,
)
from tests.unit.studies.comparison.test_report import GOOD, report

COST = Operation(0.05, 2048.0, 0.0)
MEASURED = replace(
    GOOD,
    faults={"none": 0, "sync": 0, "async": 0},
    wrong={"none": 0, "sync": 0, "async": 1},
    system_calls=dict.fromkeys(("none", "sync", "async"), (GOOD.system_calls or {})["sync"]),
    operations={
        "read_data": COST,
        "write_data": replace(COST, gib_per_s=12.345),
        "read_tags": replace(COST, system_calls_per_gib=0, ioctls_per_gib=1024),
        "write_tags": COST,
    },
)
REFUSED = StrategyReport("alias", "two mappings", (), (), reason="RAM is anonymous")


def lines(*rows: StrategyReport) -> list[str]:
    return access_report(report(*rows)).split("\n")


def test_report_says_machine_choice_and_what_does_not_work() -> None:
    said = lines(MEASURED, REFUSED)

    assert said[:4] == [
        "Machine: soft (asked for).",
        "auto takes ioctl: it is the best.",
        "",
        "alias: does not work here: RAM is anonymous.",
    ]


def test_tables_have_a_row_for_each_strategy_that_works() -> None:
    said = lines(MEASURED, REFUSED)

    faults = next(line for line in said if line.startswith("tco   ") and "0/4" in line)
    assert faults.split("  ", 1)[1].split() == [
        "0/4", "0/4", "0/4", "1", *("EFAULT,", "ok") * 3,
    ]  # fmt: skip
    costs = next(line for line in said if line.startswith("tco     0.0500"))
    assert costs.split() == [
        "tco", "0.0500", "(2,048+0)", "12.35", "(2,048+0)", "0.0500", "(0+1,024)", "0.0500",
        "(2,048+0)",
    ]  # fmt: skip


def test_strategies_that_lack_the_same_share_a_line_and_common_needs_are_said_once() -> None:
    both = ("an arm64 host", "a CPU with MTE")
    rows = [
        replace(MEASURED, needs=both, hazards=("slow",)),
        replace(REFUSED, needs=(*both, "shared memory")),
        replace(REFUSED, name="sp", needs=both),
    ]

    said = lines(*rows)

    assert "alias, sp: do not work here: RAM is anonymous." in said
    assert "All of them need: a CPU with MTE; an arm64 host." in said
    assert said[-4:] == [
        "       but: slow",
        "alias  two mappings",
        "       needs: shared memory",
        "sp     two mappings",
    ]


def test_report_fits_into_80_columns() -> None:
    long = ("a need that takes a rather long sentence to be understood by a reader",) * 3
    race = RaceResult(2.5, Looks(10**6, 10**6, 1, 2, 1), Looks(10**6, 0, 1, 2, 1))
    rows = [replace(MEASURED, needs=long, hazards=long, race=race), replace(REFUSED, needs=long)]

    said = lines(*rows)

    assert [line for line in said if len(line) > COLUMNS] == []


def test_race_gives_shares_of_the_granules_seen() -> None:
    nothing = Looks(7, 7, 0, 0, 0)
    said = lines(replace(MEASURED, race=RaceResult(2.5, Looks(10, 3, 1, 2, 1), nothing)))

    assert any(line.startswith("Looks (tags, then data) for 2.5 s at a guest") for line in said)
    running, paused = (n + 1 for n, line in enumerate(said) if "looks  faults" in line)
    assert said[running].split() == ["tco", "10", "3", "25.00", "50.00", "25.00"]
    assert said[paused].split() == ["tco", "7", "7", "-", "-", "-"]


@pytest.mark.parametrize(("good", "status"), [(True, 0), (False, 1)])
def test_command_prints_json_and_exits_by_the_promise(
    good: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[ComparisonOptions] = []

    def compare(options: ComparisonOptions, step: object) -> ComparisonReport:
        assert callable(step)
        step("tco on machine soft")
        asked.append(options)
        return report(GOOD if good else replace(GOOD, wrong={"sync": 1}))

    monkeypatch.setattr(command, "compare", compare)

    assert invoke(["access", "--machine", "soft", "--race", "0.5", "--json"]) == status
    said = capsys.readouterr()
    assert asked == [ComparisonOptions("soft", 0.5)]
    assert json.loads(said.out)["strategies"][0]["name"] == "tco"
    assert said.err == "tagalong: tco on machine soft\n"


def test_command_with_a_negative_time_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["access", "--race", "-1"]) == 2
    assert "-1.0 is not in the range 0<=x<=3600" in capsys.readouterr().err
