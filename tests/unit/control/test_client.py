"""Our client against our server: results, errors in their own class, cancelling."""

import asyncio
import dataclasses
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from tagalong.control import client as client_module
from tagalong.control.client import ControlClient, connect
from tagalong.errors import (
    CommandError,
    ControlError,
    DigestMismatchError,
    MigrationCancelledError,
    MigrationError,
    RemoteProtocolError,
    TagalongError,
)
from tagalong.vmm.record import MigrationRequest
from tagalong.vmm.settings import MigrationSettings
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


def ignore(_: Mapping[str, object]) -> None:
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

    def watch(info: Mapping[str, object]) -> None:
        seen.append(info["status"])

    async def script(client: ControlClient, served: ServedVm) -> None:
        served.migration.finish.set()
        assert await client.migrate(REQUEST, watch) == {"downtime_ms": 3.0}
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


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (DigestMismatchError("they differ"), DigestMismatchError),
        (MigrationError("no route"), MigrationError),
        (RemoteProtocolError("type 0x0", offset=0x10), RemoteProtocolError),
    ],
)
def test_migrate_that_fails_raises_the_errors_own_class(
    tmp_path: Path, error: TagalongError, raised: type[TagalongError]
) -> None:
    async def script(client: ControlClient, served: ServedVm) -> None:
        served.migration.error = error
        served.migration.finish.set()
        with pytest.raises(raised, match=f"^{re.escape(str(error))}$") as caught:
            await client.migrate(REQUEST, ignore)
        assert type(caught.value) is raised
        assert caught.value.exit_code == error.exit_code

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
        with pytest.raises(MigrationCancelledError, match=r"^cancelled on request$"):
            await client.cancel_migration(ignore)
        assert await client.run_state() == "running"

    play(tmp_path, script)


def test_cancel_migration_too_late_returns_the_report(tmp_path: Path) -> None:
    async def script(client: ControlClient, served: ServedVm) -> None:
        served.migration.finish.set()
        await client.migrate(REQUEST, ignore)
        assert await client.cancel_migration(ignore) == {"downtime_ms": 3.0}

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
        with pytest.raises(ControlError, match=f"^no QMP greeting from {path} in 0 s$"):
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
