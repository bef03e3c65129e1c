"""Replays libvirt's calls through tagalong-qemu, on a real QEMU and a real guest, inside the lab.

    python -m tests.support.libvirt_calls

Its probe of the emulator, the start of a domain as qemuBuildCommandLine puts it together (sandbox,
secret, JSON devices, a monitor on a descriptor that is passed on), a dump, and a live migration to
a second domain, driven as libvirt's source and destination drive it. Fails if the guest finds a
wrong granule, or if anything else is not as libvirt expects it.
"""

import asyncio
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tagalong.control.client import ControlClient, connect
from tagalong.control.migration import start_migration
from tagalong.control.saving import save_vm
from tagalong.errors import TagalongError
from tagalong.qapi.migration import MigrationRequest
from tagalong.qapi.saving import SaveKind, SaveRequest
from tagalong.qapi.settings import MigrationSettings
from tests.support.keeper_core import find_kept

VMM = Path("/opt/vmm")
MIB = 4
WAIT_S = 300.0
_PROGRESS = re.compile(r"tagkeeper: progress .*checked=(\d+)")
_WRONG = re.compile(r"tagkeeper: FAIL.*|tagkeeper: cannot start.*|.*Kernel panic.*")

PROBES = ("qom-list-types", "query-version", "query-target", "query-kvm", "query-machines",
          "query-cpu-definitions", "query-command-line-options", "query-migrate-capabilities",
          "query-gic-capabilities", "query-commands")  # fmt: skip


class Domain:
    """One domain as libvirt starts it; `monitor` is its charmonitor."""

    def __init__(self, folder: Path, name: str, *incoming: str) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.control = folder / f"{name}.sock"
        self.monitor = self.folder / "monitor.sock"
        self._console = self.folder / "console"
        key = self.folder / "master-key.aes"
        key.write_bytes(secrets.token_bytes(32))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.monitor))
            listener.listen(1)
            number = listener.fileno()
            self.process = subprocess.Popen(
                [*wrapper(), *self._arguments(name, key, number), *incoming],
                pass_fds=(number,), stdin=subprocess.DEVNULL,
                env={**os.environ, "TAGALONG_BESIDE_SETTINGS": str(folder / "beside.toml")},
            )  # fmt: skip

    def _arguments(self, name: str, key: Path, monitor: int) -> list[str]:
        # As in tests/qemuxmlconfdata/aarch64-* of libvirt; the guest's kernel is the lab's.
        return [
            "-name", f"guest={name},debug-threads=on", "-S",
            "-object", json.dumps(
                {"qom-type": "secret", "id": "masterKey0", "format": "raw", "file": str(key)}
            ),
            "-machine",
            "virt,usb=off,gic-version=3,dump-guest-core=off,memory-backend=mach-virt.ram,acpi=off",
            "-accel", "kvm", "-cpu", "host", "-m", "size=131072k",
            "-object", json.dumps(
                {"qom-type": "memory-backend-ram", "id": "mach-virt.ram", "size": 128 << 20}
            ),
            "-overcommit", "mem-lock=off", "-smp", "1,sockets=1,cores=1,threads=1",
            "-uuid", "6ba7b811-9dad-11d1-80b4-00c04fd430c8", "-display", "none",
            "-no-user-config", "-nodefaults",
            "-chardev", f"socket,id=charmonitor,fd={monitor},server=on,wait=off",
            "-mon", "chardev=charmonitor,id=monitor,mode=control",
            "-rtc", "base=utc", "-no-shutdown", "-boot", "strict=on",
            "-kernel", str(VMM / "Image"), "-initrd", str(VMM / "initrd"),
            "-append", f"console=ttyAMA0 quiet panic=-1 keeper=mib:{MIB},rate:300",
            "-chardev", f"file,id=charserial0,path={self._console}", "-serial",
            "chardev:charserial0",
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-msg", "timestamp=on",
        ]  # fmt: skip

    def text(self) -> str:
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    async def require_alive(self) -> None:
        """The guest makes progress here, and found nothing wrong."""
        seen, deadline = len(_PROGRESS.findall(self.text())), time.monotonic() + WAIT_S
        while len(_PROGRESS.findall(self.text())) < seen + 2:
            assert not _WRONG.search(self.text()), self.text()[-500:]
            assert self.process.poll() is None, "QEMU has ended"
            assert time.monotonic() < deadline, f"no progress: {self.text()[-500:]}"
            await asyncio.sleep(0.2)
        assert not _WRONG.search(self.text())


def wrapper() -> list[str]:
    return [sys.executable, "-c", "from tagalong.cli.wrapper import main; main()"]


async def wait_for_control(path: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with suppress(TagalongError):
            async with connect(path) as client:
                await client.run_state()
                return
        await asyncio.sleep(0.2)
    raise AssertionError(f"nothing answers at {path}")


async def probe(folder: Path) -> None:
    """As qemuProcessQMPLaunch: a daemon without a machine, asked by QMP and then killed."""
    monitor, pidfile = folder / "qmp.monitor", folder / "qmp.pid"
    subprocess.run(
        [*wrapper(), "-S", "-no-user-config", "-nodefaults", "-nographic", "-machine",
         "none,accel=kvm:tcg", "-qmp", f"unix:{monitor},server=on,wait=off", "-pidfile",
         str(pidfile), "-daemonize"],
        check=True, timeout=WAIT_S, stdin=subprocess.DEVNULL,
        env={**os.environ, "TAGALONG_BESIDE_SETTINGS": str(folder / "beside.toml")},
    )  # fmt: skip
    async with connect(monitor) as client:
        answers = {name: await client.execute(name) for name in PROBES}
        await client.execute("quit")
    assert answers["query-kvm"] == {"enabled": True, "present": True}, answers["query-kvm"]
    assert answers["query-target"] == {"arch": "aarch64"}


async def start(folder: Path) -> Domain:
    domain = Domain(folder, "source")
    async with connect(domain.monitor) as client:
        assert await client.run_state() == "prelaunch"
        await wait_for_control(domain.control)
        await client.execute("cont")
    await domain.require_alive()
    return domain


async def look(domain: Domain) -> None:
    path = domain.folder / "vm.core"
    await save_vm(domain.control, SaveRequest(path, kind=SaveKind.DUMP), lambda _: None)
    kept = find_kept(path, 1, MIB, domain.folder)
    assert kept is not None, "no vCPU runs tagkeeper"
    assert max(kept.wrong_tags, kept.wrong_data) <= 1, kept
    await domain.require_alive()


async def migrate(source: Domain, folder: Path) -> Domain:
    """As libvirt's three phases; all that tagalong is told is where the tags go."""
    there = Domain(folder, "destination", "-incoming", "defer")
    await wait_for_control(there.control)
    settings = MigrationSettings(downtime_limit=60_000)
    tags = MigrationRequest(f"unix:{folder}/destination.tags", settings=settings)
    await start_migration(source.control, tags)
    async with connect(there.monitor) as incoming, connect(source.monitor) as outgoing:
        await set_capabilities(incoming, "events")
        await incoming.execute("migrate-incoming", {"uri": f"unix:{folder}/destination.ram"})
        await set_capabilities(outgoing, "events", "pause-before-switchover")
        await outgoing.execute("migrate", {"uri": f"unix:{folder}/destination.ram"})
        await wait_for_status(outgoing, "pre-switchover")
        await outgoing.execute("migrate-continue", {"state": "pre-switchover"})
        await wait_for_status(outgoing, "completed")
        await incoming.execute("cont")
        await outgoing.execute("quit")
    await there.require_alive()
    return there


async def set_capabilities(client: ControlClient, *names: str) -> None:
    wanted = [{"capability": name, "state": True} for name in names]
    await client.execute("migrate-set-capabilities", {"capabilities": wanted})


async def wait_for_status(client: ControlClient, wanted: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        answer = await client.execute("query-migrate")
        status = answer.get("status") if isinstance(answer, dict) else None
        if status == wanted:
            return
        assert status not in ("failed", "cancelled"), answer
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.05)


async def replay(folder: Path) -> None:
    (folder / "beside.toml").write_text(
        f'vmm = "{VMM / "qemu"}"\nfolder = "{folder}"\nincoming = "unix:{folder}/{{name}}.tags"\n'
    )
    domains = []
    try:
        await probe(folder)
        print("passed probe", flush=True)
        domains.append(await start(folder))
        print("passed start", flush=True)
        await look(domains[0])
        print("passed look", flush=True)
        domains.append(await migrate(domains[0], folder))
        print("passed migrate", flush=True)
    finally:
        for domain in domains:
            domain.process.kill()
            domain.process.wait()


def main() -> None:
    with TemporaryDirectory(prefix="libvirt-") as folder:
        asyncio.run(replay(Path(folder)))


if __name__ == "__main__":
    main()
