"""The commands of the control socket: names and arguments as in QEMU, acting on a Vm."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tagalong.errors import RunStateError, TagalongError
from tagalong.machine import MachinePages
from tagalong.migrate import DESCRIPTORS
from tagalong.qapi.access_wish import access_argument
from tagalong.qapi.migration import MigrationInfo, MigrationRequest
from tagalong.qapi.saving import SaveRequest
from tagalong.qapi.settings import PARAMETER_SCHEMA, MigrationSettings
from tagalong.qmp import messages
from tagalong.qmp.arguments import Argument, ArgumentType
from tagalong.qmp.descriptors import DescriptorSource
from tagalong.qmp.messages import JsonObject, QmpError
from tagalong.qmp.table import command_names, find_command
from tagalong.vmm.census import take_census
from tagalong.vmm.device_queries import DeviceQueries
from tagalong.vmm.outgoing import Outgoing
from tagalong.vmm.record import MigrationRecord
from tagalong.vmm.save_commands import (
    CAPABILITY,
    DUMP_ARGUMENTS,
    SNAPSHOT_ARGUMENTS,
    dump_request,
    query_dump,
    save,
    snapshot_request,
)
from tagalong.vmm.saving import Saving
from tagalong.vmm.states import VmState
from tagalong.vmm.vm import Ending, ShutdownReason, Vm

_FD_NAME = {"fdname": Argument(ArgumentType.STRING, required=True)}
_OPTIONAL_BOOLEAN = Argument(ArgumentType.BOOLEAN)
_MIGRATE_ARGUMENTS = {
    "uri": Argument(ArgumentType.STRING, required=True),
    # Clients written for QEMU send it; QEMU ignores it, too.
    "detach": _OPTIONAL_BOOLEAN,
    "resume": _OPTIONAL_BOOLEAN,
    "x-verify": _OPTIONAL_BOOLEAN,
    "x-drop-tags": _OPTIONAL_BOOLEAN,
    "x-access": Argument(ArgumentType.STRING),
}


@dataclass(frozen=True)
class _Command:
    """A command; `run` is None for getfd, which needs the descriptor that came with it."""

    run: Callable[[JsonObject], object] | None
    arguments: Mapping[str, Argument] = field(default_factory=dict)


class Awaited(Protocol):
    """The migration that brings the VM, or brought it."""

    @property
    def record(self) -> MigrationRecord:
        """Return what is known of it."""
        ...

    def recover(self, uri: str) -> None:
        """Await the source at another address. Raises TagalongError."""
        ...


class VmCommands:
    """Runs QMP commands on a VM; implements session.Commands.

    `incoming` returns the migration that brought the VM or is to bring it; None for a VM that did
    not come by migration.
    """

    def __init__(
        self,
        vm: Vm,
        outgoing: Outgoing,
        incoming: Callable[[], Awaited | None],
        saving: Saving,
        devices: DeviceQueries,
    ) -> None:
        self._vm = vm
        self._outgoing = outgoing
        self._saving = saving
        self._devices = devices
        self._incoming = incoming
        self._settings = MigrationSettings()
        self._table: Mapping[str, _Command] = {
            **self._vm_commands(),
            **self._migration_commands(),
            **self._save_commands(),
        }

    def _vm_commands(self) -> Mapping[str, _Command]:
        return {
            "closefd": _Command(self._close_fd, _FD_NAME),
            "cont": _Command(lambda _: self._vm.cont()),
            "getfd": _Command(None, _FD_NAME),
            "query-block": _Command(lambda _: self._devices.block()),
            "query-chardev": _Command(lambda _: self._devices.chardev()),
            "query-cpus-fast": _Command(lambda _: self._devices.cpus()),
            "query-commands": _Command(lambda _: command_names(self._table)),
            "query-status": _Command(lambda _: self._query_status()),
            "query-version": _Command(lambda _: messages.version()),
            "quit": _Command(lambda _: self._vm.order_end(Ending(ShutdownReason.QUIT))),
            "stop": _Command(lambda _: self._vm.stop()),
            "system_powerdown": _Command(lambda _: self._vm.power_down()),
            "system_reset": _Command(lambda _: self._vm.reset()),
            "x-query-tags": _Command(lambda _: self._query_tags()),
            "x-reclaim": _Command(lambda _: self._vm.reclaim()),
        }

    def _migration_commands(self) -> Mapping[str, _Command]:
        return {
            "migrate": _Command(self._migrate, _MIGRATE_ARGUMENTS),
            "migrate-pause": _Command(lambda _: self._outgoing.pause()),
            "migrate-recover": _Command(
                self._recover_incoming, {"uri": Argument(ArgumentType.STRING, required=True)}
            ),
            "migrate-set-capabilities": _Command(
                self._set_capabilities,
                {"capabilities": Argument(ArgumentType.ARRAY, required=True)},
            ),
            "migrate-set-parameters": _Command(self._set_parameters, PARAMETER_SCHEMA),
            "migrate_cancel": _Command(lambda _: self._outgoing.cancel()),
            "query-migrate": _Command(lambda _: self._query_migrate()),
            "query-migrate-capabilities": _Command(lambda _: self._settings.capabilities()),
            "query-migrate-parameters": _Command(lambda _: self._settings.parameters()),
        }

    def _save_commands(self) -> Mapping[str, _Command]:
        return {
            "dump-guest-memory": _Command(
                lambda given: self._save(dump_request(given, self._settings.downtime_limit), given),
                DUMP_ARGUMENTS,
            ),
            "query-dump": _Command(lambda _: query_dump(self._saving)),
            "query-dump-guest-memory-capability": _Command(lambda _: CAPABILITY),
            "x-dump-cancel": _Command(lambda _: self._saving.cancel()),
            "x-snapshot": _Command(self._snapshot, SNAPSHOT_ARGUMENTS),
        }

    def execute(
        self,
        command: str,
        arguments: JsonObject,
        descriptors: DescriptorSource | None = None,
    ) -> object:
        """Run a command and return its value, {} where it has none; or a future of it."""
        entry = find_command(self._table, command, arguments)
        value: object = None
        if entry.run is not None:
            value = entry.run(arguments)
        else:
            self._get_fd(arguments, descriptors)
        return {} if value is None else value

    def _get_fd(self, arguments: JsonObject, descriptors: DescriptorSource | None) -> None:
        descriptor = descriptors.take() if descriptors is not None else None
        if descriptor is None:
            raise QmpError("No file descriptor supplied via SCM_RIGHTS")
        try:
            DESCRIPTORS.add(str(arguments["fdname"]), descriptor)
        except TagalongError:
            os.close(descriptor)
            raise

    def _close_fd(self, arguments: JsonObject) -> None:
        DESCRIPTORS.close(str(arguments["fdname"]))

    def _query_status(self) -> object:
        state = self._vm.state
        return {"status": state.value, "running": state is VmState.RUNNING}

    def _query_tags(self) -> object:
        machine = self._vm.machine
        if machine is None:
            raise QmpError("the VM is not here yet: an incoming migration is awaited")
        return take_census(MachinePages(machine, is_running=True)).to_qmp()

    def _snapshot(self, arguments: JsonObject) -> object:
        return self._save(snapshot_request(arguments, self._settings.downtime_limit), arguments)

    def _save(self, request: SaveRequest, arguments: JsonObject) -> object:
        if self._outgoing.is_under_way:
            raise RunStateError("There's a migration process in progress")
        request.options()  # raises UsageError now, and not in the snapshot's thread
        return save(self._saving, request, detach=arguments.get("detach") is True)

    def _query_migrate(self) -> object:
        incoming = self._incoming()
        record = self._outgoing.record or (incoming.record if incoming is not None else None)
        return (record.info() if record is not None else MigrationInfo()).to_qmp()

    def _set_parameters(self, arguments: JsonObject) -> None:
        self._settings = self._settings.with_parameters(arguments)
        self._outgoing.tune(self._settings)

    def _set_capabilities(self, arguments: JsonObject) -> None:
        if self._outgoing.is_under_way:
            raise RunStateError("There's a migration process in progress")
        self._settings = self._settings.with_capabilities(arguments["capabilities"])

    def _recover_incoming(self, arguments: JsonObject) -> None:
        incoming = self._incoming()
        if incoming is None:
            raise QmpError("no VM is awaited here")
        incoming.recover(str(arguments["uri"]))

    def _migrate(self, arguments: JsonObject) -> None:
        if arguments.get("resume") is True:
            self._outgoing.resume(str(arguments["uri"]))
            return
        if self._saving.is_under_way:
            raise RunStateError("there is a dump or a snapshot in progress")
        request = MigrationRequest(
            uri=str(arguments["uri"]),
            settings=self._settings,
            verify=arguments.get("x-verify") is True,
            drop_tags=arguments.get("x-drop-tags") is True,
            access=access_argument(arguments),
        )
        request.check()
        self._outgoing.start(request)
