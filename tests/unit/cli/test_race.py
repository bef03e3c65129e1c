"""`tagalong race`: what a person reads."""

import json
from pathlib import Path

import pytest

from tagalong.access import STRATEGIES
from tagalong.cli.app import invoke

ONE = """\
Guest retag-once: 3 instructions. VMM own code: 3 instructions, checking sync.
Exhaustive: all 20 interleavings, in 14 states (at most a dozen instructions per
side).

  fault                 6   30.0 %  the VMM took a tag check fault
  torn                  0      0 %  tag and data that never existed together
  stale                 0      0 %  was true, but no longer when the look ended
  right                14   70.0 %  still true when the look ended

fault, for instance (5 instructions):
  guest                   VMM                       tag 0x1, data 01010101..
                            mov x4, x0
                            ldg x4, [x4]
  addg x0, x0, #0, #1
  stg x0, [x0]                                      tag 0x2, data 01010101..
                            ldp x2, x3, [x4]
                          SEGV_MTESERR

right, for instance (3 instructions):
  guest                   VMM                       tag 0x1, data 01010101..
                            mov x4, x0
                            ldg x4, [x4]
                            ldp x2, x3, [x4]
                          has read tag 0x1, data 01010101..
"""


@pytest.fixture
def look(tmp_path: Path) -> str:
    file = tmp_path / "look.hex"
    file.write_text("aa0003e4 d9600084 a9400c82  # mov x4, x0; ldg x4, [x4]; ldp x2, x3, [x4]\n")
    return str(file)


def test_race_of_one_shows_the_numbers_and_an_interleaving_for_each_outcome(
    look: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = invoke(["race", "--vmm-code", look, "--guest", "retag-once"])

    assert status == 0
    assert capsys.readouterr().out == ONE


def test_race_folds_what_concerns_one_side_alone_unless_all_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    invoke(["race", "--access", "match"])
    short = capsys.readouterr().out
    invoke(["race", "--access", "match", "--full"])
    full = capsys.readouterr().out

    assert "... 4 of its own" in short
    assert "of its own" not in full
    assert "read_tags:\n" in full
    assert "match_load:\n" in full
    assert len(full.splitlines()) > len(short.splitlines()) + 40
    assert [line for line in (full + short).splitlines() if len(line) > 80] == []


def test_race_of_all_is_a_table_with_a_line_for_each_strategy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    invoke(["race", "--access", "all", "--order", "data-first"])
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == "Guest retag, data first, checking sync; in percent of all interleavings."
    assert lines[2].split() == [
        *("access", "instructions", "interleavings"),
        *("fault", "torn", "stale", "right", "method"),
    ]
    assert [line.split()[0] for line in lines[3:]] == list(STRATEGIES)
    assert all(line.endswith("exhaustive") for line in lines[3:])
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize(
    ("method", "head", "shares"),
    [
        ("reduced", "Partial-order reduction: ", ("yes", "no")),
        ("sampled", "Sampling: 2,000 interleavings drawn at random; an outcome may be", ("%",)),
    ],
)
def test_race_says_which_method_and_what_its_numbers_mean(
    method: str, head: str, shares: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    invoke(["race", "--access", "alias", "--method", method, "--seed", "5"])
    lines = capsys.readouterr().out.splitlines()

    assert any(line.startswith(head) for line in lines)
    outcomes = lines[lines.index("") + 1 :][:4]
    assert all(any(word in line for line in outcomes) for word in shares)


def test_race_that_never_ends_in_some_interleavings_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wait.hex"
    file.write_text("aa0003e4 d9600084 b7c80004")  # tbnz x4, #57, . : waits for tag 1 for ever

    invoke(["race", "--vmm-code", str(file), "--guest", "retag-once"])

    assert "endless" in capsys.readouterr().out


def test_race_as_json_is_one_object_or_a_list(
    look: str, capsys: pytest.CaptureFixture[str]
) -> None:
    invoke(["race", "--vmm-code", look, "--json"])
    one = json.loads(capsys.readouterr().out)
    invoke(["race", "--access", "all", "--json"])
    several = json.loads(capsys.readouterr().out)

    assert one["access"] == "own code"
    assert one["outcomes"]["fault"]["shortest"][-1]["text"] == "ldp x2, x3, [x4]"
    assert [report["access"] for report in several] == list(STRATEGIES)


@pytest.mark.parametrize(
    ("arguments", "message", "expected"),
    [
        ([], "no VMM code to race: give --access NAME or --vmm-code FILE", 2),
        (["--access", "luck"], "Invalid value for '--access'", 2),
        (["--vmm-code", "/nowhere"], "cannot read the code in /nowhere: No such file", 10),
        (["--vmm-code", "/"], "cannot read the code in /: Is a directory", 10),
    ],
)
def test_race_that_makes_no_sense_is_refused(
    arguments: list[str], message: str, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    status = invoke(["race", *arguments])

    assert status == expected
    assert message in capsys.readouterr().err
