"""What can happen to a migration beside QEMU, on real QEMUs: run inside the lab, one boot for all.

    tagalong lab run --with-vmm --ram 4G -- \
        python3 -m tests.support.beside_trials [--seconds N] [NAME...]

One Linux guest, whose tagkeeper must never find a granule wrong, goes through all of them: it is
where each of them leaves it, and moves on from there. NAME is that of a trial, or FAULT@STAGE of
tests/support/beside_faults.py; `short` stands for those that `make test` runs, `modes` for what
QEMU can be told to do, `faults` for the whole table of faults. Prints a line per trial; status 1 if
one failed. After N seconds no further trial begins, and a last line names those that are left.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from tagalong.control.client import ControlClient, connect
from tagalong.control.migration import migrate_vm, start_migration
from tagalong.errors import TagalongError
from tagalong.qapi.migration import MigrationRequest, MigrationStatus
from tagalong.qapi.settings import MigrationSettings
from tests.support.beside_dumps import DUMPS
from tests.support.beside_faults import SHORT, TABLE, run_case, run_with_another_destination
from tests.support.beside_modes import MODES, set_capabilities
from tests.support.beside_scene import (
    SETTINGS,
    Scene,
    failure_of,
    has_moved,
    quiet,
    until,
    wait_for,
)

Trial = Callable[[Scene], Awaitable[None]]

_WAITS = "go with the VMM's next migration"


# --- refused by name, before anything moves ---


async def last_tags_that_take_too_long_are_refused(scene: Scene) -> None:
    """The guest is stopped for no longer than allowed, and runs on."""
    there = await scene.destination()
    request = scene.request(there, settings=MigrationSettings(downtime_limit=1))
    words = await failure_of(migrate_vm(scene.here.control, request, quiet))
    assert "--max-downtime" in words, words
    assert not there.progress
    scene.end(there)
    await scene.require_alive(scene.here)


# --- somebody else drives QEMU ---


async def tags_after_the_vmm_has_migrated_still_arrive(scene: Scene) -> None:
    """Somebody migrates without tags: the guest is held, and its tags follow."""
    there = await scene.destination()
    async with connect(scene.own_monitor(scene.here)) as own:
        await own.execute("migrate", {"uri": there.vmm_uri})
        await wait_for(partial(has_moved, own), "QEMU's migration")
    async with connect(there.control) as client:
        await wait_for(partial(_is_running, client), "the destination's QEMU to go on")
    assert not there.progress, "it ran without its tags"
    await migrate_vm(scene.here.control, scene.request(there, driven=False), quiet)
    await scene.move_on(there)


async def _is_running(client: ControlClient) -> bool:
    return await client.run_state() == "running"


async def tags_follow_a_migration_that_somebody_else_drives(scene: Scene) -> None:
    there = await scene.destination()
    await start_migration(scene.here.control, scene.request(there, driven=False))
    async with connect(scene.own_monitor(scene.here)) as own:
        await own.execute("migrate", {"uri": there.vmm_uri})
        await wait_for(partial(has_moved, own), "QEMU's migration")
    await scene.move_on(there)


async def tags_follow_a_driver_that_pauses_before_the_switchover(scene: Scene) -> None:
    """As libvirt does: its own pause-before-switchover, continued as soon as it can."""
    there = await scene.destination()
    await start_migration(scene.here.control, scene.request(there, driven=False))
    async with connect(scene.own_monitor(scene.here)) as own:
        await set_capabilities(own, {"pause-before-switchover": True, "events": True})
        await own.execute("migrate", {"uri": there.vmm_uri})
        await wait_for(partial(_is_at, own, "pre-switchover"), "QEMU's pause")
        await own.execute("migrate-continue", {"state": "pre-switchover"})
        await wait_for(partial(has_moved, own), "QEMU's migration")
    await scene.move_on(there)


async def standing_destination_gets_the_tags_of_the_next_attempt(scene: Scene) -> None:
    """A driver cancels its migration and begins another: the tags follow, told once."""
    here, there = scene.here, await scene.destination()
    await start_migration(here.control, scene.request(there, driven=False, standing=True))
    await until(lambda: _WAITS in here.messages, "the tags to wait for QEMU's migration")
    said = here.messages.count(_WAITS)
    async with connect(scene.own_monitor(here)) as own:
        await set_capabilities(own, {"pause-before-switchover": True, "events": True})
        await own.execute("migrate", {"uri": f"exec:cat >{scene.folder}/thrown-away"})
        await wait_for(partial(_is_at, own, "pre-switchover"), "QEMU's pause")
        await own.execute("migrate_cancel")
        await wait_for(partial(_is_at, own, "cancelled"), "QEMU's cancellation")
        await until(lambda: here.messages.count(_WAITS) > said, "the tags to wait again")
        await scene.require_alive(here)
        assert not there.progress
        await own.execute("migrate", {"uri": there.vmm_uri})
        await wait_for(partial(_is_at, own, "pre-switchover"), "QEMU's pause")
        await own.execute("migrate-continue", {"state": "pre-switchover"})
        await wait_for(partial(has_moved, own), "QEMU's migration")
    await scene.move_on(there)


async def _is_at(own: ControlClient, status: str) -> bool:
    answer = await own.execute("query-migrate")
    assert isinstance(answer, dict)
    return answer.get("status") == status


# --- other ways for the two streams ---


async def several_channels_and_a_digest_work(scene: Scene) -> None:
    there = await scene.destination()
    settings = MigrationSettings(downtime_limit=60_000, multifd=True, multifd_channels=2)
    request = MigrationRequest(
        there.tags_uri, settings=settings, verify=True, vmm_uri=there.vmm_uri
    )
    result = await migrate_vm(scene.here.control, request, quiet)
    assert result.report.verified
    assert result.vmm is not None
    assert 0 < result.vmm.tags_ms <= result.vmm.downtime_ms + 1, result.vmm
    await scene.move_on(there)


async def guest_in_files_is_restored_with_its_tags(scene: Scene) -> None:
    """Both streams go into files, and come back from there in new processes."""
    folder, before = scene.folder, scene.here
    tags, ram = f"file:{folder}/saved.tags", f"file:{folder}/saved.ram"
    request = MigrationRequest(tags, settings=SETTINGS, vmm_uri=ram)
    await migrate_vm(before.control, request, quiet)
    scene.end(before)
    await scene.move_on(scene.host(awaits=True, uris=(tags, ram)))


async def guest_in_a_mapped_ram_file_is_restored_with_its_tags(scene: Scene) -> None:
    """QEMU's mapped-ram, written by multifd: set in QEMU, by its own monitor, at both ends."""
    folder, before = scene.folder, scene.here
    tags, ram = f"file:{folder}/mapped.tags", f"file:{folder}/mapped.ram"
    wanted = {"mapped-ram": True, "multifd": True}
    async with connect(scene.own_monitor(before)) as own:
        await set_capabilities(own, wanted)
    request = MigrationRequest(tags, settings=SETTINGS, vmm_uri=ram)
    await migrate_vm(before.control, request, quiet)
    scene.end(before)
    there = scene.host(awaits=True, uris=(tags, "defer"))
    await until(scene.own_monitor(there).exists, "QEMU's start")
    async with connect(scene.own_monitor(there)) as own:
        await set_capabilities(own, wanted)
        await own.execute("migrate-incoming", {"uri": ram})
    await scene.move_on(there)


# --- an order, or a peer, at any time ---


async def garbage_at_the_library_leaves_the_guest_alone(scene: Scene) -> None:
    path = f"{scene.here.control}.kvm"
    for garbage in (b"", b"\xff" * 64, b"\0" * 32, bytes([7, 0, 0, 0]) + b"\xff" * 60):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(garbage)
        writer.close()
        with suppress(OSError):
            await asyncio.wait_for(reader.read(), 10)
    await scene.require_alive(scene.here)


async def order_that_waits_for_the_vmm_is_cancelled(scene: Scene) -> None:
    there = await scene.destination()
    async with connect(scene.here.control) as client:
        await client.begin_migration(scene.request(there, driven=False))
        assert (await client.migration()).status is MigrationStatus.SETUP
        words = await failure_of(client.cancel_migration(quiet))
    assert "cancelled" in words, words
    scene.keep_destination(there)


TRIALS: tuple[Trial, ...] = (
    garbage_at_the_library_leaves_the_guest_alone,
    *DUMPS,
    order_that_waits_for_the_vmm_is_cancelled,
    run_with_another_destination,
    last_tags_that_take_too_long_are_refused,
    tags_after_the_vmm_has_migrated_still_arrive,
    tags_follow_a_migration_that_somebody_else_drives,
    tags_follow_a_driver_that_pauses_before_the_switchover,
    standing_destination_gets_the_tags_of_the_next_attempt,
    several_channels_and_a_digest_work,
    guest_in_files_is_restored_with_its_tags,
    guest_in_a_mapped_ram_file_is_restored_with_its_tags,
    *MODES,
)

_TRIALS = {trial.__name__: trial for trial in TRIALS}
_CASES: dict[str, Trial] = {case.name: partial(run_case, case=case) for case in TABLE}
_GROUPS = {
    "faults": list(_CASES),
    "modes": [trial.__name__ for trial in MODES],
    "short": [
        *(case.name for case in SHORT),
        several_channels_and_a_digest_work.__name__,
    ],
}


def chosen(words: list[str]) -> dict[str, Trial]:
    """Return the trials of a command line, by name; all of them for an empty one."""
    known = {**_TRIALS, **_CASES}
    names = [name for word in words for name in _GROUPS.get(word, [word])] or list(known)
    return {name: known[name] for name in names}


async def run_all(trials: dict[str, Trial], seconds: float) -> int:
    until_s, left = time.monotonic() + seconds, list(trials)
    with tempfile.TemporaryDirectory(prefix="beside-") as folder:
        scene = Scene(Path(folder))
        try:
            await scene.require_alive(scene.here)
            for name, trial in trials.items():
                began = time.monotonic()
                if began > until_s:
                    print(f"left {' '.join(left)}", flush=True)
                    break
                try:
                    await trial(scene)
                except (AssertionError, TagalongError, OSError) as error:
                    notes = "\n".join(getattr(error, "__notes__", ()))
                    print(f"FAILED {name}: {error!r} {notes}\n{scene.last_words}", flush=True)
                    return 1  # the guest may be anywhere
                left.remove(name)
                print(f"passed {name} ({time.monotonic() - began:.1f} s)", flush=True)
        finally:
            scene.close()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    return asyncio.run(run_all(chosen(options.names), options.seconds))


if __name__ == "__main__":
    sys.exit(main())
