"""How soon a guest is at work again after it was restored from a file that no cache has."""

import statistics
import threading
import time
from pathlib import Path

from bench.filed import make_cold
from tagalong.boot import boot_guest, guest_image_path
from tagalong.snapshot import restore, save
from tagalong.soft import SoftMachine

OPERATIONS = 10_000

_EVERY = 500  # how often the guest tells
_LINES = OPERATIONS // _EVERY
_WORDS = f"working-set=32M report={_EVERY}"
_RAM_BYTES = 64 << 20
_TIMEOUT_S = 120.0
_SETTLED_LINES = 200


class Listener:
    """A console that counts the guest's progress reports."""

    def __init__(self) -> None:
        self._lines = 0
        self._heard = threading.Condition()

    def __call__(self, data: bytes) -> None:
        """Take what the guest prints."""
        with self._heard:
            self._lines += data.count(b"\n")
            self._heard.notify_all()

    def wait_for_lines(self, count: int) -> None:
        """Wait for that many lines more. Raises SystemExit if they do not come."""
        with self._heard:
            wanted = self._lines + count
            if not self._heard.wait_for(lambda: self._lines >= wanted, _TIMEOUT_S):
                raise SystemExit("churn does not work")


def measure(folder: Path, runs: int) -> dict[str, float]:
    """Return the seconds for 10,000 operations: from a cold core on, and of a guest that runs."""
    console, path = Listener(), folder / "churn.core"
    machine = SoftMachine.create(ram_bytes=_RAM_BYTES, console=console)
    boot_guest(machine, guest_image_path("churn").read_bytes(), command_line=_WORDS)
    machine.resume()
    console.wait_for_lines(_SETTLED_LINES)
    running, cold = [], []
    for _ in range(runs):
        running.append(_seconds_of_work(console))
        save(machine, path)
        cold.append(_from_cold(path))
    machine.close()
    return {"running": statistics.median(running), "cold": statistics.median(cold)}


def _seconds_of_work(console: Listener) -> float:
    began = time.perf_counter()
    console.wait_for_lines(_LINES)
    return time.perf_counter() - began


def _from_cold(path: Path) -> float:
    make_cold(path)
    console = Listener()
    began = time.perf_counter()
    restored = restore(
        path, lambda what, sources: SoftMachine(what, sources=sources, console=console)
    )
    restored.machine.resume()
    console.wait_for_lines(_LINES)
    seconds = time.perf_counter() - began
    restored.machine.close()
    return seconds
