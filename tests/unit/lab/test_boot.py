"""How a machine is run and how it can end, with a program in the emulator's place.

Real boots are in tests/lab; here every way of ending is played, quickly.
"""

import os
import sys
import time
from pathlib import Path

import pytest

from tagalong.errors import LabError, LabTimeoutError, LostMachineError, UsageError
from tagalong.lab.boot import LabImage, Streams, run
from tagalong.lab.qemu import EmulatorOptions, Qemu
from tests.support.cpio_reader import HEADER_BYTES

PLAYER = Path(__file__).parents[2] / "support" / "play_qemu.py"
SOON = EmulatorOptions(timeout_s=30)


def system(scene: str, archives: tuple[Path, ...] = ()) -> LabImage:
    command = (sys.executable, "-I", "-S", str(PLAYER), scene)
    return LabImage(Qemu(command, "10.0", "id"), Path("Image"), archives)


class Heard:
    """Keeps what a machine writes."""

    def __init__(self, stdin_fd: int | None = None) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        self.streams = Streams(self.stdout.extend, self.stderr.extend, stdin_fd)


def test_run_gives_status_and_both_outputs() -> None:
    heard = Heard()

    status = run(system("answers"), "exit 7", SOON, heard.streams)

    assert (status, bytes(heard.stdout), bytes(heard.stderr)) == (7, b"out", b"err")


def test_run_does_not_wait_for_the_emulator_once_there_is_a_status() -> None:
    start = time.monotonic()

    run(system("answers"), "exit 7", SOON, Heard().streams)

    assert time.monotonic() - start < 10


def test_run_waits_for_all_output_that_was_written_before_the_status() -> None:
    heard = Heard()

    status = run(system("answers_late"), "exit 7", SOON, heard.streams)

    assert (status, bytes(heard.stdout), bytes(heard.stderr)) == (7, b"latelater", b"err")


def test_run_with_less_output_than_was_written_is_a_lost_machine() -> None:
    with pytest.raises(LostMachineError, match="ended without a result"):
        run(system("loses_output"), "true", SOON, Heard().streams)


def test_run_all_output_before_the_status_arrives() -> None:
    heard = Heard()

    run(system("floods"), "yes", SOON, heard.streams)

    assert len(heard.stdout) == 5_000_000


def test_run_initrd_is_the_archives_and_then_our_files(tmp_path: Path) -> None:
    archive = tmp_path / "base.cpio"
    archive.write_bytes(b"BASE" * 1000)
    heard = Heard()

    run(system("shows_initrd", (archive, archive)), "exec true\n", SOON, heard.streams)

    assert heard.stdout[:8000] == b"BASE" * 2000
    ours = bytes(heard.stdout[8000:])
    names = [bytes(part[HEADER_BYTES - 6 :]).split(b"\0")[0] for part in ours.split(b"070701")[1:]]
    assert names == [
        b"init", b"lab", b"lab/granules.py", b"lab/command", b"lab/ports", b"TRAILER!!!",
    ]  # fmt: skip
    assert b"exec true\n" in ours
    assert b"status\nstdout\nstderr" in ours


def test_run_input_is_passed_on() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"hello")
    os.close(write_end)
    heard = Heard(read_end)

    run(system("echoes"), "tr a-z A-Z", SOON, heard.streams)
    os.close(read_end)

    assert heard.stdout == b"HELLO"


def test_run_without_a_status_is_a_lost_machine_with_the_consoles_end() -> None:
    heard = Heard()

    with pytest.raises(LostMachineError) as caught:
        run(system("powers_off"), "poweroff -f", SOON, heard.streams)

    assert not isinstance(caught.value, LabTimeoutError)
    assert str(caught.value) == "the lab's machine ended without a result"
    assert caught.value.console.endswith("line\n[ 1.0] reboot: Power down")
    assert len(caught.value.console.splitlines()) == 60
    assert caught.value.__notes__ == [
        f"--- console ---\n{caught.value.console}\n--- end of console ---"
    ]
    assert heard.stdout == b"some output"


def test_run_half_a_status_is_none() -> None:
    with pytest.raises(LostMachineError, match="ended without a result"):
        run(system("half_a_status"), "true", SOON, Heard().streams)


def test_run_emulator_that_is_killed_is_named() -> None:
    with pytest.raises(LostMachineError) as caught:
        run(system("is_killed"), "true", SOON, Heard().streams)

    assert str(caught.value) == (
        "the lab's machine ended without a result; QEMU ended with status -9: it printed no message"
    )


def test_run_emulator_that_does_not_start_is_no_lost_machine() -> None:
    with pytest.raises(LabError) as caught:
        run(system("does_not_start"), "true", SOON, Heard().streams)

    assert type(caught.value) is LabError
    assert str(caught.value) == "QEMU did not start: qemu: no such machine"


def test_run_out_of_time_ends_the_emulator_and_shows_the_console() -> None:
    with pytest.raises(LabTimeoutError) as caught:
        run(system("hangs"), "sleep 1000", EmulatorOptions(timeout_s=1.5), Heard().streams)

    assert str(caught.value) == "the lab's machine had no result within 1.5 s"
    assert caught.value.console == "up"
    assert caught.value.exit_code == 63


def test_run_with_too_little_ram_is_refused_before_anything_starts(tmp_path: Path) -> None:
    archive = tmp_path / "base.cpio"
    archive.write_bytes(bytes(1 << 20))
    options = EmulatorOptions(ram_bytes=(4 << 20) - 1)

    with pytest.raises(UsageError) as caught:
        run(system("answers", (archive,)), "true", options, Heard().streams)

    assert str(caught.value) == (
        "cannot boot the lab with 3 MiB of RAM: its root file system takes 1048576 "
        "bytes and needs 4 times as many; give more with --ram"
    )


def test_run_leaves_no_files_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    run(system("answers"), "exit 7", SOON, Heard().streams)

    assert list(tmp_path.iterdir()) == []
