"""QEMU's own migration of the same content: two QEMUs with MTE, emulating, paused.

The QEMU is TAGALONG_QEMU_SYSTEM_AARCH64, qemu-system-aarch64 on PATH, or the lab's (`tagalong lab
setup` fetches it); version 10 or newer. Its guest's tags are memory of QEMU's own, which is
filled from outside through /proc.
"""

import asyncio
import mmap
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qemu.qmp import QMPClient

from bench.migrate.guest import TAGS_SHARE, Planes
from bench.migrate.sample import Sample
from tagalong.errors import LabError
from tagalong.lab.cache import default_folder
from tagalong.lab.qemu import ask_version, fetched_command

VARIABLE = "TAGALONG_QEMU_SYSTEM_AARCH64"
OLDEST_MAJOR = 10

# What both sides of the comparison negotiate by themselves; here it is certain.
_PRIORITY = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-256-GCM"
_CREDENTIALS = "tls0"

_START_S = 60.0
_UNLIMITED = 1 << 40
_LOOK_UP_S = 0.01
_FILE_CHANNELS = 2


@dataclass(frozen=True)
class Setting:
    """How QEMU migrates: over one connection, or `multifd` channels besides that.

    With TLS if `tls` is a folder of certificates; QEMU and tagalong use the same names in it.
    Compressed by zstd if there is a level, which takes multifd.
    """

    multifd: int = 0
    tls: Path | None = None
    zstd_level: int | None = None

    def __str__(self) -> str:
        kind = f"multifd {self.multifd}" if self.multifd else "default"
        kind += f", zstd {self.zstd_level}" if self.zstd_level is not None else ""
        return f"TLS, {kind}" if self.tls else kind

    def credentials(self, endpoint: str) -> list[str]:
        """Return the options for one end, "client" or "server"."""
        if self.tls is None:
            return []
        facts = f"id={_CREDENTIALS},dir={self.tls},endpoint={endpoint},verify-peer=on"
        return ["-object", f"tls-creds-x509,{facts},priority={_PRIORITY}"]


def find_qemu() -> list[str]:
    """Return how to start QEMU. Raises SystemExit, which says what was tried."""
    complaints = []
    for command in _candidates():
        try:
            version = ask_version(command)
        except LabError as error:
            complaints.append(f"{command[0]}: {error}")
            continue
        if int(version.partition(".")[0]) >= OLDEST_MAJOR:
            return command
        complaints.append(f"{command[-1]}: version {version}")
    tried = "; ".join(complaints) or f"no {VARIABLE}, none on PATH, none in the lab"
    raise SystemExit(f"no qemu-system-aarch64 of version {OLDEST_MAJOR}: {tried}; `make lab`")


def _candidates() -> Iterator[list[str]]:
    if named := os.environ.get(VARIABLE):
        yield [named]
    if found := shutil.which("qemu-system-aarch64"):
        yield [found]
    for folder in sorted(default_folder().glob("qemu/*")):
        try:
            yield list(fetched_command(folder))
        except LabError:
            continue


def migrate(content: Planes, setting: Setting) -> Sample:
    """Migrate a guest with that content between two QEMUs."""
    with TemporaryDirectory(prefix="tagalong-bench-", dir=shared_memory()) as scratch:
        folder = Path(scratch)
        ram = folder / "ram"
        write_ram(ram, content)
        with (
            QemuProcess(
                folder / "a",
                [
                    *("-object", file_backend(ram, content.ram_bytes)),
                    *setting.credentials("client"),
                ],
                content.ram_bytes,
            ) as source,
            QemuProcess(
                folder / "b",
                [
                    *("-object", ready_backend(content), "-incoming", "defer"),
                    *setting.credentials("server"),
                ],
                content.ram_bytes,
            ) as destination,
        ):
            return asyncio.run(_migrate(source, destination, setting, content))


def shared_memory() -> str | None:
    """Return the folder of files that are memory, None if the host has none."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def write_ram(path: Path, content: Planes) -> None:
    """Write the data of `content` to a file that a guest's RAM can be."""
    with path.open("w+b") as file:
        file.truncate(content.ram_bytes)
        content.fill(np.frombuffer(mmap.mmap(file.fileno(), content.ram_bytes), np.uint8))


def file_backend(path: Path, ram_bytes: int) -> str:
    """Return the option of a QEMU whose guest RAM is the file `path`."""
    return f"memory-backend-file,id=ram,size={ram_bytes},mem-path={path},share=on"


def ready_backend(content: Planes) -> str:
    """Return the option of a QEMU whose guest RAM is there before it is needed."""
    return f"memory-backend-memfd,id=ram,size={content.ram_bytes},share=on,prealloc=on"


class QemuProcess:
    """A QEMU that is ready and paused; ended at the end of a `with` statement.

    `socket`: where its QMP is; `options`: what it gets besides, which must make the memory
    backend `ram` of `ram_bytes`.
    """

    def __init__(self, socket: Path, options: list[str], ram_bytes: int) -> None:
        self.socket = socket
        self._tag_bytes = ram_bytes // TAGS_SHARE
        self._process = subprocess.Popen(
            [
                *find_qemu(),
                "-machine", "virt,mte=on,memory-backend=ram", "-cpu", "max",
                "-m", f"{ram_bytes >> 20}M", "-S", "-display", "none",
                "-nodefaults", "-no-user-config",
                "-qmp", f"unix:{socket},server=on,wait=off",
                *options,
            ],
            stderr=sys.stderr,
        )  # fmt: skip

    def __enter__(self) -> "QemuProcess":
        deadline = time.monotonic() + _START_S
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("QEMU did not start")
            time.sleep(_LOOK_UP_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def cpu_s(self) -> float:
        """Return the processor time used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def fill_tags(self, content: Planes, place: int) -> None:
        """Write the tags of the guest's granules, which QEMU stores at `place`."""
        tags = np.empty(self._tag_bytes, np.uint8)
        content.fill_tags(tags)
        self._write_tags(tags, place)

    def touch_tags(self, place: int) -> None:
        """Make the memory for tags ready, as that of the data is."""
        self._write_tags(np.zeros(self._tag_bytes, np.uint8), place)

    def _write_tags(self, tags: NDArray[np.uint8], place: int) -> None:
        with Path(f"/proc/{self._process.pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(place)
            memory.write(tags.data)


async def _migrate(
    source: QemuProcess, destination: QemuProcess, setting: Setting, content: Planes
) -> Sample:
    ours, theirs = QMPClient("source"), QMPClient("destination")
    await ours.connect(str(source.socket))
    await theirs.connect(str(destination.socket))
    source.fill_tags(content, await place_of_tags(ours))
    destination.touch_tags(await place_of_tags(theirs))
    for client in (ours, theirs):
        await _configure(client, setting)
    await theirs.execute("migrate-incoming", {"uri": "tcp:127.0.0.1:0"})
    uri = await _listening(theirs)
    cpu_s = source.cpu_s, destination.cpu_s
    began = time.perf_counter()
    await ours.execute("migrate", {"uri": uri})
    facts = await completed(ours)
    await completed(theirs)
    seconds = time.perf_counter() - began
    sample = Sample(
        content.ram_bytes,
        min(seconds, facts["total-time"] / 1e3),
        source.cpu_s - cpu_s[0],
        destination.cpu_s - cpu_s[1],
        downtime_ms=float(facts["downtime"]),
        wire_bytes=facts["ram"]["transferred"],
    )
    await ours.disconnect()
    await theirs.disconnect()
    return sample


async def place_of_tags(client: QMPClient) -> int:
    """Return where in its own memory QEMU stores the tags."""
    listing = await client.execute("human-monitor-command", {"command-line": "info ramblock"})
    found = re.search(r"^\s*mach-virt\.tag .*? (0x[0-9a-f]+)(?: +\w+)?\s*$", str(listing), re.M)
    if found is None:
        raise SystemExit(f"cannot find QEMU's tag memory in its listing: {listing}")
    return int(found[1], 16)


async def _configure(client: QMPClient, setting: Setting) -> None:
    capabilities = [
        {"capability": "events", "state": True},
        {"capability": "multifd", "state": bool(setting.multifd)},
    ]
    await client.execute("migrate-set-capabilities", {"capabilities": capabilities})
    parameters: dict[str, object] = {
        "max-bandwidth": _UNLIMITED,
        "multifd-channels": max(1, setting.multifd),
    }
    if setting.tls is not None:
        parameters["tls-creds"] = _CREDENTIALS
    if setting.zstd_level is not None:
        parameters["multifd-compression"] = "zstd"
        parameters["multifd-zstd-level"] = setting.zstd_level
    await client.execute("migrate-set-parameters", parameters)


async def configure_file(client: QMPClient, *, is_direct: bool) -> None:
    """Set what a migration to or from a file needs: mapped-ram, two multifd channels."""
    names = ("events", "mapped-ram", "multifd")
    capabilities = [{"capability": name, "state": True} for name in names]
    await client.execute("migrate-set-capabilities", {"capabilities": capabilities})
    parameters = {
        "max-bandwidth": _UNLIMITED,
        "multifd-channels": _FILE_CHANNELS,
        "direct-io": is_direct,
    }
    await client.execute("migrate-set-parameters", parameters)


async def _listening(client: QMPClient) -> str:
    facts = await client.execute("query-migrate")
    (address,) = facts["socket-address"]  # type: ignore[index]
    return f"tcp:{address['host']}:{address['port']}"


async def completed(client: QMPClient) -> dict[str, Any]:
    """Wait for the end of a migration; return what QEMU says of it. Raises SystemExit."""
    while True:
        facts = await client.execute("query-migrate")
        assert isinstance(facts, dict)
        if facts.get("status") == "completed":
            return facts
        if facts.get("status") == "failed":
            raise SystemExit(f"QEMU's migration failed: {facts}")
        await asyncio.sleep(_LOOK_UP_S)
