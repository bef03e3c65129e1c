"""One QEMU beside tagalong, as an operator starts it, and the console of its guest."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tagalong.errors import MachineError
from tagalong.mte import GRANULE_BYTES

_POLL_S: Final = 0.05
_STOP_TIMEOUT_S: Final = 10.0
_LAST_LINES: Final = 12
_PROGRESS = re.compile(r"tagkeeper: progress .*\bchecked=(\d+) changed=(\d+)")
_MIB = re.compile(r"\bmib=(\d+)")
_DEFAULT_MIB: Final = 8  # tagkeeper's
_FAILURE = re.compile(r"tagkeeper: FAIL.*|tagkeeper: cannot start.*|.*Kernel panic.*")


@dataclass(frozen=True)
class QemuGuest:
    """What to run: a QEMU, a kernel, an initial root with tagkeeper, and tagkeeper's knobs."""

    qemu: Path
    kernel: Path
    initrd: Path
    ram: str = "128M"
    vcpus: int = 1
    knobs: str = "mib=8 rate=500"

    @property
    def granules(self) -> int:
        """Return how many granules tagkeeper keeps."""
        mib = _MIB.search(self.knobs)
        return (int(mib[1]) if mib else _DEFAULT_MIB) * (1 << 20) // GRANULE_BYTES

    def command(self, console: Path, *more: str) -> list[str]:
        """Return QEMU's command line; the console goes to a file."""
        knobs = self.knobs.replace("=", ":").replace(" ", ",")
        return [
            str(self.qemu), "-M", "virt,gic-version=3", "-accel", "kvm", "-cpu", "host",
            "-smp", str(self.vcpus), "-m", self.ram, "-nodefaults", "-no-user-config",
            "-display", "none", "-kernel", str(self.kernel), "-initrd", str(self.initrd),
            "-append", f"console=ttyAMA0 quiet panic=-1 keeper={knobs}",
            "-chardev", f"file,id=console,path={console}", "-serial", "chardev:console", *more,
        ]  # fmt: skip


@dataclass(frozen=True)
class Progress:
    """What the guest has done since it began: granules checked, granules changed."""

    checked: int
    changed: int


NOTHING_YET: Final = Progress(0, 0)


class BesideHost:
    """A running `tagalong beside` with `guest`; `control` is its socket. Ends with `stop`.

    `more`: further options of QEMU. `tags_uri`, `vmm_uri`: where it awaits tags and the rest, at
    `uris` if they are given.
    """

    def __init__(
        self,
        guest: QemuGuest,
        folder: Path,
        name: str,
        *,
        awaits: bool = False,
        uris: tuple[str, str] | None = None,
        more: Sequence[str] = (),
    ) -> None:
        self.guest = guest
        self.name = name
        self.control = folder / f"{name}.sock"
        own = (f"unix:{folder / name}.tags", f"unix:{folder / name}.ram")
        self.tags_uri, self.vmm_uri = uris or own
        self._console = folder / f"{name}.console"
        self._messages = folder / f"{name}.messages"
        options = ["--incoming", self.tags_uri] if awaits else []
        more = [*more, *(["-incoming", self.vmm_uri] if awaits else [])]
        with self._messages.open("wb") as messages:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tagalong", "beside", "--control", str(self.control),
                 *options, "--", *guest.command(self._console, *more)],
                stdin=subprocess.DEVNULL, stdout=messages, stderr=messages,
            )  # fmt: skip

    @property
    def messages(self) -> str:
        """Return what the process has printed."""
        return self._messages.read_text(errors="replace")

    @property
    def failures(self) -> tuple[str, ...]:
        """Return the lines in which the guest says that something was wrong."""
        return tuple(match[0] for match in _FAILURE.finditer(self._text()))

    @property
    def progress(self) -> tuple[Progress, ...]:
        """Return every report of the guest here, in order."""
        return tuple(
            Progress(int(checked), int(changed))
            for checked, changed in _PROGRESS.findall(self._text())
        )

    @property
    def last_words(self) -> str:
        """Return the last lines of the process, and of its guest's console."""
        lines = [*self.messages.splitlines()[-_LAST_LINES:], *self._text().splitlines()]
        return "\n".join(lines[-_LAST_LINES:])

    async def wait_until(self, is_true: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait for a condition. Raises MachineError if the process ends, or time is up."""
        deadline = time.monotonic() + timeout_s
        while not is_true():
            if self.process.poll() is not None:
                raise self._error(f"ended with status {self.process.returncode} before {what}")
            if time.monotonic() > deadline:
                raise self._error(f"had not {what} after {timeout_s:.0f} s")
            await asyncio.sleep(_POLL_S)

    async def wait_for_reports(self, count: int, timeout_s: float) -> None:
        """Wait until the guest has reported that often, or failed."""
        await self.wait_until(
            lambda: len(self.progress) >= count or bool(self.failures),
            f"{count} reports of its guest",
            timeout_s,
        )

    def stop(self) -> None:
        """End QEMU and the process beside it. Safe to call twice."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        try:
            self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _text(self) -> str:
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def _error(self, what: str) -> MachineError:
        error = MachineError(f"{self.name}: {what}")
        error.add_note(self.last_words)
        return error
