"""QEMU's own client package and its qmp-shell against our control socket."""

import asyncio
import json
import re
import stat
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from qemu.qmp import ConnectError, EventListener, ExecuteError, QMPClient
from qemu.qmp.qmp_client import ExecInterruptedError

from tagalong import __version__
from tagalong.qmp.framing import MAX_MESSAGE_BYTES
from tests.support.served_vm import ServedVm, served_vm

TIMEOUT_S = 60.0

Script = Callable[[QMPClient, ServedVm], Awaitable[None]]


def play(tmp_path: Path, script: Script) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), served_vm(tmp_path / "vm.sock") as served:
            qmp = QMPClient("test")
            await qmp.connect(str(served.path))
            try:
                await script(qmp, served)
            finally:
                await qmp.disconnect()

    asyncio.run(run())


async def collect(listener: EventListener, count: int) -> list[str]:
    events = [await listener.get() for _ in range(count)]
    return [" ".join([str(event["event"]), *said(event)]) for event in events]


def said(event: Mapping[str, object]) -> list[str]:
    """Return the values of an event's data, but for all that a migration's last one knows."""
    data = cast("dict[str, object]", event.get("data", {}))
    return [str(value) for name, value in data.items() if name != "x-info"]


def test_connect_client_accepts_greeting_and_negotiates(tmp_path: Path) -> None:
    async def script(qmp: QMPClient, served: ServedVm) -> None:
        assert qmp.greeting is not None
        greeting = cast("dict[str, Any]", qmp.greeting._asdict()["QMP"])
        assert greeting["version"]["package"] == f"tagalong {__version__}"
        assert greeting["capabilities"] == []
        assert stat.S_IMODE(served.path.stat().st_mode) == 0o600

    play(tmp_path, script)


def test_execute_commands_answer_in_qemus_forms(tmp_path: Path) -> None:
    async def script(qmp: QMPClient, _: ServedVm) -> None:
        assert await qmp.execute("query-status") == {"status": "prelaunch", "running": False}
        assert await qmp.execute("cont") == {}
        assert await qmp.execute("query-status") == {"status": "running", "running": True}
        commands = cast("list[dict[str, str]]", await qmp.execute("query-commands"))
        assert {"name": "migrate"} in commands
        assert await qmp.execute("query-migrate") == {}

    play(tmp_path, script)


def test_execute_refused_command_raises_execute_error_with_class_and_text(tmp_path: Path) -> None:
    async def script(qmp: QMPClient, _: ServedVm) -> None:
        with pytest.raises(ExecuteError, match=r"^The command device_add has not been found$") as e:
            await qmp.execute("device_add", {"driver": "e1000"})
        assert e.value.error_class == "CommandNotFound"
        with pytest.raises(ExecuteError, match=r"^Parameter 'uri' is missing$") as e:
            await qmp.execute("migrate")
        assert e.value.error_class == "GenericError"
        assert await qmp.execute("query-status") == {"status": "prelaunch", "running": False}

    play(tmp_path, script)


def test_events_arrive_in_order_for_every_client(tmp_path: Path) -> None:
    async def script(qmp: QMPClient, served: ServedVm) -> None:
        other = QMPClient("other")
        await other.connect(str(served.path))
        with qmp.listener() as mine, other.listener() as theirs:
            await qmp.execute("cont")
            await other.execute("stop")
            await qmp.execute("cont")
            expected = ["RESUME", "STOP", "RESUME"]
            assert await collect(mine, 3) == expected
            assert await collect(theirs, 3) == expected
        await other.disconnect()

    play(tmp_path, script)


def test_event_timestamp_is_now_in_qmps_form(tmp_path: Path) -> None:
    async def script(qmp: QMPClient, _: ServedVm) -> None:
        with qmp.listener() as listener:
            await qmp.execute("cont")
            event = await listener.get()
        timestamp = cast("dict[str, int]", event["timestamp"])
        assert set(timestamp) == {"seconds", "microseconds"}
        assert timestamp["seconds"] > 1_700_000_000
        assert 0 <= timestamp["microseconds"] < 1_000_000

    play(tmp_path, script)


def test_migrate_full_sequence_of_events_and_states(tmp_path: Path) -> None:
    async def script(qmp: QMPClient, served: ServedVm) -> None:
        await qmp.execute("cont")
        with qmp.listener() as listener:
            await qmp.execute("migrate", {"uri": "tcp:127.0.0.1:1"})
            assert await collect(listener, 3) == [
                "MIGRATION setup",
                "MIGRATION active",
                "MIGRATION_PASS 1",
            ]
            with pytest.raises(ExecuteError, match=r"^There's a migration process in progress$"):
                await qmp.execute("migrate", {"uri": "tcp:127.0.0.1:1"})
            served.migration.finish.set()
            assert await collect(listener, 2) == ["STOP", "MIGRATION completed"]
        info = cast("dict[str, object]", await qmp.execute("query-migrate"))
        assert info["status"] == "completed"
        assert info["downtime"] == 3
        assert await qmp.execute("query-status") == {"status": "postmigrate", "running": False}
        with pytest.raises(
            ExecuteError, match=r"^the VM was migrated to tcp:127.0.0.1:1, which owns it"
        ):
            await qmp.execute("cont")

    play(tmp_path, script)


def test_migrate_cancel_sequence_of_events(tmp_path: Path) -> None:
    async def script(qmp: QMPClient, _: ServedVm) -> None:
        await qmp.execute("cont")
        with qmp.listener() as listener:
            await qmp.execute("migrate", {"uri": "tcp:127.0.0.1:1"})
            await collect(listener, 3)
            await qmp.execute("migrate_cancel")
            assert await collect(listener, 2) == ["MIGRATION cancelling", "MIGRATION cancelled"]
        assert await qmp.execute("query-status") == {"status": "running", "running": True}

    play(tmp_path, script)


def test_dump_guest_memory_is_answered_when_it_is_complete(tmp_path: Path) -> None:
    async def script(qmp: QMPClient, served: ServedVm) -> None:
        await qmp.execute("cont")
        with qmp.listener() as listener:
            arguments = {"paging": False, "protocol": "file:/tmp/vm.core"}
            dumping = asyncio.ensure_future(qmp.execute("dump-guest-memory", arguments))
            assert await collect(listener, 1) == ["STOP"]
            assert not dumping.done()
            assert served.vm.state.value == "save-vm"
            served.storing.finish.set()
            resumed, completed = await collect(listener, 2)
            assert resumed == "RESUME"
            assert completed.startswith("DUMP_COMPLETED {'status': 'completed',")
            assert await dumping == {}
        assert served.storing.requests[0].path == Path("/tmp/vm.core")
        answer = cast("dict[str, object]", await qmp.execute("query-dump"))
        assert answer["status"] == "completed"

    play(tmp_path, script)


def test_dump_guest_memory_holds_up_its_own_client_alone(tmp_path: Path) -> None:
    async def script(qmp: QMPClient, served: ServedVm) -> None:
        await qmp.execute("cont")
        arguments = {"paging": False, "protocol": "file:/tmp/vm.core"}
        dumping = asyncio.ensure_future(qmp.execute("dump-guest-memory", arguments))
        other = QMPClient("other")
        await other.connect(str(served.path))
        status = cast("dict[str, object]", await other.execute("query-dump"))
        assert status["status"] == "active"
        with pytest.raises(ExecuteError, match=r"^there is a dump or a snapshot in progress$"):
            await other.execute("x-snapshot", {"protocol": "file:/tmp/x", "detach": True})
        await other.execute("x-dump-cancel")
        with pytest.raises(ExecuteError, match=r"^cancelled on request$"):
            await dumping
        await other.disconnect()
        assert await qmp.execute("query-status") == {"status": "running", "running": True}

    play(tmp_path, script)


def test_guest_power_off_is_an_event(tmp_path: Path) -> None:
    async def script(qmp: QMPClient, served: ServedVm) -> None:
        with qmp.listener() as listener:
            await qmp.execute("cont")
            served.machine.power_off()
            assert await collect(listener, 2) == ["RESUME", "SHUTDOWN True guest-shutdown"]

    play(tmp_path, script)


def test_quit_answers_and_announces_the_end(tmp_path: Path) -> None:
    async def script(qmp: QMPClient, _: ServedVm) -> None:
        with qmp.listener() as listener:
            assert await qmp.execute("quit") == {}
            assert await collect(listener, 1) == ["SHUTDOWN False host-qmp-quit"]

    play(tmp_path, script)


def test_oversized_message_ends_the_connection(tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), served_vm(tmp_path / "vm.sock") as served:
            qmp = QMPClient("test")
            await qmp.connect(str(served.path))
            with pytest.raises(ExecInterruptedError):
                await qmp.execute("migrate", {"uri": "x" * MAX_MESSAGE_BYTES})
            with pytest.raises(Exception, match="QMP message exceeds 65536 bytes"):
                await qmp.disconnect()

    asyncio.run(run())


def test_connect_without_server_fails(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(ConnectError):
            await QMPClient("test").connect(str(tmp_path / "nobody.sock"))

    asyncio.run(run())


def test_qmp_shell_runs_commands_from_its_standard_input(tmp_path: Path) -> None:
    async def run() -> str:
        async with asyncio.timeout(TIMEOUT_S), served_vm(tmp_path / "vm.sock") as served:
            shell = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                "from qemu.qmp.qmp_shell import main; main()",
                str(served.path),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            )
            script = b"query-status\ncont\nmigrate uri=tcp:host.example:1 x-verify=true\nnonsense\n"
            output, _ = await shell.communicate(script)
            assert shell.returncode == 0
            assert served.vm.state.value == "running"
            assert served.migration.requests[0].verify
            return output.decode()

    output = asyncio.run(run())

    replies = [json.loads(reply) for reply in re.findall(r'\{"(?:return|error)".*\}', output)]
    assert [sorted(set(reply) - {"id"}) for reply in replies] == [
        ["return"],
        ["return"],
        ["return"],
        ["error"],
    ]
    assert replies[0]["return"] == {"status": "prelaunch", "running": False}
    assert replies[3]["error"]["desc"] == "The command nonsense has not been found"
