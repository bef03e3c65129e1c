"""`tagalong run --console` as a real process, with a guest that sends back what it receives."""

import os
import pty
import signal
import socket
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.tiny_guest import write_guest
from tests.support.vm_processes import TAGALONG, TIMEOUT_S, tagalong, until, vm_process

ECHO = (
    0xD2A12001,  # movz x1, #0x900, lsl #16: the UART
    0x52806022,  # mov w2, #0x301
    0xB9003022,  # str w2, [x1, #0x30]: UARTCR enables it
    0xB9401823,  # ldr w3, [x1, #0x18]: UARTFR
    0x3727FFE3,  # tbnz w3, #4, .-4: nothing to read
    0xB9400024,  # ldr w4, [x1]
    0xB9000024,  # str w4, [x1]
    0x17FFFFFC,  # b to the reading of UARTFR
)
TEXT = bytes(range(0x20, 0x7F)) * 100


@pytest.fixture
def echo(tmp_path: Path) -> tuple[str, ...]:
    guest = write_guest(tmp_path / "echo.elf", *ECHO)
    return ("--guest", str(guest), "--ram", "4M", "--machine", "soft")


def read_exactly(descriptor: int, count: int) -> bytes:
    read = b""
    while len(read) < count and (chunk := os.read(descriptor, count - len(read))):
        read += chunk
    return read


def test_stdio_console_from_a_pipe_is_echoed_whole_and_in_order(echo: tuple[str, ...]) -> None:
    with subprocess.Popen(
        [*TAGALONG, "run", *echo, "--console", "stdio"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(TEXT)
        process.stdin.close()  # its end is not the VM's

        echoed = read_exactly(process.stdout.fileno(), len(TEXT))

        process.terminate()
        assert echoed == TEXT
        assert process.wait(TIMEOUT_S) == 128 + signal.SIGTERM


def test_stdio_console_from_a_file_is_echoed(echo: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "typed").write_bytes(TEXT)
    with (
        (tmp_path / "typed").open("rb") as typed,
        subprocess.Popen(
            [*TAGALONG, "run", *echo, "--console", "stdio"],
            stdin=typed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None

        echoed = read_exactly(process.stdout.fileno(), len(TEXT))

        process.terminate()
        assert echoed == TEXT


@contextmanager
def on_a_terminal(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """Run a VM as a terminal's foreground process; yield it and both ends of the terminal."""
    ours, theirs = pty.openpty()
    # A session of its own, whose terminal this is: a script does what a shell would.
    start = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [TAGALONG[0], "-c", start, *TAGALONG, "run", *options, "--console", "stdio"],
        stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process, ours, theirs
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("end", ["quit", "signal"])
def test_stdio_console_on_a_terminal_is_raw_until_the_vm_ends(
    echo: tuple[str, ...], end: str
) -> None:
    with on_a_terminal(*echo) as (process, ours, theirs):
        before = termios.tcgetattr(theirs)
        until(lambda: termios.tcgetattr(theirs) != before, "a raw terminal")

        os.write(ours, b"\x03\x01\x01\x01?ls\r")
        echoed = read_exactly(ours, 5)
        if end == "quit":
            os.write(ours, b"\x01x")
        else:
            process.terminate()

        assert process.wait(TIMEOUT_S) == (0 if end == "quit" else 128 + signal.SIGTERM)
        assert echoed == b"\x03\x01ls\r"
        assert termios.tcgetattr(theirs) == before


def test_unix_console_serves_one_client_after_the_other(
    echo: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "console.sock"
    with vm_process(tmp_path, "vm", *echo, "--console", f"unix:{path}") as vm:
        with vm.qmp():
            assert f"console: unix:{path}" in vm.messages
        for text in (b"first", b"second"):
            with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as other:
                client.connect(str(path))
                client.sendall(text)
                assert read_exactly(client.fileno(), len(text)) == text
                other.connect(str(path))
                assert other.recv(1) == b""  # turned away: one client at a time
        vm.signal(signal.SIGTERM)
        vm.status()
    assert not path.exists()


def test_pty_console_is_a_terminal_of_its_own(echo: tuple[str, ...], tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", *echo, "--console", "pty") as vm, vm.qmp():
        until(lambda: "console: /dev/pts/" in vm.messages, "the terminal's name")
        name = vm.messages.partition("console: ")[2].split()[0]
        descriptor = os.open(name, os.O_RDWR | os.O_NOCTTY)

        os.write(descriptor, b"hello\n")

        assert read_exactly(descriptor, 6) == b"hello\n"
        os.close(descriptor)


def test_input_of_a_paused_vm_waits_until_it_runs(echo: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "console.sock"
    with (
        vm_process(tmp_path, "vm", *echo, "--console", f"unix:{path}", "--paused") as vm,
        vm.qmp() as qmp,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(path))
        client.sendall(b"early")
        qmp.execute("cont")

        assert read_exactly(client.fileno(), 5) == b"early"


def test_virtio_consoles_have_places_of_their_own_on_each_side_of_a_migration(
    echo: tuple[str, ...], tmp_path: Path
) -> None:
    path, address = tmp_path / "hvc.sock", f"unix:{tmp_path / 'in'}"
    here = ("--virtio-console", f"unix:{path}", "--virtio-console", "pty,name=log")
    there = ("--machine", "soft", "--incoming", address, "--virtio-console", "null,name=log")
    with vm_process(tmp_path, "a", *echo, *here) as source, source.qmp() as qmp:
        placed = qmp.execute("query-chardev")["return"]
        assert isinstance(placed, list)
        with vm_process(tmp_path, "b", *there) as destination:
            destination.incoming_uri()
            moved = tagalong("migrate", str(source.control), address)
            with destination.qmp() as other:
                found = other.execute("query-chardev")["return"]

    assert moved.returncode == 0
    assert [each["label"] for each in placed] == ["serial0", "console0", "log"]
    assert placed[:2] == [
        {"label": "serial0", "filename": "stdout", "frontend-open": True},
        {"label": "console0", "filename": f"disconnected:unix:{path},server=on",
         "frontend-open": True},
    ]  # fmt: skip
    assert placed[2]["filename"].startswith("pty:/dev/pts/")
    assert found == [
        {"label": "serial0", "filename": "stdout", "frontend-open": True},
        {"label": "log", "filename": "null", "frontend-open": True},
    ]


def test_virtio_console_that_the_vm_does_not_have_is_refused(
    echo: tuple[str, ...], tmp_path: Path
) -> None:
    address = f"unix:{tmp_path / 'in'}"
    there = ("--machine", "soft", "--incoming", address, "--virtio-console", "null")
    with vm_process(tmp_path, "a", *echo) as source, vm_process(tmp_path, "b", *there) as other:
        source.qmp().__exit__(None, None, None)
        other.incoming_uri()
        moved = tagalong("migrate", str(source.control), address)

    assert moved.returncode != 0
    assert "the VM has no console 'console0': leave out its --virtio-console" in moved.stderr


def test_unknown_console_is_wrong_usage(echo: tuple[str, ...], tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", *echo, "--console", "vga") as vm:
        assert vm.status() == 2
        assert vm.messages == (
            "tagalong: error: --console vga: there is stdout, stdio, pty, unix:PATH and null\n"
        )
