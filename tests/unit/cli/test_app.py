"""The command line as a whole: help, version, errors and exit statuses."""

import sys
from pathlib import Path

import click
import pytest

import tagalong
from tagalong.cli import app
from tagalong.cli.app import invoke
from tagalong.control.interrupted import Interrupted
from tagalong.errors import DigestMismatchError, HostError, MigrationError


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Make `tagalong demo` raise the exception put in this list."""
    raised: list[BaseException] = []

    @click.command()
    def command() -> None:
        raise raised[0]

    monkeypatch.setattr(app._Subcommands, "get_command", lambda *_: command)
    return raised


def test_version_prints_name_and_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--version"]) == 0
    assert capsys.readouterr().out == f"tagalong {tagalong.__version__}\n"


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_shows_commands_examples_and_statuses(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke([option]) == 0

    text = capsys.readouterr().out
    for command in ("demo", "migrate", "run"):
        assert f"\n  {command} " in text
    assert "    tagalong migrate a.sock tcp:127.0.0.1:4444 --verify\n" in text
    assert "Exit status: 0 done, 1 done and differences found, 2 wrong usage," in text


@pytest.mark.parametrize("command", ["demo", "migrate", "run"])
def test_help_of_every_command_has_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke([command, "--help"]) == 0

    text = capsys.readouterr().out
    assert f"Usage: tagalong {command}" in text
    assert "Examples:" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["migrat"], "no command is named 'migrat'; did you mean migrate?"),
        (["xyzzy"], "no command is named 'xyzzy'; there are run, restore, migrate, "),
        (["help", "migrat"], "no command is named 'migrat'; did you mean migrate?"),
        (["help", "run", "fast"], "'tagalong run' has no command 'fast'"),
        (["lab", "shel"], "No such command 'shel'. Did you mean 'shell'?"),
        (["migrate", "--verfy"], "No such option '--verfy'. Did you mean '--verify'?"),
    ],
)
def test_mistyped_word_is_wrong_usage_and_says_what_there_is(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Usage: tagalong ")
    assert lines[1].startswith(f"tagalong: error: {message}")
    assert lines[2].endswith("--help' for help.")


@pytest.mark.parametrize("names", [[], ["migrate"], ["lab", "run"]])
def test_help_shows_what_the_option_shows(
    names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["help", *names]) == 0
    shown = capsys.readouterr().out
    assert invoke([*names, "--help"]) == 0
    assert shown == capsys.readouterr().out


def test_error_is_one_line_on_stderr_with_its_causes_and_status(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    error = MigrationError("cannot connect to host.example:1")
    error.__cause__ = HostError("connect(2): refused")
    failing.append(error)

    assert invoke(["demo"]) == 40
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (
        captured.err == "tagalong: error: cannot connect to host.example:1: connect(2): refused\n"
    )


def test_error_class_decides_the_status(failing: list[BaseException]) -> None:
    failing.append(DigestMismatchError("they differ"))

    assert invoke(["demo"]) == 43


def test_interruption_is_no_error_and_has_the_signals_status(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(Interrupted(15, "cancelled"))

    assert invoke(["demo"]) == 143
    assert capsys.readouterr().err == "tagalong: interrupted (SIGTERM): cancelled\n"


def test_keyboard_interrupt_ends_with_130(failing: list[BaseException]) -> None:
    failing.append(KeyboardInterrupt())

    assert invoke(["demo"]) == 130


def test_bug_is_not_hidden(failing: list[BaseException]) -> None:
    failing.append(ZeroDivisionError())

    with pytest.raises(ZeroDivisionError):
        invoke(["demo"])


def test_main_exits_with_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tagalong", "fly"])

    with pytest.raises(SystemExit) as caught:
        app.main()

    assert caught.value.code == 2


def run_arguments(tmp_path: Path, *options: str) -> list[str]:
    return ["run", "--control", str(tmp_path / "a.sock"), *options]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            (),
            "nothing to run; give --guest NAME, --kernel FILE, --incoming URI to wait for a VM, or "
            "--restore FILE",
        ),
        (
            ("--restore", "f", "--incoming", "tcp:host.example:1"),
            "--incoming and --restore exclude each other; give one of them",
        ),
        (
            ("--restore", "f", "--seed", "1"),
            "--seed cannot be used with --restore: the guest is in it; leave it out",
        ),
        (
            ("--incoming", "tcp:host.example:1", "--guest", "churn"),
            "--guest cannot be used with --incoming: the guest arrives; leave it out",
        ),
        (
            ("--incoming", "tcp:host.example:1", "--guest-args", "a=1"),
            "--guest-args cannot be used with --incoming: the guest arrives; leave it out",
        ),
        (
            ("--incoming", "tcp:host.example:1", "--seed", "1"),
            "--seed cannot be used with --incoming: the guest arrives; leave it out",
        ),
        (
            ("--incoming", "tcp:host.example:1", "--kernel", "Image", "--dump-dtb", "f"),
            "--dump-dtb cannot be used with --incoming: the guest arrives; leave it out",
        ),
        (
            ("--restore", "f", "--append", "quiet"),
            "--append needs --kernel; leave it out, or give a kernel",
        ),
        (
            ("--kernel", "Image", "--guest", "churn"),
            "--guest and --kernel exclude each other; give one of them",
        ),
        (
            ("--kernel", "Image", "--guest-args", "a=1"),
            "--guest-args is for --guest; a kernel's command line is --append; leave it out",
        ),
        (
            ("--guest", "churn", "--initrd", "f"),
            "--initrd needs --kernel; leave it out, or give a kernel",
        ),
        (
            ("--kernel", "Image", "--max-ram", "1G"),
            "--max-ram needs --incoming or --restore; leave it out",
        ),
    ],
)
def test_run_options_that_contradict_are_wrong_usage(
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert invoke(run_arguments(tmp_path, *options)) == 2
    assert capsys.readouterr().err == f"tagalong: error: {message}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--guest", "churn", "--ram", "much"), "'much' is not a size; write 4096, 64M or 1G"),
        (("--guest", "churn", "--vcpus", "0"), "0 is not in the range x>=1"),
        (("--guest", "churn", "--machine", "hard"), "'hard' is not"),
    ],
)
def test_run_options_that_are_malformed_are_wrong_usage(
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert invoke(run_arguments(tmp_path, *options)) == 2
    assert message in capsys.readouterr().err


def test_help_texts_fit_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    names = [
        [],
        *([name] for name in app._COMMANDS),
        ["guest", "fetch"],
        ["lab", "run"],
        ["lab", "setup"],
    ]
    for name in names:
        assert invoke([*name, "--help"]) == 0

        long = [line for line in capsys.readouterr().out.splitlines() if len(line) > 80]
        assert long == [], name
