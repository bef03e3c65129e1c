"""What a command says when it fails: in a line, and as JSON."""

import json
from pathlib import Path

import click
import pytest

from tagalong.cli.app import invoke
from tagalong.cli.failure import error_line, failure_json, wants_json
from tagalong.control.interrupted import Interrupted
from tagalong.errors import HostError, MigrationError, MigrationStage


def test_error_line_names_the_program() -> None:
    assert error_line(MigrationError("no route")) == "tagalong: error: no route"


def test_failure_json_has_class_status_stage_causes_and_advice() -> None:
    error = MigrationError("cannot connect")
    error.__cause__ = HostError("refused")
    error.stage = MigrationStage.CONNECT
    error.add_note("Start the destination.")

    assert json.loads(failure_json(error)) == {
        "error": {
            "class": "MigrationError",
            "exit_status": 40,
            "message": "cannot connect: refused",
            "stage": "connecting",
            "advice": ["Start the destination."],
        }
    }


def test_failure_json_of_wrong_usage_and_of_a_signal() -> None:
    usage = json.loads(failure_json(click.UsageError("no such option")))["error"]
    signal = json.loads(failure_json(Interrupted(15, "cancelled")))["error"]

    assert (usage["class"], usage["exit_status"]) == ("UsageError", 2)
    assert (signal["class"], signal["exit_status"]) == ("Interrupted", 143)
    assert signal["message"] == "interrupted (SIGTERM): cancelled"


def test_wants_json_looks_at_our_own_options_alone() -> None:
    assert wants_json(["check", "x", "--json"])
    assert not wants_json(["check", "x"])
    assert not wants_json(["lab", "run", "--", "tagalong", "demo", "--json"])
    assert not wants_json(["lab", "run", "tagalong", "demo", "--json"])


def test_every_command_with_json_prints_json_when_it_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "none")
    cases: list[tuple[list[str], str, int]] = [
        (["info", nowhere], "HostError", 10),
        (["check", nowhere], "HostError", 10),
        (["tags", nowhere, "0"], "HostError", 10),
        (["dump", nowhere, nowhere], "HostError", 10),
        (["snapshot", nowhere, nowhere], "ControlError", 50),
        (["migrate", nowhere, "tcp:127.0.0.1:1"], "ControlError", 50),
        *(
            ([name, nowhere], "ControlError", 50)
            for name in ("status", "stop", "cont", "cancel", "events", "quit")
        ),
        (["migrate", nowhere, "--wait"], "ControlError", 50),
        (["migrate", nowhere, "pigeon:1"], "UsageError", 2),
        (["race"], "UsageError", 2),
        (["race", "--method", "guessing"], "UsageError", 2),
        (["info"], "UsageError", 2),
        (["access", "--race", "-1"], "UsageError", 2),
        (["demo", "--vcpus", "0"], "UsageError", 2),
        (["probe", "--colour"], "UsageError", 2),
        (["lab", "setup", "--colour"], "UsageError", 2),
    ]
    for arguments, name, status in cases:
        assert invoke([*arguments, "--json"]) == status, arguments

        said = capsys.readouterr()
        error = json.loads(said.out)["error"]
        assert (error["class"], error["exit_status"]) == (name, status), arguments
        assert error["message"] in said.err, arguments
