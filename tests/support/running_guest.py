"""A machine with a built-in guest, and its console output so far."""

import threading
import time
from collections.abc import Callable
from functools import partial

from tagalong.boot import boot_guest, clear_ram, guest_image_path
from tagalong.machine import Machine, RunState

MIB = 1 << 20

Boot = Callable[..., "RunningGuest"]
"""Starts a built-in guest: (name, command line, machine options)."""


class Listener:
    """A guest's console output so far; `hear` receives it, from any thread."""

    def __init__(self) -> None:
        self._output = bytearray()
        self._heard = threading.Condition()

    def hear(self, data: bytes) -> None:
        with self._heard:
            self._output += data
            self._heard.notify_all()

    @property
    def lines(self) -> list[str]:
        """Return the complete lines of the console."""
        with self._heard:
            return self._output.decode("ascii", "replace").split("\n")[:-1]

    def lines_with(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]

    def wait_for(self, text: str, count: int, seconds: float = 200) -> None:
        """Wait until at least `count` lines contain `text`."""
        end = time.monotonic() + seconds
        with self._heard:
            while len(self.lines_with(text)) < count:
                left = end - time.monotonic()
                assert left > 0, f"no {count} lines with {text!r}: {self.lines[-3:]}"
                self._heard.wait(min(left, 0.1))


class RunningGuest(Listener):
    """Boots `guest`; the machine is paused until it is resumed, by the caller."""

    def __init__(
        self,
        make: Callable[..., Machine],
        guest: str,
        command_line: str = "",
        *,
        ram_bytes: int = 32 * MIB,
        vcpu_count: int = 1,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.machine = make(
            ram_bytes=ram_bytes, vcpu_count=vcpu_count, seed=seed, console=self.hear
        )
        self._image = guest_image_path(guest).read_bytes()
        self._load = partial(boot_guest, command_line=command_line, seed=seed)
        self._load(self.machine, self._image)

    def load_again(self) -> None:
        """Load the guest anew into the machine, which was reset."""
        clear_ram(self.machine)
        self._load(self.machine, self._image)

    def run_to_the_end(self, seconds: float = 200) -> list[str]:
        """Run until the guest powers off; return its console lines."""
        self.machine.resume()
        state = self.machine.wait(seconds)
        assert state is RunState.SHUTDOWN, f"{state}: {self.machine.failure}, {self.lines[-3:]}"
        return self.lines

    def close(self) -> None:
        self.machine.close()
