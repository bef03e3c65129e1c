"""The commands of the control socket of a VM that runs beside us.

Names and forms are those of our own VMs, which are QEMU's. What concerns the guest goes to its own
VMM and comes back as it answers; what concerns tags is done here.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tagalong.beside.incoming import TagsIncoming
from tagalong.beside.monitor import VmmMonitor
from tagalong.beside.outgoing import TagsOutgoing
from tagalong.errors import RunStateError, UsageError
from tagalong.migrate import TcpAddress, UnixAddress, parse_address
from tagalong.qapi.migration import MigrationInfo, MigrationRequest, Switchover
from tagalong.qapi.saving import SaveRequest
from tagalong.qapi.settings import PARAMETER_SCHEMA, MigrationSettings
from tagalong.qmp import messages
from tagalong.qmp.arguments import Argument, ArgumentType
from tagalong.qmp.descriptors import DescriptorSource
from tagalong.qmp.messages import JsonObject
from tagalong.qmp.table import command_names, find_command
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

_TEXT = Argument(ArgumentType.STRING)
_FLAG = Argument(ArgumentType.BOOLEAN)
_MIGRATE_ARGUMENTS = {
    "uri": Argument(ArgumentType.STRING, required=True),
    "detach": _FLAG,
    "x-verify": _FLAG,
    "x-drop-tags": _FLAG,
    "x-vmm-uri": _TEXT,
    "x-standing": _FLAG,
    "x-switchover": _TEXT,
}


@dataclass(frozen=True)
class _BesideCommand:
    run: Callable[[JsonObject], object]
    arguments: Mapping[str, Argument] = field(default_factory=dict)


class BesideCommands:
    """Runs QMP commands; implements session.Commands."""

    def __init__(
        self,
        monitor: Callable[[], VmmMonitor],
        outgoing: Callable[[], TagsOutgoing],
        incoming: Callable[[], TagsIncoming | None],
        saving: Saving,
    ) -> None:
        self._monitor = monitor
        self._outgoing = outgoing
        self._saving = saving
        self._incoming = incoming
        self._settings = MigrationSettings()
        self._table: Mapping[str, _BesideCommand] = {
            **{name: self._passed_on(name) for name in ("cont", "query-status", "quit", "stop")},
            "migrate": _BesideCommand(self._migrate, _MIGRATE_ARGUMENTS),
            "migrate-set-capabilities": _BesideCommand(
                self._set_capabilities,
                {"capabilities": Argument(ArgumentType.ARRAY, required=True)},
            ),
            "migrate-set-parameters": _BesideCommand(self._set_parameters, PARAMETER_SCHEMA),
            "migrate_cancel": _BesideCommand(lambda _: self._outgoing().cancel()),
            "query-commands": _BesideCommand(lambda _: command_names(self._table)),
            "dump-guest-memory": _BesideCommand(self._dump, DUMP_ARGUMENTS),
            "query-dump": _BesideCommand(lambda _: query_dump(self._saving)),
            "query-dump-guest-memory-capability": _BesideCommand(lambda _: CAPABILITY),
            "x-dump-cancel": _BesideCommand(lambda _: self._saving.cancel()),
            "x-snapshot": _BesideCommand(self._snapshot, SNAPSHOT_ARGUMENTS),
            "query-migrate": _BesideCommand(lambda _: self._query_migrate()),
            "query-migrate-capabilities": _BesideCommand(lambda _: self._settings.capabilities()),
            "query-migrate-parameters": _BesideCommand(lambda _: self._settings.parameters()),
            "query-version": _BesideCommand(lambda _: messages.version()),
        }

    def execute(
        self,
        command: str,
        arguments: JsonObject,
        descriptors: DescriptorSource | None = None,  # noqa: ARG002 (no command takes one)
    ) -> object:
        """Run a command and return its value, {} where it has none; or a future of it."""
        entry = find_command(self._table, command, arguments)
        value = entry.run(arguments)
        return {} if value is None else value

    def _passed_on(self, name: str) -> _BesideCommand:
        """Return the command that the guest's own VMM answers."""
        return _BesideCommand(lambda _: asyncio.ensure_future(self._monitor().execute(name)))

    def _query_migrate(self) -> object:
        incoming = self._incoming()
        record = self._outgoing().record or (incoming.record if incoming is not None else None)
        return (record.info() if record is not None else MigrationInfo()).to_qmp()

    def _set_parameters(self, arguments: JsonObject) -> None:
        self._settings = self._settings.with_parameters(arguments)

    def _set_capabilities(self, arguments: JsonObject) -> None:
        if self._outgoing().is_under_way:
            raise RunStateError("There's a migration process in progress")
        self._settings = self._settings.with_capabilities(arguments["capabilities"])

    def _dump(self, arguments: JsonObject) -> object:
        return self._save(dump_request(arguments, self._settings.downtime_limit), arguments)

    def _snapshot(self, arguments: JsonObject) -> object:
        return self._save(snapshot_request(arguments, self._settings.downtime_limit), arguments)

    def _save(self, request: SaveRequest, arguments: JsonObject) -> object:
        request.options()  # raises UsageError now, and not in the dump's thread
        return save(self._saving, request, detach=arguments.get("detach") is True)

    def _migrate(self, arguments: JsonObject) -> None:
        if self._saving.is_under_way:
            raise RunStateError("there is a dump or a snapshot in progress")
        vmm_uri = arguments.get("x-vmm-uri")
        request = MigrationRequest(
            uri=str(arguments["uri"]),
            settings=self._settings,
            verify=arguments.get("x-verify") is True,
            drop_tags=arguments.get("x-drop-tags") is True,
            vmm_uri=None if vmm_uri is None else str(vmm_uri),
            standing=arguments.get("x-standing") is True,
            switchover=_switchover(arguments),
        )
        request.check()
        _refuse(request)
        incoming = self._incoming()
        if incoming is not None and incoming.is_holding:
            raise RunStateError("Guest is waiting for an incoming migration")
        self._outgoing().start(request)


def _switchover(arguments: JsonObject) -> Switchover:
    name = arguments.get("x-switchover", Switchover.PAUSE.value)
    try:
        return Switchover(name)
    except ValueError:
        known = ", ".join(each.value for each in Switchover)
        raise UsageError(f"x-switchover {name!r}: it is one of {known}") from None


def _refuse(request: MigrationRequest) -> None:
    """Raise UsageError for what is the VMM's own to do."""
    if request.settings.auto_converge:
        raise UsageError(
            "auto-converge: tagalong cannot slow down the guest of another VMM; set the VMM's own "
            "auto-converge"
        )
    if request.standing and not isinstance(parse_address(request.uri), TcpAddress | UnixAddress):
        raise UsageError(
            f"{request.uri}: a standing order needs a destination that can be reached again: "
            "tcp:HOST:PORT or unix:PATH"
        )
    if request.uri == request.vmm_uri:
        raise UsageError(
            f"{parse_address(request.uri)}: the tags and the VMM's own stream need an address each"
        )
