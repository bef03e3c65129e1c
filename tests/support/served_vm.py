"""A VM with a real control socket and a scripted machine, in the test's own event loop."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tagalong.devices import VirtioBackings
from tagalong.errors import MigrationCancelledError, MigrationStage, TagalongError
from tagalong.machine import Machine
from tagalong.migrate import SendProgress, Steering
from tagalong.qapi.migration import MigrationRequest
from tagalong.qapi.reports import MigrationResult
from tagalong.qmp.messages import Event
from tagalong.qmp.server import ControlServer
from tagalong.vmm.commands import VmCommands
from tagalong.vmm.device_queries import DeviceQueries
from tagalong.vmm.outgoing import Outgoing
from tagalong.vmm.record import MigrationRecord
from tagalong.vmm.saving import SavedVm, Saving
from tagalong.vmm.vm import Vm
from tests.support.results import migration_result
from tests.support.scripted_machine import ScriptedMachine
from tests.support.scripted_storer import ScriptedStorer

PROGRESS = SendProgress(
    stage=MigrationStage.PRECOPY,
    round_number=1,
    ram_bytes=1 << 20,
    pages_sent=128,
    pages_remaining=128,
    bytes_remaining=1 << 19,
    bytes_sent=1 << 19,
    throughput_bytes_per_s=1e9,
)


@dataclass
class Migration:
    """How migrations of the served VM go; `requests` are those that were asked for."""

    report: MigrationResult = field(default_factory=migration_result)
    error: TagalongError | None = None
    finish: threading.Event = field(default_factory=threading.Event)
    requests: list[MigrationRequest] = field(default_factory=list)

    def send(
        self,
        _machine: Machine,
        request: MigrationRequest,
        progress: Callable[[SendProgress], None],
        cancelled: threading.Event,
        steering: Steering,
    ) -> MigrationResult:
        """Do as told, once `finish` is set, or be cancelled before."""
        self.requests.append(request)
        progress(PROGRESS)
        while not self.finish.wait(0.001):
            if cancelled.is_set():
                raise MigrationCancelledError("cancelled on request")
        assert steering.freezer is not None
        steering.freezer.freeze()
        if self.error is not None:
            raise self.error
        return self.report


@dataclass
class ServedVm:
    """What a test can see and do."""

    path: Path
    vm: Vm
    machine: ScriptedMachine
    migration: Migration
    storing: ScriptedStorer


class Arriving:
    """The migration of a VM that does not come."""

    record = MigrationRecord()

    def recover(self, uri: str) -> None:
        """Await it elsewhere."""
        raise AssertionError(uri)


@asynccontextmanager
async def served_vm(path: Path, *, is_awaited: bool = False) -> AsyncIterator[ServedVm]:
    """Serve a VM in prelaunch at `path`, or one that is awaited."""
    servers: list[ControlServer] = []

    def emit(event: Event) -> None:
        servers[0].broadcast(event)

    machine, migration, storing = ScriptedMachine(), Migration(), ScriptedStorer()
    vm = Vm(emit)
    outgoing = Outgoing(vm, migration.send)
    saving = Saving(SavedVm(vm, storing.store), emit)
    servers.append(
        ControlServer(
            VmCommands(
                vm,
                outgoing,
                lambda: Arriving() if is_awaited else None,
                saving,
                DeviceQueries(vm, VirtioBackings()),
            )
        )
    )
    await servers[0].start(path)
    if not is_awaited:
        vm.create(machine)
    try:
        yield ServedVm(path, vm, machine, migration, storing)
    finally:
        await outgoing.cancel_and_wait(10)
        await saving.cancel_and_wait(10)
        machine.close()
        await servers[0].close()
