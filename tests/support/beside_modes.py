"""Trials of what QEMU can be told to do when it migrates: by beside_trials, inside the lab."""

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from tagalong.control.client import ControlClient, connect
from tagalong.control.migration import await_migration, migrate_vm, start_migration
from tagalong.qapi.migration import MigrationRequest
from tests.support.beside_scene import (
    SETTINGS,
    VMM,
    Scene,
    answers,
    failure_of,
    has_moved,
    quiet,
    until,
    wait_for,
)

Trial = Callable[[Scene], Awaitable[None]]


async def set_capabilities(own: ControlClient, wanted: dict[str, bool]) -> None:
    entries = [{"capability": name, "state": state} for name, state in wanted.items()]
    await own.execute("migrate-set-capabilities", {"capabilities": entries})


async def probe_says_that_this_qemu_can(scene: Scene) -> None:
    """The probe lets QEMU make a VM of its own, which never runs."""
    run = subprocess.run(
        [sys.executable, "-m", "tagalong", "probe", "--vmm", str(VMM / "qemu"), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    findings = json.loads(run.stdout)
    for name in ("beside_library", "beside_qemu", "beside_guest"):
        assert findings[name]["answer"] == "yes", findings[name]
    await scene.require_alive(scene.here)


# --- refused by name, before anything moves ---


async def postcopy_is_refused_by_name(scene: Scene, *, driven: bool) -> None:
    """Whether QEMU is ours to drive, or another client's that has not begun."""
    there = await scene.destination()
    request = scene.request(there, driven=driven)
    async with connect(scene.own_monitor(scene.here)) as own:
        await set_capabilities(own, {"postcopy-ram": True})
        words = await failure_of(migrate_vm(scene.here.control, request, quiet))
        await set_capabilities(own, {"postcopy-ram": False})
        assert not await own.execute("query-migrate")
    assert "postcopy-ram" in words, words
    await scene.require_alive(scene.here)
    scene.keep_destination(there)  # nothing has connected to it


async def dirty_ring_is_refused_by_name(scene: Scene) -> None:
    run = subprocess.run(
        [*_beside(scene.folder / "ring"), "-M", "virt", "-accel", "kvm,dirty-ring-size=4096",
         "-cpu", "host"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2, run
    assert "dirty-ring-size" in run.stderr, run.stderr


async def dirty_ring_that_no_option_shows_is_refused_by_name(scene: Scene) -> None:
    """The library sees it; QEMU is not told to migrate."""
    control, config = scene.folder / "hidden.sock", scene.folder / "ring.cfg"
    config.write_text('[accel]\n  accel = "kvm"\n  dirty-ring-size = "4096"\n')
    command = [
        *_beside(control), "-readconfig", str(config), "-M", "virt,gic-version=3", "-cpu", "host",
        "-m", "64M", "-nodefaults", "-no-user-config", "-display", "none", "-S",
    ]  # fmt: skip
    uri = f"unix:{scene.folder}/nowhere"
    with (scene.folder / "hidden.messages").open("wb") as messages:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=messages)
    try:
        await wait_for(lambda: answers(control, "prelaunch"), "QEMU with a dirty ring")
        for vmm_uri in (None, f"{uri}.ram"):
            request = MigrationRequest(uri, settings=SETTINGS, vmm_uri=vmm_uri)
            words = await failure_of(migrate_vm(control, request, quiet))
            assert "without dirty-ring-size" in words, words
    finally:
        process.terminate()
        process.wait()


def _beside(control: Path) -> list[str]:
    return [sys.executable, "-m", "tagalong", "beside", "--control", str(control), "--",
            str(VMM / "qemu")]  # fmt: skip


# --- QEMU's own stream ---


async def qemu_multifd_over_tls_works(scene: Scene, *, compression: str) -> None:
    """What QEMU can do for its own stream is set in QEMU, and stays as it is."""
    (scene.folder / "keys.psk").write_text(f"qemu:{'5a' * 32}\n")
    uri = f"unix:{scene.folder}/{compression}.ram"
    tags_uri = f"unix:{scene.folder}/{compression}.tags"
    there = scene.host(awaits=True, uris=(tags_uri, "defer"))
    await until(lambda: "waiting for tags" in there.messages, "a destination")
    for host, endpoint in ((there, "server"), (scene.here, "client")):
        async with connect(scene.own_monitor(host)) as own:
            await _set_up_streams(own, scene.folder, endpoint, compression)
            if host is there:
                await own.execute("migrate-incoming", {"uri": uri})
    request = MigrationRequest(there.tags_uri, settings=SETTINGS, vmm_uri=uri)
    result = await migrate_vm(scene.here.control, request, quiet)
    async with connect(scene.own_monitor(scene.here)) as own:
        answer = await own.execute("query-migrate")
        parameters = await own.execute("query-migrate-parameters")
    assert isinstance(answer, dict)
    assert answer["ram"]["multifd-bytes"] > 0, answer
    assert isinstance(parameters, dict)
    assert parameters["multifd-compression"] == compression
    assert parameters["tls-creds"] == "tls"
    assert result.vmm is not None
    async with connect(scene.own_monitor(there)) as own:
        await set_capabilities(own, {"multifd": False})
        plain = {"tls-creds": "", "multifd-compression": "none"}
        await own.execute("migrate-set-parameters", plain)
        await own.execute("object-del", {"id": "tls"})
    await scene.move_on(there)


async def _set_up_streams(
    own: ControlClient, folder: Path, endpoint: str, compression: str
) -> None:
    psk = {"qom-type": "tls-creds-psk", "id": "tls", "dir": str(folder), "endpoint": endpoint}
    user = {} if endpoint == "server" else {"username": "qemu"}
    await own.execute("object-add", {**psk, **user})
    wanted = {"tls-creds": "tls", "multifd-channels": 2, "multifd-compression": compression}
    await own.execute("migrate-set-parameters", wanted)
    await set_capabilities(own, {"multifd": True})


async def destination_that_starts_paused_runs_when_it_is_told_to(scene: Scene) -> None:
    """With -S QEMU leaves the start to its operator, and the tags are no order to start."""
    there = scene.host(awaits=True, more=["-S"])
    await until(lambda: "waiting for tags" in there.messages, "a destination")
    await migrate_vm(scene.here.control, scene.request(there), quiet)
    await wait_for(lambda: answers(there.control, "paused"), "a paused guest")
    assert not there.progress
    async with connect(there.control) as client:
        await client.execute("cont")
    await scene.move_on(there)


# --- an update in place ---


class _Update:
    """QEMU's cpr-transfer: a QEMU whose memory is shared, and the one that takes its place."""

    MEMORY = (
        "-M", "aux-ram-share=on,memory-backend=m",
        "-object", "memory-backend-memfd,id=m,size=128M,share=on",
    )  # fmt: skip

    def __init__(self, scene: Scene, name: str) -> None:
        self._scene = scene
        self._channel = {
            "transport": "socket", "type": "unix", "path": f"{scene.folder}/{name}.cpr",
        }  # fmt: skip
        self._cpr = {"channel-type": "cpr", "addr": self._channel}
        self.here = scene.host(awaits=False, more=self.MEMORY)

    async def successor(self) -> None:
        """Start the QEMU that waits for the other's memory."""
        self.there = self._scene.host(
            awaits=True, more=[*self.MEMORY, "-incoming", json.dumps(self._cpr)]
        )
        await until(Path(str(self._channel["path"])).exists, "QEMU's cpr socket")

    async def run(self) -> None:
        """Let QEMU hand its guest's memory over, by a monitor of its operator's."""
        main = {**self._channel, "path": self.there.vmm_uri.removeprefix("unix:")}
        async with connect(self._scene.own_monitor(self.here)) as own:
            await own.execute("migrate-set-parameters", {"mode": "cpr-transfer"})
            channels = [{"channel-type": "main", "addr": main}, self._cpr]
            await own.execute("migrate", {"channels": channels})
            await wait_for(partial(has_moved, own), "QEMU's update")


async def qemu_updated_in_place_keeps_tags_where_they_are(scene: Scene) -> None:
    """The new QEMU has the guest's memory, tags and all: they are compared, and none is sent."""
    update = _Update(scene, "update")
    await scene.require_alive(update.here)
    await update.successor()
    await start_migration(update.here.control, scene.request(update.there, driven=False))
    await update.run()
    result = await await_migration(update.here.control, quiet)
    assert result.report.tags_in_place, result.report
    assert result.report.verified
    assert result.report.tag_bytes_wire == 0
    assert result.report.bytes_sent < 1 << 16, result.report  # ROUNDs while QEMU gets ready
    await scene.require_alive(update.there)
    scene.end(update.here)
    await scene.require_alive(update.there)
    scene.end(update.there)


def _named(name: str, trial: Callable[..., Awaitable[None]], **choices: object) -> Trial:
    chosen: Trial = partial(trial, **choices)
    chosen.__name__ = name
    return chosen


MODES: tuple[Trial, ...] = (
    probe_says_that_this_qemu_can,
    dirty_ring_is_refused_by_name,
    dirty_ring_that_no_option_shows_is_refused_by_name,
    _named("postcopy_is_refused_by_name", postcopy_is_refused_by_name, driven=True),
    _named(
        "postcopy_is_refused_when_another_tool_drives", postcopy_is_refused_by_name, driven=False
    ),
    destination_that_starts_paused_runs_when_it_is_told_to,
    _named("qemu_multifd_over_tls_works", qemu_multifd_over_tls_works, compression="none"),
    _named("qemu_compressed_multifd_works", qemu_multifd_over_tls_works, compression="zlib"),
    qemu_updated_in_place_keeps_tags_where_they_are,
)
