"""Real QEMUs migrate with tagalong beside them, in modes of their own; KVM's part is played.

QEMU emulates its guest here, so what the preloaded library would say comes from a library of the
tests. The lab has the whole of it (tests/support/beside_modes.py).
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from bench.migrate.qemu import find_qemu
from tagalong.beside.link_format import MemorySlot, SlotFlag
from tagalong.control.client import connect
from tagalong.control.migration import await_migration, migrate_vm, start_migration
from tagalong.qapi.migration import MigrationRequest
from tagalong.qapi.reports import MigrationResult
from tagalong.qapi.settings import MigrationSettings
from tests.support.certificates import Authority
from tests.support.fake_tag_server import GPA, PAGE, FakeLibrary

WAIT_S = 120.0


def until(is_true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.05)


class Host:
    """A QEMU under tagalong beside; `library` answers in place of the one that is preloaded.

    `tls`: the certificates with which it awaits tags.
    """

    def __init__(
        self, stack: ExitStack, folder: Path, name: str, *options: str, tls: Path | None = None
    ) -> None:
        self.control = folder / f"{name}.sock"
        self.own = folder / f"{name}.own"
        self.tags_uri = f"unix:{folder}/{name}.tags"
        is_awaiting = "-incoming" in options
        awaits = ["--incoming", self.tags_uri] if is_awaiting else []
        awaits += ["--tls-dir", str(tls)] if tls else []
        # No -accel: QEMU takes TCG by itself on a host that is not arm64.
        qemu = [
            *find_qemu(), "-M", "virt,gic-version=3,aux-ram-share=on,memory-backend=m",
            "-object", "memory-backend-memfd,id=m,size=32M,share=on", "-m", "32M", "-cpu", "max",
            "-nodefaults", "-no-user-config", "-display", "none",
            "-qmp", f"unix:{self.own},server=on,wait=off", *options,
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
        self.library = FakeLibrary(path, held=is_awaiting)
        self.library.slots = [MemorySlot(0, SlotFlag.SHARED, GPA, self.library.pages * PAGE)]
        stack.callback(self.library.close)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    try:
        find_qemu()
    except SystemExit as error:
        pytest.skip(f"missing QEMU: {error}")
    with ExitStack() as stack:
        yield stack


def draw_tags(library: FakeLibrary) -> None:
    library.tags[:] = np.random.default_rng(3).integers(0, 256, library.tags.shape)


# --- an update in place ---


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


def test_qemu_that_is_updated_in_place_sends_no_tags(stack: ExitStack, tmp_path: Path) -> None:
    here = Host(stack, tmp_path, "here")
    there = Host(
        stack, tmp_path, "there",
        "-incoming", f"unix:{tmp_path}/main",
        "-incoming", json.dumps(channel(tmp_path, "cpr")),
    )  # fmt: skip
    draw_tags(here.library)
    there.library.tags = here.library.tags  # the same memory
    until(lambda: here.own.exists() and (tmp_path / "cpr").exists(), "both QEMUs")

    result = asyncio.run(update(here, there, tmp_path))

    assert result.report.tags_in_place
    assert result.report.verified
    assert result.report.tag_bytes_wire == 0
    until(lambda: not there.library.held, "the guest to be released")


# --- QEMU's own stream ---


NAME = "destination.example"


async def set_up_streams(own: Path, tls: Path, endpoint: str) -> None:
    """Switch on all that QEMU can do for its own stream, with the certificates of ours."""
    credentials = {"qom-type": "tls-creds-x509", "id": "tls", "dir": str(tls)}
    wanted = {
        "tls-creds": "tls", "tls-hostname": NAME, "multifd-channels": 2,
        "multifd-compression": "zlib",
    }  # fmt: skip
    multifd = [{"capability": "multifd", "state": True}]
    async with connect(own) as qemu:
        await qemu.execute("object-add", {**credentials, "endpoint": endpoint})
        await qemu.execute("migrate-set-parameters", wanted)
        await qemu.execute("migrate-set-capabilities", {"capabilities": multifd})


async def drive(here: Host, there: Host, tls: Path) -> tuple[MigrationResult, str, object]:
    """Migrate; return the report, how the guest there is, and what QEMU here says."""
    vmm_uri = f"{there.tags_uri}.ram"
    await set_up_streams(there.own, tls, "server")
    await set_up_streams(here.own, tls, "client")
    async with connect(there.own) as qemu:
        await qemu.execute("migrate-incoming", {"uri": vmm_uri})
    settings = MigrationSettings(downtime_limit=60_000, tls_creds=str(tls), tls_hostname=NAME)
    request = MigrationRequest(there.tags_uri, settings=settings, vmm_uri=vmm_uri)
    result = await migrate_vm(here.control, request, lambda _: None)
    async with connect(here.own) as own, connect(there.control) as client:
        while (state := await client.run_state()) == "inmigrate":
            await asyncio.sleep(0.05)
        return result, state, await own.execute("query-migrate")


def test_qemu_with_compressed_multifd_over_tls_moves_with_its_tags_and_stays_paused_with_s(
    stack: ExitStack, tmp_path: Path
) -> None:
    """One folder of certificates serves both: its names are those that QEMU has for them."""
    tls = Authority(tmp_path / "tls", host=NAME).folder
    here = Host(stack, tmp_path, "here")
    there = Host(stack, tmp_path, "there", "-incoming", "defer", "-S", tls=tls)
    draw_tags(here.library)
    until(lambda: here.own.exists() and there.own.exists(), "both QEMUs")

    result, state, qemu = asyncio.run(drive(here, there, tls))

    assert result.vmm is not None
    assert result.vmm.status == "completed"
    assert isinstance(qemu, dict)
    assert qemu["ram"]["multifd-bytes"] > 0
    assert np.array_equal(here.library.tags, there.library.tags)
    assert state == "paused"
