"""A real QEMU that emulates a guest with MTE (TCG), for tests that look at what it saves.

It is qemu-system-aarch64 of version 10 or newer: TAGALONG_QEMU_SYSTEM_AARCH64, the one on PATH, or
the lab's, which `make test` fetches.
"""

import json
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.migrate.qemu import find_qemu

_DEADLINE_S = 240


class EmulatedGuest:
    """A guest of QEMU's virt machine; used in a `with` statement. `folder` takes its files."""

    def __init__(self, folder: Path, ram: str, kernel: Path, options: Sequence[str] = ()) -> None:
        self.folder = folder
        self.console = folder / "console"
        self.monitor = folder / "qmp"
        self._command = [
            *find_qemu(),
            "-machine", "virt,mte=on,gic-version=3", "-cpu", "max,pauth-impdef=on",
            "-smp", "2", "-m", ram, "-display", "none", "-nodefaults", "-no-user-config",
            "-serial", f"file:{self.console}", "-kernel", str(kernel),
            "-qmp", f"unix:{self.monitor},server=on,wait=off", *options,
        ]  # fmt: skip

    def __enter__(self) -> "EmulatedGuest":
        self._process = subprocess.Popen(self._command)
        self._wait(self.monitor.exists)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(self.monitor))
        self._lines = self._socket.makefile("rw")
        self._lines.readline()
        self.ask("qmp_capabilities")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._lines.close()
        self._socket.close()

    @property
    def pid(self) -> int:
        """Return QEMU's process id."""
        return self._process.pid

    def ask(self, command: str, **arguments: Any) -> Any:
        """Run a command of QMP and return its answer."""
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while True:
            message = json.loads(self._lines.readline())
            assert "error" not in message, message
            if "return" in message:
                return message["return"]

    def wait_for(self, text: str) -> None:
        """Wait until the console shows `text`."""
        self._wait(
            lambda: self.console.exists() and text in self.console.read_text("ascii", "replace")
        )

    def _wait(self, condition: Any) -> None:
        end = time.monotonic() + _DEADLINE_S
        while not condition():
            assert self._process.poll() is None, "QEMU has ended"
            assert time.monotonic() < end, "QEMU is too slow"
            time.sleep(0.05)

    def save(self, name: str, **capabilities: bool) -> Path:
        """Let QEMU save the guest, which is paused afterwards, and return the file."""
        self.ask("cont")
        self.ask("stop")
        path = self.folder / name
        listed = [{"capability": key, "state": on} for key, on in capabilities.items()]
        self.ask("migrate-set-capabilities", capabilities=listed)
        self.ask("migrate", uri=f"file:{path}")

        def is_over() -> bool:
            status = self.ask("query-migrate").get("status")
            assert status != "failed"
            return path.exists() and status == "completed"

        self._wait(is_over)
        return path

    def registers(self) -> list[dict[str, int]]:
        """Return what `info registers` prints of each vCPU."""
        text = self.ask("human-monitor-command", **{"command-line": "info registers -a"})
        pairs = [
            re.findall(r"\b(PC|SP|PSTATE|X\d\d)=([0-9a-f]+)", part)
            for part in text.split("CPU#")[1:]
        ]
        return [{name: int(value, 16) for name, value in each} for each in pairs]

    def data(self, gpa: int, size: int) -> bytes:
        """Return guest memory, as QEMU's own command writes it."""
        path = self.folder / "pmem"
        self.ask("pmemsave", val=gpa, size=size, filename=str(path))
        return path.read_bytes()

    def packed_tags(self) -> NDArray[np.uint8]:
        """Return the tags of all of RAM, read from QEMU's own memory."""
        listing = self.ask("human-monitor-command", **{"command-line": "info ramblock"})
        number = r" +0x([0-9a-f]+)"  # of these: offset, used, total, address
        found = re.search(r"mach-virt\.tag +\d+ KiB" + 4 * number, listing)
        assert found is not None
        with Path(f"/proc/{self._process.pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(int(found[4], 16))
            return np.frombuffer(memory.read(int(found[2], 16)), np.uint8)
