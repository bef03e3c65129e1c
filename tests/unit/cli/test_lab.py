"""`tagalong lab` on the command line: what it asks for, shows and returns."""

import io
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from tagalong.cli import lab
from tagalong.cli.app import invoke
from tagalong.cli.lab_setup import setup_bars, setup_report
from tagalong.errors import LabSetupError, LostMachineError
from tagalong.lab import EmulatorOptions, Lab, LabImage, LabRequest, Observer, Streams
from tagalong.lab.qemu import Qemu

FACTS: dict[str, object] = {
    "folder": "/cache/tagalong/lab",
    "qemu": "10.0.2",
    "kernel": "6.12.95-cloud-arm64",
    "python": "3.11",
    "packages": ["numpy 2.4.6", "pytest 9.2.0"],
    "checkout": "/src/tagalong",
    "granules_checked": 256,
}
SYSTEM = LabImage(Qemu(("qemu",), "10.0.2", "id"), Path("Image"), ())


@dataclass
class Played:
    """Stands where the lab is, and notes what it is asked for."""

    requests: list[LabRequest] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    options: list[EmulatorOptions] = field(default_factory=list)
    streams: list[Streams] = field(default_factory=list)
    status: int = 0
    error: Exception | None = None
    output: bytes = b""

    def set_up(self, request: LabRequest, _: Observer) -> Lab:
        self.requests.append(request)
        return Lab(SYSTEM, FACTS)

    def run(self, _: LabImage, script: str, options: EmulatorOptions, streams: Streams) -> int:
        self.scripts.append(script)
        self.options.append(options)
        self.streams.append(streams)
        if self.output:
            streams.stdout(self.output)
        if self.error:
            raise self.error
        return self.status


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    monkeypatch.setattr(lab, "set_up", played.set_up)
    monkeypatch.setattr(lab, "run_in_lab", played.run)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    for name in ("DIR", "KERNEL", "QEMU", "ROOTFS", "MIRROR"):
        monkeypatch.delenv(f"TAGALONG_LAB_{name}", raising=False)
    return played


def test_run_passes_the_command_on_as_it_was_given(played: Played) -> None:
    assert invoke(["lab", "run", "--", "sh", "-c", "echo 'a b' | wc", "--help"]) == 0

    assert played.scripts == ["exec sh -c 'echo '\"'\"'a b'\"'\"' | wc' --help\n"]


def test_run_options_after_the_command_are_the_commands(played: Played) -> None:
    assert invoke(["lab", "run", "--kernel", "6.1", "ls", "--kernel", "x"]) == 0

    assert played.scripts == ["exec ls --kernel x\n"]
    assert played.requests[0].kernel == "6.1"


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_run_returns_the_commands_status(played: Played, status: int) -> None:
    played.status = status

    assert invoke(["lab", "run", "--", "true"]) == status


def test_run_defaults(played: Played) -> None:
    invoke(["lab", "run", "--", "true"])

    assert played.requests == [LabRequest(Path("/cache/tagalong/lab"), "6.12")]
    assert played.options == [EmulatorOptions(ram_bytes=2 << 30, cpu_count=2, timeout_s=600)]
    assert played.streams[0].stdin_fd is None


def test_run_options_reach_the_machine(played: Played) -> None:
    invoke(
        ["lab", "run", "--ram", "4G", "--smp", "3", "--timeout", "9.5", "--dir", "/d",
         "--qemu", "q", "--rootfs", "/r", "--mirror", "http://mirror.example", "--", "true"]
    )  # fmt: skip

    assert played.options == [EmulatorOptions(ram_bytes=4 << 30, cpu_count=3, timeout_s=9.5)]
    assert played.requests == [
        LabRequest(Path("/d"), "6.12", "q", Path("/r"), "http://mirror.example")
    ]


def test_environment_stands_for_options(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGALONG_LAB_DIR", "/d")
    monkeypatch.setenv("TAGALONG_LAB_KERNEL", "7.3")

    invoke(["lab", "setup"])

    assert played.requests == [LabRequest(Path("/d"), "7.3")]


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Missing argument '-- COMMAND...'"),
        (["run", "--ram", "much", "--", "true"], "'much' is not a size"),
        (["run", "--smp", "0", "--", "true"], "0 is not in the range x>=1"),
        (["run", "--timeout", "0", "--", "true"], "0.0 is not in the range x>0"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_wrong_usage_is_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["lab", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_lost_machine_is_62_and_shows_the_console(
    played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    played.error = LostMachineError("the lab's machine ended", console="[ 1.0] Kernel panic\n")

    assert invoke(["lab", "run", "--", "true"]) == 62
    assert capsys.readouterr().err == (
        "tagalong: error: the lab's machine ended\n"
        "--- console ---\n[ 1.0] Kernel panic\n--- end of console ---\n"
    )


def test_reader_that_went_away_is_141_and_the_streams_stay_what_they_were(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    before = [os.fstat(number) for number in (1, 2, write_end)]
    stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(write_end, "w")))
    monkeypatch.setattr(sys, "stdout", stdout)
    played.output = b"y\n" * 1000

    assert invoke(["lab", "run", "--", "yes"]) == 141

    after = [os.fstat(number) for number in (1, 2, write_end)]
    assert [(s.st_dev, s.st_ino) for s in after] == [(s.st_dev, s.st_ino) for s in before]
    with pytest.raises(BrokenPipeError):
        stdout.close()


@pytest.mark.usefixtures("played")
def test_setup_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["lab", "setup"]) == 0

    captured = capsys.readouterr()
    assert captured.out == setup_report(FACTS) + "\n"
    assert captured.err == ""


@pytest.mark.usefixtures("played")
def test_setup_json_is_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["lab", "setup", "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == FACTS


def test_setup_update_forgets_what_was_fetched(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[Path] = []
    monkeypatch.setattr(lab, "forget", forgotten.append)

    invoke(["lab", "setup", "--update", "--dir", "/d"])

    assert forgotten == [Path("/d")]
    assert len(played.requests) == 1


def test_setup_report_names_every_piece() -> None:
    assert setup_report(FACTS) == (
        "The lab is ready: an Arm host with KVM and MTE.\n"
        "\n"
        "  folder    /cache/tagalong/lab\n"
        "  emulator  QEMU 10.0.2; 256 granules of a page tagged and read back correctly\n"
        "  kernel    Linux 6.12.95-cloud-arm64\n"
        "  Python    3.11 with numpy 2.4.6, pytest 9.2.0\n"
        "  checkout  /src/tagalong\n"
        "\n"
        "Try: tagalong lab run -- uname -a"
    )


def test_setup_bars_without_a_terminal_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with setup_bars(Console(file=io.StringIO())) as observer:
        observer.step("Fetching QEMU")
        observer.progress(0.5, "file 1 of 2")

    assert capsys.readouterr().err == "tagalong: Fetching QEMU ...\n"


def test_setup_bars_on_a_terminal_show_steps_and_details() -> None:
    output = io.StringIO()

    with setup_bars(Console(file=output, force_terminal=True, width=120)) as observer:
        observer.step("Fetching QEMU")
        observer.progress(0.5, "file 1 of 2")
        observer.step("Fetching Linux")

    assert "Fetching QEMU" in output.getvalue()
    assert output.getvalue().count("✓") >= 2


def test_setup_bars_with_nothing_to_do_show_nothing() -> None:
    output = io.StringIO()

    with setup_bars(Console(file=output, force_terminal=True)):
        pass

    assert output.getvalue() == ""


def test_setup_bars_of_a_set_up_that_fails_are_closed() -> None:
    output = io.StringIO()

    def fail() -> None:
        with setup_bars(Console(file=output, force_terminal=True)) as observer:
            observer.step("Fetching QEMU")
            raise LabSetupError("no network")

    with pytest.raises(LabSetupError):
        fail()
    assert output.getvalue().endswith("\x1b[?25h")
