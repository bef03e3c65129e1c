"""Controlling a VM: what the small commands do when the VM goes away meanwhile."""

import asyncio
from pathlib import Path

import pytest

from tagalong.control.client import connect
from tagalong.control.vm_control import cancel_work, follow_events, quit_vm
from tagalong.errors import CommandError
from tagalong.qapi.events import VmEvent
from tests.support.served_thread import served_in_thread

TIMEOUT_S = 60.0


def test_events_of_a_connection_that_has_ended_end_at_once(tmp_path: Path) -> None:
    async def run(path: Path) -> list[VmEvent]:
        async with asyncio.timeout(TIMEOUT_S), connect(path) as client:
            await client._qmp.disconnect()
            return [event async for event in client.events()]

    with served_in_thread(tmp_path / "vm.sock") as vm:
        assert asyncio.run(run(vm.served.path)) == []


def test_events_are_all_there_when_the_connection_ends_right_after_them(tmp_path: Path) -> None:
    seen: list[str] = []

    async def run(path: Path) -> bool:
        async with asyncio.timeout(TIMEOUT_S):
            following = asyncio.ensure_future(follow_events(path, lambda e: seen.append(e.name)))
            async with connect(path) as client:
                while not {"RESUME", "STOP"} <= set(seen):
                    await client.execute("cont")
                    await client.execute("stop")
            await quit_vm(path)
            return await following

    with served_in_thread(tmp_path / "vm.sock", ends_at_quit=True) as vm:
        assert asyncio.run(run(vm.served.path)) is False
    assert seen[-1] == "SHUTDOWN"
    assert set(seen) == {"RESUME", "STOP", "SHUTDOWN"}


def test_cancelling_a_migration_to_here_is_refused(tmp_path: Path) -> None:
    """Its source decides, so the end of it would be waited for in vain."""

    async def run(path: Path) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await cancel_work(path)

    with (
        served_in_thread(tmp_path / "vm.sock", is_awaited=True) as vm,
        pytest.raises(CommandError, match="cancel its migration at the source, or end this"),
    ):
        asyncio.run(run(vm.served.path))
