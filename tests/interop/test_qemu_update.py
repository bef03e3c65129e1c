"""A real QEMU is updated in place (cpr-transfer), with tagalong beside both; KVM's part is played.

QEMU emulates its guest here, so what the preloaded library would say comes from a library of the
tests: both QEMUs have the same memory, and the same tags. The lab has the whole of it
(tests/support/beside_modes.py).
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from bench.migrate.qemu import find_qemu
from tagalong.beside.link_format import MemorySlot, SlotFlag
from tagalong.control.client import connect
from tagalong.control.migration import await_migration, start_migration
from tagalong.qapi.migration import MigrationRequest
from tagalong.qapi.reports import MigrationResult
from tests.support.fake_tag_server import GPA, PAGE, FakeLibrary

WAIT_S = 120.0


def until(is_true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.05)


class Host:
    """A QEMU under tagalong beside; `library` answers in place of the one that is preloaded."""

    def __init__(self, stack: ExitStack, folder: Path, name: str, *incoming: str) -> None:
        self.control = folder / f"{name}.sock"
        self.own = folder / f"{name}.own"
        self.tags_uri = f"unix:{folder}/{name}.tags"
        awaits = ["--incoming", self.tags_uri] if incoming else []
        # No -accel: QEMU takes TCG by itself on a host that is not arm64.
        qemu = [
            *find_qemu(), "-M", "virt,gic-version=3,aux-ram-share=on,memory-backend=m",
            "-object", "memory-backend-memfd,id=m,size=32M,share=on", "-m", "32M", "-cpu", "max",
            "-nodefaults", "-no-user-config", "-display", "none",
            "-qmp", f"unix:{self.own},server=on,wait=off", *incoming,
        ]  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "tagalong", "beside", "--control", str(self.control), *awaits,
             "--", *qemu],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.terminate)
        path = folder / f"{name}.sock.kvm"
        until(lambda: self.control.exists() and path.exists(), "the sockets beside QEMU")
        path.unlink()
        self.library = FakeLibrary(path, held=bool(incoming))
        self.library.slots = [MemorySlot(0, SlotFlag.SHARED, GPA, self.library.pages * PAGE)]
        stack.callback(self.library.close)


async def update(here: Host, there: Host, folder: Path) -> MigrationResult:
    """Let the QEMU `here` hand its guest over, as an operator does by a monitor of their own."""
    await start_migration(here.control, MigrationRequest(there.tags_uri))
    async with connect(here.own) as own:
        await own.execute("migrate-set-parameters", {"mode": "cpr-transfer"})
        await own.execute(
            "migrate", {"channels": [channel(folder, "main"), channel(folder, "cpr")]}
        )
    return await await_migration(here.control, lambda _: None)


def channel(folder: Path, name: str) -> dict[str, object]:
    address = {"transport": "socket", "type": "unix", "path": f"{folder}/{name}"}
    return {"channel-type": name, "addr": address}


@pytest.mark.skipif(sys.platform != "linux", reason="missing Linux")
def test_qemu_that_is_updated_in_place_sends_no_tags(tmp_path: Path) -> None:
    try:
        find_qemu()
    except SystemExit as error:
        pytest.skip(f"missing QEMU: {error}")
    with ExitStack() as stack:
        here = Host(stack, tmp_path, "here")
        there = Host(
            stack, tmp_path, "there",
            "-incoming", f"unix:{tmp_path}/main",
            "-incoming", json.dumps(channel(tmp_path, "cpr")),
        )  # fmt: skip
        here.library.tags[:] = np.random.default_rng(3).integers(0, 256, here.library.tags.shape)
        there.library.tags = here.library.tags  # the same memory
        until(lambda: here.own.exists() and (tmp_path / "cpr").exists(), "both QEMUs")

        result = asyncio.run(update(here, there, tmp_path))

        assert result.report.tags_in_place
        assert result.report.verified
        assert result.report.tag_bytes_wire == 0
        until(lambda: not there.library.held, "the guest to be released")
