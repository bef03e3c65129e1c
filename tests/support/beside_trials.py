"""What can happen to a migration beside QEMU, on real QEMUs: run inside the lab, one boot for all.

    tagalong lab run --with-vmm --ram 3G -- python3 -m tests.support.beside_trials

One Linux guest, whose tagkeeper must never find a granule wrong, goes through all trials: it is
where each of them leaves it, and moves on from there. Prints a line per trial; status 1 if one
failed.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tagalong.beside.monitor import VmmMigration
from tagalong.control.client import ControlClient, connect
from tagalong.control.migration import migrate_vm, start_migration
from tagalong.control.saving import save_vm
from tagalong.core import Space, open_core
from tagalong.core.check import check_core
from tagalong.errors import RemoteError, TagalongError
from tagalong.qapi.migration import MigrationInfo, MigrationRequest, MigrationStatus
from tagalong.qapi.saving import SaveInfo, SaveKind, SaveRequest
from tagalong.qapi.settings import MigrationSettings
from tagalong.studies.beside import QemuGuest
from tagalong.studies.beside.host import BesideHost
from tests.support.keeper_core import find_kept

VMM = Path("/opt/vmm")
WAIT_S = 300.0
MIB = 4
VCPUS = 2
# The emulated host is slow: the downtime there says nothing.
SETTINGS = MigrationSettings(downtime_limit=60_000)


class Trials:
    """The guest, where it is, and how to make it move. `here` runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self._hosts: list[BesideHost] = []
        self._orphans: list[int] = []
        self._guest = QemuGuest(
            VMM / "qemu", VMM / "Image", VMM / "initrd", knobs=f"mib={MIB} rate=300", vcpus=VCPUS
        )
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

    async def destination(self) -> BesideHost:
        there = self.host(awaits=True)
        await there.wait_until(
            lambda: "waiting for tags" in there.messages, "waited for tags", WAIT_S
        )
        return there

    async def require_alive(self, host: BesideHost) -> None:
        """The guest makes progress at `host`, and found nothing wrong."""
        await host.wait_for_reports(len(host.progress) + 2, WAIT_S)
        assert not host.failures, host.failures

    async def require_held(self, host: BesideHost) -> None:
        """The guest does not run at `host`, whatever its QEMU says."""
        await asyncio.sleep(3)
        assert not host.progress, "it ran without its tags"

    def qemu_of(self, host: BesideHost) -> int:
        tasks = Path(f"/proc/{host.process.pid}/task").iterdir()
        children = [pid for task in tasks for pid in (task / "children").read_text().split()]
        (found,) = [
            pid for pid in children if b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        return int(found)

    def kill_sidecar(self, host: BesideHost) -> None:
        self._orphans.append(self.qemu_of(host))
        host.process.kill()
        host.process.wait()

    def attach(self, host: BesideHost) -> None:
        """Put a new process beside the QEMU of `host`, whose own was killed."""
        host.process = subprocess.Popen(
            [sys.executable, "-m", "tagalong", "beside", "attach", "--control", str(host.control),
             str(self._orphans[-1])],
        )  # fmt: skip

    def request(self, there: BesideHost, *, driven: bool = True) -> MigrationRequest:
        return MigrationRequest(
            there.tags_uri, settings=SETTINGS, vmm_uri=there.vmm_uri if driven else None
        )

    def close(self) -> None:
        for pid in self._orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for host in self._hosts:
            host.stop()


def _quiet(_: MigrationInfo) -> None:
    """Show nothing."""


def _quiet_save(_: SaveInfo) -> None:
    """Show nothing."""


async def wait_for(is_true: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not await is_true():
        assert time.monotonic() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.1)


async def fails(trials: Trials, there: BesideHost, do: Callable[[], object] | None) -> str:
    """Migrate, and `do` something once it is under way; return how it failed."""
    done = False

    def on_progress(info: MigrationInfo) -> None:
        nonlocal done
        if do is not None and not done and info.ram is not None and info.ram.pages_sent:
            done = True
            do()

    try:
        await migrate_vm(trials.here.control, trials.request(there), on_progress)
    except TagalongError as error:
        return str(error)
    raise AssertionError("the migration did not fail")


async def postcopy_is_refused_by_name(trials: Trials) -> None:
    there = await trials.destination()
    async with connect(trials.own_monitor(trials.here)) as own:
        wanted = [{"capability": "postcopy-ram", "state": True}]
        await own.execute("migrate-set-capabilities", {"capabilities": wanted})
        words = await fails(trials, there, None)
        wanted[0]["state"] = False
        await own.execute("migrate-set-capabilities", {"capabilities": wanted})
    there.stop()
    assert "postcopy-ram" in words, words
    await trials.require_alive(trials.here)


async def cancelled_migration_leaves_the_guest_here(trials: Trials) -> None:
    there = await trials.destination()
    async with connect(trials.here.control) as client:
        await client.begin_migration(trials.request(there))
        await wait_for(lambda: _is_active(client), "pre-copy")
        words = await _error_of(client.cancel_migration(_quiet))
    assert "cancelled" in words, words
    assert not there.progress
    there.stop()
    await trials.require_alive(trials.here)


async def _error_of(work: Awaitable[object]) -> str:
    try:
        await work
    except RemoteError as error:
        return str(error)
    raise AssertionError("it completed")


async def _is_active(client: ControlClient) -> bool:
    return (await client.migration()).status is MigrationStatus.ACTIVE


async def killed_destination_vmm_leaves_the_guest_here(trials: Trials) -> None:
    there = await trials.destination()
    pid = trials.qemu_of(there)
    await fails(trials, there, lambda: os.kill(pid, signal.SIGKILL))
    there.stop()
    await trials.require_alive(trials.here)


async def killed_destination_sidecar_leaves_the_guest_here(trials: Trials) -> None:
    there = await trials.destination()
    await fails(trials, there, lambda: trials.kill_sidecar(there))
    assert not there.progress
    await trials.require_alive(trials.here)


async def tags_after_the_vmm_has_migrated_still_arrive(trials: Trials) -> None:
    """Somebody migrates without tags: the guest is held, and its tags follow."""
    there = await trials.destination()
    async with connect(trials.own_monitor(trials.here)) as own:
        await own.execute("migrate", {"uri": there.vmm_uri})
        await wait_for(lambda: _has_moved(own), "QEMU's migration")
    await trials.require_held(there)
    await migrate_vm(trials.here.control, trials.request(there, driven=False), _quiet)
    await _move_on(trials, there)


async def tags_follow_a_migration_that_somebody_else_drives(trials: Trials) -> None:
    there = await trials.destination()
    await start_migration(trials.here.control, trials.request(there, driven=False))
    async with connect(trials.own_monitor(trials.here)) as own:
        await own.execute("migrate", {"uri": there.vmm_uri})
        await wait_for(lambda: _has_moved(own), "QEMU's migration")
    await _move_on(trials, there)


async def _has_moved(own: ControlClient) -> bool:
    return await own.run_state() == "postmigrate"


async def _move_on(trials: Trials, there: BesideHost) -> None:
    await trials.require_alive(there)
    before, trials.here = trials.here, there
    before.stop()


async def guest_in_files_is_restored_with_its_tags(trials: Trials) -> None:
    """Both streams go into files, and come back from there in new processes."""
    folder, before = trials.folder, trials.here
    tags, ram = f"file:{folder}/saved.tags", f"file:{folder}/saved.ram"
    request = MigrationRequest(tags, settings=SETTINGS, vmm_uri=ram)
    await migrate_vm(before.control, request, _quiet)
    before.stop()
    there = trials.host(awaits=True, uris=(tags, ram))
    await _move_on(trials, there)


async def qemu_updated_in_place_keeps_tags(trials: Trials) -> None:
    """QEMU's cpr-transfer: the new QEMU takes the guest's memory itself, tags and all."""
    shared = [
        "-M", "aux-ram-share=on,memory-backend=m",
        "-object", "memory-backend-memfd,id=m,size=128M,share=on",
    ]  # fmt: skip
    here = trials.host(awaits=False, more=shared)
    await trials.require_alive(here)
    channel = {"transport": "socket", "type": "unix", "path": f"{trials.folder}/cpr"}
    cpr = {"channel-type": "cpr", "addr": channel}
    there = trials.host(awaits=True, more=[*shared, "-incoming", json.dumps(cpr)])
    await wait_for(lambda: _exists(trials.folder / "cpr"), "QEMU's cpr socket")
    await start_migration(here.control, trials.request(there, driven=False))
    main = {**channel, "path": there.vmm_uri.removeprefix("unix:")}
    async with connect(trials.own_monitor(here)) as own:
        await own.execute("migrate-set-parameters", {"mode": "cpr-transfer"})
        channels = [{"channel-type": "main", "addr": main}, cpr]
        await own.execute("migrate", {"channels": channels})
        await wait_for(lambda: _has_moved(own), "QEMU's update")
    await trials.require_alive(there)
    here.stop()
    await trials.require_alive(there)
    there.stop()


async def _exists(path: Path) -> bool:
    return path.exists()


async def dump_has_memory_tags_and_registers(trials: Trials) -> None:
    """All granules are as tagkeeper keeps them, the kernel is found, and the guest runs on."""
    path = trials.folder / "vm.core"
    request = SaveRequest(path, kind=SaveKind.DUMP)
    result = await save_vm(trials.here.control, request, _quiet_save)
    assert result.report.was_running
    assert not result.report.is_torn
    await trials.require_alive(trials.here)
    kept = find_kept(path, VCPUS, MIB, trials.folder)
    assert kept is not None, "no vCPU runs tagkeeper"
    assert (kept.wrong_tags, kept.wrong_data) <= (1, 1), kept
    with open_core(path) as core:
        assert core.vmcoreinfo is not None, "no VMCOREINFO"
        assert len(core.vcpus) == VCPUS
        assert all(vcpu.pc for vcpu in core.vcpus)
        assert all(vcpu.v is not None for vcpu in core.vcpus)
        report = check_core(core)
    assert report.kernel is not None
    assert report.kernel.opens, report.kernel
    await dump_by_virtual_addresses(trials)


async def dump_by_virtual_addresses(trials: Trials) -> None:
    """The running VM gives its own tables' view, too."""
    path = trials.folder / "kernel.core"
    request = SaveRequest(path, kind=SaveKind.DUMP, space=Space.KERNEL)
    await save_vm(trials.here.control, request, _quiet_save)
    with open_core(path) as core:
        assert any(region.address >> 63 for region in core.regions)


async def live_dump_says_that_it_is_of_different_moments(trials: Trials) -> None:
    path = trials.folder / "live.core"
    request = SaveRequest(path, kind=SaveKind.DUMP, live=True, max_downtime_ms=300)
    result = await save_vm(trials.here.control, request, _quiet_save)
    assert result.report.is_torn
    assert result.report.downtime_s < result.report.duration_s
    with open_core(path) as core:
        assert core.machine is not None
        assert core.machine.is_torn
        assert len(core.vcpus) == VCPUS
    await trials.require_alive(trials.here)


async def paused_guest_is_dumped_and_stays_paused(trials: Trials) -> None:
    path = trials.folder / "paused.core"
    async with connect(trials.here.control) as client:
        await client.execute("stop")
        request = SaveRequest(path, kind=SaveKind.DUMP)
        result = await save_vm(trials.here.control, request, _quiet_save)
        state = await client.run_state()
        await client.execute("cont")
    assert not result.report.was_running
    assert state == "paused"
    await trials.require_alive(trials.here)


async def snapshot_is_refused_with_the_way_out(trials: Trials) -> None:
    path = trials.folder / "snapshot.core"
    try:
        await save_vm(trials.here.control, SaveRequest(path), _quiet_save)
    except TagalongError as error:
        words = str(error)
    else:
        words = "it was written"
    assert "--vmm-uri file:REST" in words, words
    assert not path.exists()


async def garbage_at_the_library_leaves_the_guest_alone(trials: Trials) -> None:
    path = f"{trials.here.control}.kvm"
    for garbage in (b"", b"\xff" * 64, b"\0" * 32, bytes([7, 0, 0, 0]) + b"\xff" * 60):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(garbage)
        writer.close()
        with suppress(OSError):
            await asyncio.wait_for(reader.read(), 10)
    await trials.require_alive(trials.here)


async def several_channels_and_a_digest_work(trials: Trials) -> None:
    there = await trials.destination()
    settings = MigrationSettings(downtime_limit=60_000, multifd=True, multifd_channels=2)
    request = MigrationRequest(
        there.tags_uri, settings=settings, verify=True, vmm_uri=there.vmm_uri
    )
    result = await migrate_vm(trials.here.control, request, _quiet)
    assert result.report.verified
    await _move_on(trials, there)


async def killed_source_sidecar_leaves_the_guest_here(trials: Trials) -> None:
    here = trials.here
    there = await trials.destination()
    async with connect(here.control) as client:
        await client.begin_migration(trials.request(there))
        await wait_for(lambda: _is_active(client), "pre-copy")
    trials.kill_sidecar(here)
    seen = len(here.progress)
    deadline = time.monotonic() + WAIT_S
    while len(here.progress) < seen + 3 and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    assert len(here.progress) >= seen + 3, "the guest does not run on"
    assert not here.failures
    assert not there.progress


async def new_process_beside_takes_over(trials: Trials) -> None:
    """After the trial before: the guest moves although the process beside it was killed once."""
    here = trials.here
    trials.attach(here)
    async with connect(trials.own_monitor(here)) as own:
        await own.execute("migrate_cancel")
        await wait_for(lambda: _is_cancelled(own), "the end of QEMU's migration")
    await wait_for(lambda: _answers(here.control), "the new process")
    there = await trials.destination()
    await migrate_vm(here.control, trials.request(there), _quiet)
    await _move_on(trials, there)


async def _is_cancelled(own: ControlClient) -> bool:
    return VmmMigration.from_qmp(await own.execute("query-migrate")).status == "cancelled"


async def _answers(control: Path) -> bool:
    with suppress(TagalongError):
        async with connect(control) as client:
            return await client.run_state() == "running"
    return False


ALL = (
    garbage_at_the_library_leaves_the_guest_alone,
    dump_has_memory_tags_and_registers,
    live_dump_says_that_it_is_of_different_moments,
    paused_guest_is_dumped_and_stays_paused,
    snapshot_is_refused_with_the_way_out,
    postcopy_is_refused_by_name,
    cancelled_migration_leaves_the_guest_here,
    killed_destination_vmm_leaves_the_guest_here,
    killed_destination_sidecar_leaves_the_guest_here,
    tags_after_the_vmm_has_migrated_still_arrive,
    tags_follow_a_migration_that_somebody_else_drives,
    several_channels_and_a_digest_work,
    guest_in_files_is_restored_with_its_tags,
    qemu_updated_in_place_keeps_tags,
    killed_source_sidecar_leaves_the_guest_here,
    new_process_beside_takes_over,
)


async def run_all(names: list[str]) -> int:
    status = 0
    with tempfile.TemporaryDirectory(prefix="beside-") as folder:
        trials = Trials(Path(folder))
        try:
            await trials.here.wait_for_reports(2, WAIT_S)
            for trial in ALL:
                if names and trial.__name__ not in names:
                    continue
                began = time.monotonic()
                try:
                    await trial(trials)
                except (AssertionError, TagalongError, OSError) as error:
                    status = 1
                    print(f"FAILED {trial.__name__}: {error!r} {getattr(error, '__notes__', '')}",
                          flush=True)  # fmt: skip
                    break  # the guest may be anywhere
                print(f"passed {trial.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
        finally:
            trials.close()
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(run_all(sys.argv[1:])))
