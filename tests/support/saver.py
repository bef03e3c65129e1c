"""Saves a machine in a process of its own, which kills itself at a given moment.

    python -m tests.support.saver PATH MOMENT [live] [zstd]

MOMENT is the value of a SaveStage, or the name of a function of `os` that finishing the file
calls. With MOMENT "never" it ends with status 0 and prints what it passed.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tagalong.snapshot import SaveOptions, SaveProgress, save
from tests.support.fake_machine import RAM, FakeMachine, describe

SIZE = 4 << 20
FINISHING = ("fsync", "link", "replace")


def machine_with_content() -> FakeMachine:
    """Return a machine that is paused, with data and tags here and there."""

    def guest(machine: FakeMachine) -> None:
        machine.guest_write(RAM + 0x2000, b"live", b"\x21")

    machine = FakeMachine(describe(SIZE), guest)
    machine.resume()
    for page in range(0, SIZE // 4096, 7):
        machine.guest_write(RAM + page * 4096, bytes([page % 251 + 1]) * 64, b"\x65\x87")
    return machine


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(path: Path, moment: str, *options: str) -> None:
    passed: list[str] = []

    def tell(progress: SaveProgress) -> None:
        passed.append(progress.stage.value)
        if progress.stage.value == moment:
            die()

    def trap(name: str) -> Callable[..., object]:
        whole = getattr(os, name)

        def run(*arguments: object, **named: object) -> object:
            passed.append(name)
            if name == moment:
                die()
            return whole(*arguments, **named)

        return run

    for name in FINISHING:
        setattr(os, name, trap(name))
    chosen = SaveOptions(live="live" in options, compress="zstd" in options)
    save(machine_with_content(), path, chosen, progress=tell)
    print(" ".join(dict.fromkeys(passed)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
