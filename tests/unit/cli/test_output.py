"""Standard output and error that are closed, full, slow, or that nobody reads any more."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TextIO, cast

import pytest

from tagalong.cli.app import _COMMANDS, invoke
from tagalong.cli.output import MessageStream, ReportStream
from tagalong.errors import OutputError
from tests.support.core_cases import CASES
from tests.support.cores import notes, random_planes, write_core
from tests.support.outputs import closed_file, full_device, unread_pipe

DONE = "what was asked for is done, and only its report is lost"
LOST = (
    "the report that was asked for is lost; give it a file or a pipe that can be written, and "
    "repeat the command"
)
CLOSED = "cannot write to standard output: Bad file descriptor"
FULL = "cannot write to standard output: No space left on device"
TIMEOUT_S = 120

HELP = [*([name, "--help"] for name in _COMMANDS), ["--help"], ["--version"], ["help", "run"]]


@pytest.fixture
def core(tmp_path: Path) -> Path:
    path = tmp_path / "vm.core"
    data, tags = random_planes(4 * 4096)
    write_core(path, notes(), [data], [tags])
    return path


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """Return a device of our own on which every write fails with ENOSPC."""
    return full_device(tmp_path / "full")


def reports(core: Path) -> list[tuple[list[str], int]]:
    """Return command lines that print a report, with the status of each."""
    foreign = core.with_name("foreign.core")
    foreign.write_bytes(CASES["tags of a part"].core)
    return [
        (["check", str(core)], 0),
        (["check", str(foreign)], 1),
        (["check", str(foreign), "--json"], 1),
        (["info", str(core)], 0),
        (["info", str(core), "--json"], 0),
        (["tags", str(core), "0x40000000+4K"], 0),
        (["dump", str(core), f"{core}.out"], 0),
        (["probe"], 0),
        (["race", "--access", "ioctl", "--guest", "retag-once"], 0),
        *((arguments, 0) for arguments in HELP),
    ]


def writing_to(monkeypatch: pytest.MonkeyPatch, stream: TextIO) -> None:
    monkeypatch.setattr(sys, "stdout", ReportStream(stream))


def test_every_command_without_a_reader_keeps_its_verdict(
    core: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, status in reports(core):
        with unread_pipe() as stream:
            writing_to(monkeypatch, stream)

            assert invoke(arguments) == status, arguments


def test_every_command_with_a_full_or_closed_output_ends_with_an_error_of_its_own(
    core: Path, full: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, _ in reports(core):
        for stream, text in ((full.open("w"), FULL), (closed_file(), CLOSED)):
            with stream:
                writing_to(monkeypatch, stream)

                assert invoke(arguments) == OutputError.exit_code, arguments
            loss = DONE if arguments[0] == "dump" and "--help" not in arguments else LOST
            said = capsys.readouterr().err
            assert said.endswith(f"tagalong: error: {text}; {loss}\n"), arguments


def test_slow_reader_gets_everything(core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    got: list[bytes] = []

    def read() -> None:
        with open(reading, "rb", buffering=0) as stream:
            while part := stream.read(7):
                got.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with open(writing, "w", encoding="utf-8") as stream:
        writing_to(monkeypatch, stream)
        assert invoke(["info", str(core), "--json"]) == 0
    reader.join()

    assert b"".join(got).startswith(b"{")
    assert b"".join(got).endswith(b"}\n")


def test_messages_that_cannot_be_written_change_nothing(
    core: Path, full: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in (full.open("w"), unread_pipe(), closed_file()):
        with stream:
            monkeypatch.setattr(sys, "stderr", MessageStream(stream))

            assert invoke(["info", str(core)]) == 0
            assert invoke(["info", "/nowhere"]) == 10
            assert invoke(["nonsense"]) == 2
    assert "guest physical memory" in capsys.readouterr().out


def test_report_stream_fails_again_after_a_library_hid_its_failure(full: Path) -> None:
    with full.open("w") as inner:
        stream = ReportStream(inner)

        for _ in range(2):
            with pytest.raises(OutputError, match="No space left on device"):
                stream.write("x" * 100_000)
        with pytest.raises(OutputError, match="No space left on device"):
            stream.flush()


def test_streams_are_otherwise_the_stream_itself(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as inner:
        for kind in (ReportStream, MessageStream):
            stream = cast("TextIO", kind(inner))
            assert stream.encoding == "utf-8"
            assert stream.write("\u00e9\n") == 2
            stream.flush()

    assert (tmp_path / "out").read_text(encoding="utf-8") == "\u00e9\n\u00e9\n"


def test_reader_of_a_pipe_that_does_not_block_gets_a_long_report_whole() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    text = "".join(f"{number}\n" for number in range(100_000))
    got = bytearray()

    def read() -> None:
        while part := os.read(reading, 4096):
            got.extend(part)

    reader = threading.Thread(target=read)
    with open(writing, "w", encoding="utf-8") as stream:
        report = ReportStream(stream)
        reader.start()
        report.write(text)
        report.flush()
    reader.join()
    os.close(reading)

    assert got.decode() == text


@pytest.fixture
def started(core: Path) -> tuple[str, ...]:
    return sys.executable, "-m", "tagalong", "check", str(core)


def test_process_with_closed_streams_ends_with_a_status_and_without_a_traceback(
    started: tuple[str, ...],
) -> None:
    cases = {"1>&-": 13, "2>&-": 0, "0<&-": 0, "0<&- 1>&- 2>&-": 13}
    for redirection, status in cases.items():
        ran = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirection}', "sh", *started],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip

        assert ran.returncode == status, redirection
        assert ran.stderr in {"", f"tagalong: error: {CLOSED}; {LOST}\n"}, redirection


def test_process_whose_reader_went_away_has_the_status_of_the_check(
    started: tuple[str, ...],
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(started, stdout=writing, stderr=subprocess.PIPE, timeout=TIMEOUT_S,
                         check=False)  # fmt: skip
    os.close(writing)

    assert (ran.returncode, ran.stderr) == (0, b"")


def test_process_on_a_full_device_says_so_once(started: tuple[str, ...], full: Path) -> None:
    with full.open("w") as stream:
        ran = subprocess.run(started, stdout=stream, stderr=subprocess.PIPE, text=True,
                             timeout=TIMEOUT_S, check=False)  # fmt: skip

    assert (ran.returncode, ran.stderr) == (13, f"tagalong: error: {FULL}; {LOST}\n")
