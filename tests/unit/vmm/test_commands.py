"""The QMP commands: names, arguments, answers."""

import asyncio
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from tagalong.core import Space
from tagalong.devices import VirtioBackings
from tagalong.errors import (
    MigrationError,
    RunStateError,
    SnapshotCancelledError,
    TagalongError,
    UsageError,
)
from tagalong.machine import Machine
from tagalong.qapi.cpus import CpuInfo
from tagalong.qapi.migration import MigrationRequest, SocketAddress
from tagalong.qapi.reports import MigrationResult, SaveResult
from tagalong.qapi.saving import SaveKind, SaveRequest
from tagalong.qapi.settings import MigrationSettings
from tagalong.qmp.messages import ErrorClass, QmpError
from tagalong.vmm.commands import VmCommands
from tagalong.vmm.device_queries import DeviceQueries
from tagalong.vmm.outgoing import Outgoing
from tagalong.vmm.record import MigrationRecord
from tagalong.vmm.saving import SavedVm, Saving
from tagalong.vmm.vm import Ending, ShutdownReason, Vm
from tests.support.results import save_result
from tests.support.scripted_machine import ScriptedMachine


class Awaited:
    """A VM that is awaited; `addresses` are those that it was moved to."""

    def __init__(self) -> None:
        self.record = MigrationRecord(
            socket_address=SocketAddress("inet", {"host": "127.0.0.1", "port": "4711"})
        )
        self.addresses: list[str] = []

    def recover(self, uri: str) -> None:
        self.addresses.append(uri)


class Scene:
    """The commands of a VM in prelaunch; `requests` are the migrations asked for."""

    def __init__(self, incoming: Awaited | None = None) -> None:
        self.requests: list[MigrationRequest] = []
        self.machine = ScriptedMachine()
        self.vm = Vm(lambda _: None)
        self.vm.create(self.machine)
        self.outgoing = Outgoing(self.vm, self._refuse_after_noting)
        self.saves: list[SaveRequest] = []
        self.saved = threading.Event()
        self.saving = Saving(SavedVm(self.vm, self._save), lambda _: None)
        self.commands = VmCommands(
            self.vm,
            self.outgoing,
            lambda: incoming,
            self.saving,
            DeviceQueries(self.vm, VirtioBackings()),
        )

    def _refuse_after_noting(
        self, _machine: Machine, request: MigrationRequest, _progress: object, *_: object
    ) -> MigrationResult:
        self.requests.append(request)
        raise MigrationError("not in this test")

    def _save(
        self,
        _machine: Machine,
        request: SaveRequest,
        _progress: object,
        cancelled: threading.Event,
        _freezer: object,
    ) -> SaveResult:
        self.saves.append(request)
        while not self.saved.wait(0.001):
            if cancelled.is_set():
                raise SnapshotCancelledError("cancelled")
        return save_result(copied_bytes=5000)

    def run(self, command: str, **arguments: object) -> object:
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self.commands.execute(command, names)


def play(script: Callable[[Scene], None], incoming: Awaited | None = None) -> Scene:
    async def run() -> Scene:
        scene = Scene(incoming)
        script(scene)
        await scene.outgoing.cancel_and_wait(10)
        await scene.saving.cancel_and_wait(10)
        return scene

    return asyncio.run(run())


def test_execute_unknown_command_is_refused_as_qemu_does() -> None:
    def script(scene: Scene) -> None:
        with pytest.raises(
            QmpError, match=r"^The command device_add has not been found$"
        ) as caught:
            scene.run("device_add")
        assert caught.value.error_class is ErrorClass.COMMAND_NOT_FOUND

    play(script)


def test_query_commands_lists_exactly_what_there_is() -> None:
    def script(scene: Scene) -> None:
        entries = cast("list[dict[str, str]]", scene.run("query-commands"))
        assert [entry["name"] for entry in entries] == [
            "closefd",
            "cont",
            "dump-guest-memory",
            "getfd",
            "migrate",
            "migrate-pause",
            "migrate-recover",
            "migrate-set-capabilities",
            "migrate-set-parameters",
            "migrate_cancel",
            "qmp_capabilities",
            "query-block",
            "query-chardev",
            "query-commands",
            "query-cpus-fast",
            "query-dump",
            "query-dump-guest-memory-capability",
            "query-migrate",
            "query-migrate-capabilities",
            "query-migrate-parameters",
            "query-status",
            "query-version",
            "quit",
            "stop",
            "system_powerdown",
            "system_reset",
            "x-dump-cancel",
            "x-query-tags",
            "x-reclaim",
            "x-snapshot",
        ]

    play(script)


def test_query_status_follows_the_run_state() -> None:
    def script(scene: Scene) -> None:
        assert scene.run("query-status") == {"status": "prelaunch", "running": False}
        assert scene.run("cont") == {}
        assert scene.run("query-status") == {"status": "running", "running": True}
        assert scene.run("stop") == {}
        assert scene.run("query-status") == {"status": "paused", "running": False}

    play(script)


def test_query_cpus_fast_names_the_thread_of_each_vcpu() -> None:
    def script(scene: Scene) -> None:
        answer = scene.run("query-cpus-fast")
        assert isinstance(answer, list)
        # ScriptedMachine: the second vCPU has not run yet.
        assert [CpuInfo.from_qmp(each) for each in answer] == [CpuInfo(0, 4711), CpuInfo(1, None)]

    play(script)


def test_quit_ends_the_vm() -> None:
    def script(scene: Scene) -> None:
        assert scene.run("quit") == {}
        assert scene.vm.ended.result() == Ending(ShutdownReason.QUIT)

    play(script)


def test_query_migrate_before_any_migration_is_empty() -> None:
    def script(scene: Scene) -> None:
        assert scene.run("query-migrate") == {}

    play(script)


def test_query_migrate_awaiting_a_migration_tells_where() -> None:
    address = {"type": "inet", "host": "127.0.0.1", "port": "4711"}

    def script(scene: Scene) -> None:
        info = cast("dict[str, object]", scene.run("query-migrate"))
        assert info["status"] == "setup"
        assert info["socket-address"] == [address]

    play(script, Awaited())


def test_migrate_passes_uri_options_and_parameters() -> None:
    def script(scene: Scene) -> None:
        assert scene.run("migrate-set-parameters", downtime_limit=50) == {}
        wanted = [{"capability": "auto-converge", "state": True}]
        assert scene.run("migrate-set-capabilities", capabilities=wanted) == {}
        capabilities = cast("list[object]", scene.run("query-migrate-capabilities"))
        assert wanted[0] in capabilities
        assert scene.run("migrate", uri="unix:/x", x_verify=True, detach=True) == {}

    settings = MigrationSettings(downtime_limit=50, auto_converge=True)
    assert play(script).requests == [MigrationRequest("unix:/x", settings, verify=True)]


@pytest.mark.parametrize("name", ["auto", "tco"])
def test_migrate_passes_the_access_strategy(name: str) -> None:
    def script(scene: Scene) -> None:
        assert scene.run("migrate", uri="unix:/x", x_access=name) == {}

    assert [request.access for request in play(script).requests] == [name]


def test_migrate_with_an_access_strategy_that_is_none_is_refused() -> None:
    def script(scene: Scene) -> None:
        with pytest.raises(QmpError, match="Parameter 'x-access' expects one of auto, ioctl, "):
            scene.run("migrate", uri="unix:/x", x_access="fast")

    assert play(script).requests == []


def test_migrate_while_one_is_under_way_is_refused() -> None:
    def script(scene: Scene) -> None:
        scene.run("migrate", uri="unix:/x", x_drop_tags=True)
        with pytest.raises(RunStateError, match=r"^There's a migration process in progress$"):
            scene.run("migrate", uri="unix:/x")

    assert play(script).requests[0].drop_tags


def test_capabilities_while_a_migration_is_under_way_are_refused() -> None:
    def script(scene: Scene) -> None:
        scene.run("migrate", uri="unix:/x")
        wanted = [{"capability": "auto-converge", "state": True}]
        with pytest.raises(RunStateError, match=r"^There's a migration process in progress$"):
            scene.run("migrate-set-capabilities", capabilities=wanted)

    play(script)


def test_migrate_cancel_without_migration_is_fine() -> None:
    def script(scene: Scene) -> None:
        assert scene.run("migrate_cancel") == {}

    play(script)


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        ("migrate", {}, "Parameter 'uri' is missing"),
        ("migrate", {"uri": 1}, "Invalid parameter type for 'uri', expected: string"),
        ("stop", {"now": True}, "Parameter 'now' is unexpected"),
    ],
)
def test_execute_wrong_arguments_are_refused(
    command: str, arguments: dict[str, object], text: str
) -> None:
    def script(scene: Scene) -> None:
        with pytest.raises(QmpError, match=f"^{text}$"):
            scene.run(command, **arguments)

    play(script)


def test_dump_guest_memory_detached_asks_for_what_the_arguments_say() -> None:
    def script(scene: Scene) -> None:
        arguments: dict[str, object] = {"protocol": "file:/tmp/d", "detach": True}
        answer = scene.run(
            "dump-guest-memory", paging=True, **arguments, **{"x-space": "kernel", "x-vcpu": 1}
        )
        assert answer == {}

    scene = play(script)

    assert scene.saves == [SaveRequest(Path("/tmp/d"), SaveKind.DUMP, space=Space.KERNEL, vcpu=1)]


def test_dump_guest_memory_without_detach_is_answered_when_it_is_complete() -> None:
    async def run() -> None:
        scene = Scene()
        answer = scene.run("dump-guest-memory", paging=False, protocol="file:/tmp/d")
        assert isinstance(answer, asyncio.Future)
        await asyncio.sleep(0.02)
        assert not answer.done()
        scene.saved.set()
        assert await answer == {}
        assert scene.run("query-dump") == {
            "status": "completed",
            "completed": 5000,
            "total": 5000,
            "x-kind": "dump",
            "x-path": "/tmp/d",
            "x-report": save_result().to_json(),
        }

    asyncio.run(run())


def test_dump_guest_memory_that_fails_is_answered_with_the_reason() -> None:
    async def run() -> None:
        scene = Scene()
        answer = scene.run("x-snapshot", protocol="file:/tmp/d")
        scene.run("x-dump-cancel")
        assert isinstance(answer, asyncio.Future)
        with pytest.raises(TagalongError, match=r"^cancelled$"):
            await answer

    asyncio.run(run())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"paging": False, "protocol": "fd:3"}, "Parameter 'protocol' expects file:PATH"),
        ({"paging": False, "protocol": "file:"}, "Parameter 'protocol' expects file:PATH"),
        (
            {"paging": False, "protocol": "file:d", "format": "kdump-zlib"},
            "Parameter 'format' does not accept value 'kdump-zlib'",
        ),
        (
            {"paging": True, "protocol": "file:d", "x-space": "hyp"},
            "Parameter 'x-space' expects one of physical, kernel, user",
        ),
        ({"paging": True, "protocol": "file:d"}, "Parameter 'paging' is for virtual addresses"),
        (
            {"paging": False, "protocol": "file:d", "x-space": "user"},
            "Parameter 'paging' is for virtual addresses",
        ),
        ({"protocol": "file:d"}, "Parameter 'paging' is missing"),
    ],
)
def test_dump_guest_memory_with_impossible_arguments_is_refused(
    arguments: dict[str, object], message: str
) -> None:
    def script(scene: Scene) -> None:
        with pytest.raises(QmpError, match=f"^{message}"):
            scene.commands.execute("dump-guest-memory", arguments)

    assert play(script).saves == []


def test_snapshot_takes_the_downtime_limit() -> None:
    def script(scene: Scene) -> None:
        scene.run("migrate-set-parameters", **{"downtime-limit": 7})
        options: dict[str, object] = {"live": True, "zstd": True, "detach": True}
        scene.run("x-snapshot", protocol="file:s", **options)

    scene = play(script)

    assert scene.saves == [SaveRequest(Path("s"), live=True, compress=True, max_downtime_ms=7)]


def test_query_dump_before_any_says_none() -> None:
    def script(scene: Scene) -> None:
        assert scene.run("query-dump") == {"status": "none", "completed": 0, "total": 0}
        assert scene.run("query-dump-guest-memory-capability") == {"formats": ["elf"]}

    play(script)


def test_migrate_recover_moves_where_the_vm_is_awaited() -> None:
    awaited = Awaited()

    def script(scene: Scene) -> None:
        assert scene.run("migrate-recover", uri="tcp:host.example:2") == {}

    play(script, awaited)
    assert awaited.addresses == ["tcp:host.example:2"]


def test_migrate_recover_where_no_vm_is_awaited_is_refused() -> None:
    def script(scene: Scene) -> None:
        with pytest.raises(QmpError, match=r"^no VM is awaited here$"):
            scene.run("migrate-recover", uri="tcp:host.example:2")

    play(script)


def test_migrate_while_the_vm_is_saved_is_refused() -> None:
    def script(scene: Scene) -> None:
        scene.run("x-snapshot", protocol="file:s", detach=True)
        with pytest.raises(RunStateError, match=r"^there is a dump or a snapshot in progress$"):
            scene.run("migrate", uri="tcp:host.example:1")
        with pytest.raises(RunStateError, match=r"^there is a dump or a snapshot in progress$"):
            scene.run("x-snapshot", protocol="file:t", detach=True)

    assert play(script).requests == []


def test_snapshot_while_the_vm_migrates_is_refused() -> None:
    def script(scene: Scene) -> None:
        scene.run("migrate", uri="tcp:host.example:1")
        with pytest.raises(RunStateError, match=r"^There's a migration process in progress$"):
            scene.run("x-snapshot", protocol="file:s", detach=True)

    assert play(script).saves == []


def test_migrate_pause_and_resume_without_a_migration_are_refused() -> None:
    def script(scene: Scene) -> None:
        with pytest.raises(RunStateError, match="no migration is under way that could be paused"):
            scene.run("migrate-pause")
        with pytest.raises(RunStateError, match="no migration is paused: there is nothing to"):
            scene.run("migrate", uri="tcp:host.example:1", resume=True)

    play(script)


def test_migrate_with_an_impossible_address_or_options_is_refused_at_once() -> None:
    uris = (
        "", "pigeon:1", "tcp:host", "tcp:h:99999", "tcp:::1:4", "unix:", "file:", "exec: ", "fd:",
        "file:x,offset=y",
    )  # fmt: skip

    def script(scene: Scene) -> None:
        for uri in uris:
            with pytest.raises(UsageError, match=f"^{re.escape(repr(uri))}"):
                scene.run("migrate", uri=uri)
        with pytest.raises(UsageError, match="digests cannot be compared"):
            scene.run("migrate", uri="file:/srv/vm", x_verify=True)
        scene.run("migrate-set-parameters", x_reconnect=5)
        with pytest.raises(UsageError, match="several channels and reconnecting need"):
            scene.run("migrate", uri="exec:cat")
        assert scene.run("query-migrate") == {}

    assert play(script).requests == []
