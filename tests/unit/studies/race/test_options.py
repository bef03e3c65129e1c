from pathlib import Path

import pytest

from tagalong.access import STRATEGIES
from tagalong.access.outcome import Outcome
from tagalong.errors import UsageError
from tagalong.studies.race.guests import GUESTS
from tagalong.studies.race.options import (
    ACCESS_NAMES,
    METHODS,
    MODES,
    ORDERS,
    RaceOptions,
    run_races,
)
from tagalong.studies.race.run import Race, run_race
from tests.support import a64, bare


def hex_file(folder: Path, *words: int) -> Path:
    file = folder / "code.hex"
    file.write_text("\n".join(f"{word:08x}" for word in words))
    return file


def test_all_runs_each_strategy_once_against_the_same_guest() -> None:
    reports = run_races(RaceOptions(access="all", guest="pair", checking="async"))

    assert [report.vmm for report in reports] == list(STRATEGIES)
    assert {report.guest for report in reports} == {"pair"}
    assert (*STRATEGIES, "all") == ACCESS_NAMES


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "match"])
@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("mode", list(MODES))
def test_no_strategy_but_match_faults_in_any_interleaving(name: str, order: str, mode: str) -> None:
    (report,) = run_races(RaceOptions(access=name, order=order, checking=mode))

    assert report.outcomes[Outcome.FAULT] == 0
    assert report.outcomes[Outcome.TORN] > 0


@pytest.mark.parametrize("mode", list(MODES))
def test_match_faults_whenever_loads_are_checked(mode: str) -> None:
    (report,) = run_races(RaceOptions(access="match", checking=mode))

    assert (report.outcomes[Outcome.FAULT] > 0) == (mode != "none")
    assert all(report.outcomes[o] for o in (Outcome.TORN, Outcome.STALE, Outcome.RIGHT))


@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize("order", list(ORDERS))
def test_guest_that_stands_is_read_right_by_every_strategy(name: str, order: str) -> None:
    (report,) = run_races(RaceOptions(access=name, guest="paused", order=order))

    assert {o for o, count in report.outcomes.items() if count} == {Outcome.RIGHT}


@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize(("order", "torn"), [("tags-first", True), ("data-first", False)])
def test_data_first_tears_nothing_of_a_guest_that_tags_first_and_once(
    name: str, order: str, torn: bool
) -> None:
    (report,) = run_races(RaceOptions(access=name, guest="retag-once", order=order))

    assert (report.outcomes[Outcome.TORN] > 0) == torn


def test_guest_that_stores_tag_and_data_in_one_instruction_is_torn_all_the_same() -> None:
    for order in ORDERS:
        (report,) = run_races(RaceOptions(access="alias", guest="pair", order=order))
        assert report.outcomes[Outcome.TORN] > 0


def test_files_are_the_code_of_both_sides(tmp_path: Path) -> None:
    file = hex_file(tmp_path, a64.hint(0))

    (report,) = run_races(RaceOptions(vmm_code=file, guest_code=file))

    assert (report.guest, report.vmm, report.order) == ("code.hex", "own code", None)
    assert report.exploration.lengths == (1, 1)


@pytest.mark.parametrize("method", list(METHODS))
def test_method_that_is_asked_for_is_taken(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagalong.studies.race.explore.SAMPLES", 20)
    (report,) = run_races(RaceOptions(access="alias", method=method))

    assert (report.exploration.method, report.exploration.reason) == (METHODS[method], "asked for")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RaceOptions(), "no VMM code to race: give --access NAME or --vmm-code FILE"),
        (RaceOptions(access="luck"), "unknown access strategy 'luck'"),
        (RaceOptions(access="tco", guest="x"), "unknown guest sequence 'x'"),
        (
            RaceOptions(access="tco", guest="pair", guest_code=Path("x")),
            "--guest and --guest-code exclude each other",
        ),
    ],
)
def test_options_that_make_no_race_are_refused(options: RaceOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_races(options)


def test_strategy_and_code_of_one_s_own_are_refused(tmp_path: Path) -> None:
    file = hex_file(tmp_path, a64.hint(0))

    with pytest.raises(UsageError, match="--access and --vmm-code exclude each other"):
        run_races(RaceOptions(access="tco", vmm_code=file))
    with pytest.raises(UsageError, match="holds no instruction"):
        run_races(RaceOptions(vmm_code=hex_file(tmp_path)))
    assert bare.encoded([]) == b""


def test_report_as_json_has_every_figure_and_every_step() -> None:
    report = run_race(Race(GUESTS["retag-once"], "match")).to_json()

    outcomes = report.pop("outcomes")
    assert report == {
        "guest": "retag-once",
        "access": "match",
        "order": "tags first",
        "checking": "sync",
        "method": "exhaustive",
        "reason": "3 and 27 instructions, within 40,000 states",
        "guest_instructions": 3,
        "vmm_instructions": 27,
        "interleavings": 4060,
        "unfinished": 0,
        "states": report["states"],
        "start": {"tag": 1, "data": "01" * 16},
    }
    assert isinstance(outcomes, dict)
    assert list(outcomes) == ["fault", "torn", "stale", "right"]
    assert sum(one["interleavings"] for one in outcomes.values()) == 4060
    assert outcomes["fault"]["fault"] == "SEGV_MTESERR"
    assert outcomes["fault"]["reading"] is None
    assert outcomes["torn"]["reading"] == [{"tag": 1, "data": "02" * 16}]
    step = outcomes["torn"]["shortest"][0]
    assert step | {"pc": 0} == {
        "side": "vmm",
        "pc": 0,
        "word": step["word"],
        "text": "and x6, x2, #7",
        "what": "read_tags",
        "local": True,
        "granule": None,
    }
    changes = [s["granule"] for s in outcomes["torn"]["shortest"] if s["granule"]]
    assert changes == [{"tag": 2, "data": "01" * 16}, {"tag": 2, "data": "02" * 16}]
