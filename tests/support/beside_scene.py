"""One Linux guest in QEMUs beside tagalong, which goes through trial after trial in the lab.

Its tagkeeper must never find a granule wrong. It is where each trial leaves it.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tagalong.control.client import ControlClient, connect
from tagalong.errors import ControlError, TagalongError
from tagalong.qapi.migration import MigrationInfo, MigrationRequest
from tagalong.qapi.settings import MigrationSettings
from tagalong.studies.beside import QemuGuest
from tagalong.studies.beside.host import BesideHost

VMM = Path("/opt/vmm")
WAIT_S = 120.0
VCPUS = 2
MIB = 4
# The emulated host is slow: the downtime there says nothing.
SETTINGS = MigrationSettings(downtime_limit=60_000)


class FakeGuest(QemuGuest):
    """A guest of a VMM without KVM: what goes wrong between processes goes wrong there, too."""

    def command(self, console: Path, *more: str) -> list[str]:
        return [
            sys.executable, "-m", "tests.support.fake_vmm", "qemu-system-fake", "-accel", "kvm",
            "-chardev", f"file,id=console,path={console}", *more,
        ]  # fmt: skip


REAL_GUEST = QemuGuest(
    VMM / "qemu", VMM / "Image", VMM / "initrd", knobs=f"mib={MIB} rate=300", vcpus=VCPUS
)
FAKE_GUEST = FakeGuest(VMM, VMM, VMM)


class Scene:
    """The guest, where it is, and how to make it move. `here` runs it."""

    def __init__(self, folder: Path, guest: QemuGuest = REAL_GUEST) -> None:
        self.folder = folder
        self._count = 0
        self._hosts: list[BesideHost] = []
        self._orphans: dict[str, int] = {}
        self._spare: BesideHost | None = None
        self._guest = guest
        self.here = self.host(awaits=False)

    def host(
        self, *, awaits: bool, uris: tuple[str, str] | None = None, more: Sequence[str] = ()
    ) -> BesideHost:
        """Start a QEMU; one that awaits a migration does so at `uris` of tags and of the rest."""
        name = f"host-{self._count}"
        self._count += 1
        monitor = self.folder / f"{name}.own"
        host = BesideHost(
            self._guest, self.folder, name, awaits=awaits, uris=uris,
            more=["-qmp", f"unix:{monitor},server=on,wait=off", *more],
        )  # fmt: skip
        self._hosts.append(host)
        return host

    def own_monitor(self, host: BesideHost) -> Path:
        """Return the monitor of somebody else than tagalong."""
        return self.folder / f"{host.name}.own"

    def prepare_destination(self) -> None:
        """Start the next destination already, while the guest is waited for."""
        if self._spare is None:
            self._spare = self.host(awaits=True)

    def keep_destination(self, there: BesideHost) -> None:
        """Let the next trial have this one, which nothing has connected to."""
        if self._spare is not None:
            self.end(there)
        else:
            self._spare = there

    async def destination(self) -> BesideHost:
        """Return a QEMU that awaits the guest."""
        self.prepare_destination()
        there, self._spare = self._spare, None
        assert there is not None
        await there.wait_until(
            lambda: "waiting for tags" in there.messages, "waited for tags", WAIT_S
        )
        return there

    async def require_alive(self, host: BesideHost, reports: int = 2) -> None:
        """The guest makes progress at `host`, and found nothing wrong."""
        count = len(host.progress) + reports
        await until(
            lambda: len(host.progress) >= count or bool(host.failures),
            lambda: f"{reports} reports of the guest at {host.name}; it says {host.last_words}",
        )
        assert not host.failures, host.failures

    async def move_on(self, there: BesideHost) -> None:
        """The guest is at `there` from now on."""
        self.prepare_destination()
        await self.require_alive(there)
        before, self.here = self.here, there
        self.end(before)

    def qemu_of(self, host: BesideHost) -> int:
        if host.name in self._orphans:
            return self._orphans[host.name]
        tasks = Path(f"/proc/{host.process.pid}/task").iterdir()
        children = [pid for task in tasks for pid in (task / "children").read_text().split()]
        (found,) = [
            pid for pid in children if b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        return int(found)

    def kill_sidecar(self, host: BesideHost) -> None:
        self._orphans[host.name] = self.qemu_of(host)
        host.process.kill()
        host.process.wait()

    def kill_vmm(self, host: BesideHost) -> None:
        os.kill(self.qemu_of(host), signal.SIGKILL)

    def attach(self, host: BesideHost, *options: str) -> None:
        """Put a new process beside the QEMU of `host`, whose own was killed."""
        with (self.folder / f"{host.name}.messages").open("ab") as messages:
            host.process = subprocess.Popen(
                [sys.executable, "-m", "tagalong", "beside", "attach", "--control",
                 str(host.control), *options, str(self._orphans[host.name])],
                stdin=subprocess.DEVNULL, stdout=messages, stderr=messages,
            )  # fmt: skip

    def request(
        self,
        there: BesideHost,
        *,
        driven: bool = True,
        standing: bool = False,
        settings: MigrationSettings = SETTINGS,
    ) -> MigrationRequest:
        vmm_uri = there.vmm_uri if driven else None
        return MigrationRequest(
            there.tags_uri, settings=settings, vmm_uri=vmm_uri, standing=standing
        )

    def end(self, host: BesideHost) -> None:
        """End a QEMU and what is beside it."""
        host.stop()
        if (pid := self._orphans.pop(host.name, None)) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def last_words(self) -> str:
        """Return what the last hosts say."""
        parts = [f"--- {host.name}:\n{host.last_words}" for host in self._hosts[-3:]]
        return "\n".join(parts)

    def close(self) -> None:
        for host in self._hosts:
            self.end(host)


def quiet(_: MigrationInfo) -> None:
    """Show nothing."""


async def until(is_true: Callable[[], bool], what: Callable[[], str] | str) -> None:
    """Wait until something is true. Raises AssertionError that says what was waited for."""

    async def look() -> bool:
        return is_true()

    await wait_for(look, what)


async def wait_for(is_true: Callable[[], Awaitable[bool]], what: Callable[[], str] | str) -> None:
    """As `until`, for what has to be asked for."""
    deadline = time.monotonic() + WAIT_S
    while not await is_true():
        if time.monotonic() > deadline:
            words = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {WAIT_S:.0f} s for {words}")
        await asyncio.sleep(0.1)


async def has_moved(own: ControlClient) -> bool:
    """Return whether QEMU's own migration has completed; fail if it has failed."""
    status = str(await own.execute("query-migrate"))
    assert "'failed'" not in status, status
    assert "'cancelled'" not in status, status
    return await own.run_state() == "postmigrate"


async def answers(control: Path, state: str = "running") -> bool:
    """Return whether a VM answers at a control socket, and its guest is in this state."""
    with suppress(TagalongError):
        async with connect(control) as client:
            return await client.run_state() == state
    return False


async def failure_of(work: Awaitable[object]) -> str:
    """Return how a migration failed, with its notes."""
    try:
        await work
    except ControlError as error:
        return f"lost: {error} {getattr(error, '__notes__', '')}"
    except TagalongError as error:
        return f"{error} {getattr(error, '__notes__', '')}"
    raise AssertionError("the migration completed")
