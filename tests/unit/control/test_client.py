"""Our client against our server: results, errors in their own class, cancelling."""

import asyncio
import dataclasses
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from qemu.qmp import Message

from tagalong.control import client as client_module
from tagalong.control.client import ControlClient, connect
from tagalong.errors import (
    CommandError,
    ControlError,
    DigestMismatchError,
    GuestEndedError,
    MigrationError,
    MigrationStage,
    RemoteError,
    RemoteProtocolError,
)
from tagalong.qapi.migration import MigrationInfo, MigrationRequest
from tagalong.qapi.settings import MigrationSettings
from tests.support.results import migration_result
from tests.support.served_vm import ServedVm, served_vm

TIMEOUT_S = 60.0
REQUEST = MigrationRequest("tcp:host.example:1", MigrationSettings(downtime_limit=42), verify=True)


def play(tmp_path: Path, script: Callable[[ControlClient, ServedVm], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(TIMEOUT_S),
            served_vm(tmp_path / "vm.sock") as served,
            connect(served.path) as client,
        ):
            await script(client, served)

    asyncio.run(run())


def ignore(_: MigrationInfo) -> None:
    pass


def test_execute_returns_the_commands_value(tmp_path: Path) -> None:
    async def script(client: ControlClient, _: ServedVm) -> None:
        assert await client.execute("query-status") == {"status": "prelaunch", "running": False}
        assert await client.execute("cont") == {}
        assert await client.run_state() == "running"

    play(tmp_path, script)


def test_execute_refused_command_raises_command_error_with_the_reason(tmp_path: Path) -> None:
    async def script(client: ControlClient, _: ServedVm) -> None:
        with pytest.raises(
            CommandError, match=r"^the VM refused frob: The command frob has not been found$"
        ):
            await client.execute("frob")

    play(tmp_path, script)


def test_migrate_returns_the_report_and_passes_the_request(tmp_path: Path) -> None:
    seen: list[object] = []

    def watch(info: MigrationInfo) -> None:
        seen.append(info.status.value)

    async def script(client: ControlClient, served: ServedVm) -> None:
        served.migration.finish.set()
        assert await client.migrate(REQUEST, watch) == migration_result()
        assert served.migration.requests == [REQUEST]

    play(tmp_path, script)
    assert seen[-1] == "completed"


def test_migrate_passes_the_access_strategy(tmp_path: Path) -> None:
    request = dataclasses.replace(REQUEST, access="sp")

    async def script(client: ControlClient, served: ServedVm) -> None:
        served.migration.finish.set()
        await client.migrate(request, lambda _: None)
        assert served.migration.requests == [request]

    play(tmp_path, script)


def test_migrate_leaves_the_steps_of_auto_converge_as_they_were_set(tmp_path: Path) -> None:
    async def script(client: ControlClient, served: ServedVm) -> None:
        steps = {"cpu-throttle-initial": 50, "max-bandwidth": 1000}
        await client.execute("migrate-set-parameters", steps)
        served.migration.finish.set()
        await client.migrate(REQUEST, ignore)
        settings = served.migration.requests[0].settings
        assert (settings.cpu_throttle_initial, settings.max_bandwidth) == (50, 0)

    play(tmp_path, script)


def test_migrate_that_fails_raises_one_remote_error_with_the_class_and_status_of_the_vms(
    tmp_path: Path,
) -> None:
    late = MigrationError("no route")
    late.stage = MigrationStage.STATE
    errors = (DigestMismatchError("they differ"), late, RemoteProtocolError("type 0x0", offset=16))

    async def script(client: ControlClient, served: ServedVm) -> None:
        served.migration.finish.set()
        for error in errors:
            served.migration.error = error
            with pytest.raises(RemoteError, match=f"^{re.escape(str(error))}$") as caught:
                await client.migrate(REQUEST, ignore)
            assert caught.value.class_name == type(error).__name__
            assert caught.value.exit_code == error.exit_code
            assert caught.value.stage is getattr(error, "stage", None)

    play(tmp_path, script)


def test_cancel_migration_raises_that_it_was_cancelled(tmp_path: Path) -> None:
    async def script(client: ControlClient, served: ServedVm) -> None:
        await client.execute("cont")
        waiting = asyncio.create_task(client.migrate(REQUEST, ignore))
        while not served.migration.requests:
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(RemoteError, match=r"^cancelled on request$") as caught:
            await client.cancel_migration(ignore)
        assert caught.value.class_name == "MigrationCancelledError"
        assert await client.run_state() == "running"

    play(tmp_path, script)


def test_cancel_migration_too_late_returns_the_report(tmp_path: Path) -> None:
    async def script(client: ControlClient, served: ServedVm) -> None:
        served.migration.finish.set()
        await client.migrate(REQUEST, ignore)
        assert await client.cancel_migration(ignore) == migration_result()

    play(tmp_path, script)


def test_connect_nobody_there_raises_control_error(tmp_path: Path) -> None:
    path = tmp_path / "nobody.sock"

    async def run() -> None:
        async with connect(path):
            pass

    with pytest.raises(ControlError, match=f"^cannot connect to the control socket {path}: "):
        asyncio.run(run())


def test_connect_silent_listener_raises_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_CONNECT_TIMEOUT_S", 0.05)
    path = tmp_path / "silent.sock"

    async def run() -> None:
        async with connect(path):
            pass

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(ControlError, match=f"^no QMP greeting from {path} in 0 s: see whether"):
            asyncio.run(run())


def test_connect_to_something_else_raises_control_error(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ready\r\n")
        await writer.drain()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_unix_server(talk, str(path)), connect(path):
            pass

    with pytest.raises(ControlError, match="Did not understand Greeting"):
        asyncio.run(run())


def test_lost_connection_raises_control_error(tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            async with served_vm(tmp_path / "vm.sock") as served:
                opened = connect(served.path)
                client = await opened.__aenter__()
            with pytest.raises(ControlError, match=r"^lost the control socket"):
                await client.execute("query-status")
            await opened.__aexit__(None, None, None)

    asyncio.run(run())


def test_migrate_learns_how_it_ended_although_the_vms_process_ends_at_once(tmp_path: Path) -> None:
    """What a source says last are events: the guest powers off, and the connection ends."""

    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            serving = served_vm(tmp_path / "vm.sock")
            served = await serving.__aenter__()
            async with connect(served.path) as client:
                await client.execute("cont")
                waiting = asyncio.create_task(client.migrate(REQUEST, ignore))
                while not served.migration.requests:
                    await asyncio.sleep(0.001)
                served.machine.power_off()
                await served.vm.ended
                await serving.__aexit__(None, None, None)
                with pytest.raises(RemoteError, match=r"^the guest powered off") as caught:
                    await waiting
                assert caught.value.exit_code == GuestEndedError.exit_code
                assert client.shutdown_reason == "guest-shutdown"

    asyncio.run(run())


def test_events_of_a_vm_that_floods_them_cost_no_memory() -> None:
    async def run() -> None:
        news = client_module._News()
        for number in range(10_000):
            await news.put(Message({"event": "MIGRATION", "data": {"number": number}}))
        assert news.history == ()
        assert news.empty()
        assert news.last == {"MIGRATION": {"number": 9999}}

    asyncio.run(run())


def test_prepared_command_is_sent_by_another_thread(tmp_path: Path) -> None:
    async def script(client: ControlClient, _: ServedVm) -> None:
        prepared = await client.prepare("cont", {})
        assert await client.run_state() == "prelaunch"  # nothing was sent so far

        assert await asyncio.to_thread(prepared.send)

        await client.answered("cont", prepared)
        assert await client.run_state() == "running"
        prepared.close()
        prepared.close()

    play(tmp_path, script)


def test_prepared_command_that_is_refused_raises_the_reason(tmp_path: Path) -> None:
    async def script(client: ControlClient, _: ServedVm) -> None:
        prepared = await client.prepare("no-such-command", {})
        assert prepared.send()

        with pytest.raises(
            CommandError, match=r"the VM refused no-such-command: .* not been found"
        ):
            await client.answered("no-such-command", prepared)
        prepared.close()

    play(tmp_path, script)


def test_prepared_command_that_is_not_sent_leaves_the_connection_as_it_was(tmp_path: Path) -> None:
    async def script(client: ControlClient, _: ServedVm) -> None:
        prepared = await client.prepare("cont", {})
        prepared.close()

        assert await client.run_state() == "prelaunch"
        assert not prepared.send()

    play(tmp_path, script)


def test_prepared_command_without_a_connection_is_not_sent(tmp_path: Path) -> None:
    async def script(client: ControlClient, _: ServedVm) -> None:
        prepared = await client.prepare("cont", {})
        await client._qmp.disconnect()

        assert not prepared.send()
        with pytest.raises(ControlError, match="lost the control socket"):
            await client.answered("cont", prepared)
        prepared.close()

    play(tmp_path, script)


def test_tapped_events_come_before_those_that_are_waited_for(tmp_path: Path) -> None:
    async def script(client: ControlClient, _: ServedVm) -> None:
        tapped: list[str] = []
        client.tap_events(lambda event: tapped.append(event.name))
        events = client.events()
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await client.execute("cont")

        assert (await first).name == "RESUME"
        assert tapped == ["RESUME"]

    play(tmp_path, script)
