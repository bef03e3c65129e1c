"""Plays an emulator for the tests of what runs it: takes QEMU's options, acts out a scene.

python play_qemu.py SCENE QEMU-OPTIONS...
"""

import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

Ports = dict[str, socket.socket]


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def ports() -> Ports:
    found = re.findall(r"socket,id=(\w+),fd=(\d+)", " ".join(sys.argv))
    return {name: socket.socket(fileno=int(descriptor)) for name, descriptor in found}


def say_on_console(text: str) -> None:
    match = re.search(r"file,id=console,path=(\S+)", " ".join(sys.argv))
    assert match is not None
    Path(match[1]).write_text(text)


def end(port: Ports, status: bytes) -> None:
    """Report `status` and go on running, as QEMU does until the guest powers off."""
    port["status"].sendall(status)
    time.sleep(100)


def answers(port: Ports) -> None:
    port["stdout"].sendall(b"out")
    port["stderr"].sendall(b"err")
    end(port, b"7 3 3\n")


def answers_late(port: Ports) -> None:
    """Report the status first: what the ports carry arrives in any order."""
    port["status"].sendall(b"7 9 3\n")
    port["stderr"].sendall(b"err")
    time.sleep(0.2)
    port["stdout"].sendall(b"late")
    time.sleep(0.2)
    port["stdout"].sendall(b"later")
    time.sleep(100)


def loses_output(port: Ports) -> None:
    port["status"].sendall(b"0 9 0\n")
    port["stdout"].sendall(b"some")
    say_on_console("up")


def floods(port: Ports) -> None:
    port["stdout"].sendall(bytes(5_000_000))
    end(port, b"0 5000000 0\n")


def shows_initrd(port: Ports) -> None:
    data = Path(option("-initrd")).read_bytes()
    port["stdout"].sendall(data)
    end(port, b"0 %d 0\n" % len(data))


def echoes(port: Ports) -> None:
    count = 0
    while data := port["stdin"].recv(4096):
        port["stdout"].sendall(data.upper())
        count += len(data)
    end(port, b"0 %d 0\n" % count)


def powers_off(port: Ports) -> None:
    port["stdout"].sendall(b"some output")
    say_on_console("line\n" * 100 + "[ 1.0] reboot: Power down\n")


def half_a_status(port: Ports) -> None:
    port["status"].sendall(b"0")
    say_on_console("no end of line")


def does_not_start(_: Ports) -> None:
    sys.exit("qemu: no such machine")


def is_killed(_: Ports) -> None:
    say_on_console("up")
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(_: Ports) -> None:
    say_on_console("up\n")
    time.sleep(100)


SCENES = {
    scene.__name__: scene
    for scene in (answers, answers_late, loses_output, floods, shows_initrd, echoes,
                  powers_off, half_a_status, does_not_start, is_killed, hangs)
}  # fmt: skip

SCENES[sys.argv[1]](ports())
