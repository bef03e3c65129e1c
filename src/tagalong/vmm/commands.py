"""The commands of the control socket: names and arguments as in QEMU, acting on a Vm."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tagalong.errors import RunStateError
from tagalong.vmm import messages
from tagalong.vmm.access_wish import access_argument
from tagalong.vmm.arguments import Argument, Kind, check_arguments
from tagalong.vmm.census import take_census
from tagalong.vmm.messages import ErrorClass, JsonObject, QmpError
from tagalong.vmm.outgoing import Outgoing
from tagalong.vmm.record import MigrationRecord, MigrationRequest
from tagalong.vmm.save_commands import (
    CAPABILITY,
    DUMP_ARGUMENTS,
    SNAPSHOT_ARGUMENTS,
    dump_request,
    save,
    snapshot_request,
)
from tagalong.vmm.save_record import NOTHING_SAVED, SaveRequest
from tagalong.vmm.saving import Saving
from tagalong.vmm.session import NEGOTIATE
from tagalong.vmm.states import VmState
from tagalong.vmm.vm import Ending, ShutdownReason, Vm

# QEMU's default and limit of downtime-limit.
DEFAULT_MAX_DOWNTIME_MS = 300
MAX_DOWNTIME_LIMIT_MS = 2_000_000

_OPTIONAL_BOOLEAN = Argument(Kind.BOOLEAN)


@dataclass(frozen=True)
class _Command:
    run: Callable[[JsonObject], object]
    arguments: Mapping[str, Argument] = field(default_factory=dict)


class VmCommands:
    """Runs QMP commands on a VM; implements session.Commands.

    `incoming` returns what is known of the migration that brought the VM, or will.
    """

    def __init__(
        self,
        vm: Vm,
        outgoing: Outgoing,
        incoming: Callable[[], MigrationRecord | None],
        saving: Saving,
    ) -> None:
        self._vm = vm
        self._outgoing = outgoing
        self._saving = saving
        self._incoming = incoming
        self._max_downtime_ms = DEFAULT_MAX_DOWNTIME_MS
        self._table: Mapping[str, _Command] = {
            "cont": _Command(lambda _: self._vm.cont()),
            "dump-guest-memory": _Command(
                lambda given: self._save(dump_request(given), given), DUMP_ARGUMENTS
            ),
            "migrate": _Command(
                self._migrate,
                {
                    "uri": Argument(Kind.STRING, required=True),
                    # Sent by clients written for QEMU, which ignores it, too.
                    "detach": _OPTIONAL_BOOLEAN,
                    "x-verify": _OPTIONAL_BOOLEAN,
                    "x-drop-tags": _OPTIONAL_BOOLEAN,
                    "x-access": Argument(Kind.STRING),
                },
            ),
            "migrate-set-parameters": _Command(
                self._set_parameters, {"downtime-limit": Argument(Kind.INTEGER)}
            ),
            "migrate_cancel": _Command(lambda _: self._outgoing.cancel()),
            "query-commands": _Command(lambda _: self._names()),
            "query-dump": _Command(lambda _: self._query_dump()),
            "query-dump-guest-memory-capability": _Command(lambda _: CAPABILITY),
            "query-migrate": _Command(lambda _: self._query_migrate()),
            "query-migrate-parameters": _Command(lambda _: self._parameters()),
            "query-status": _Command(lambda _: self._query_status()),
            "query-version": _Command(lambda _: messages.version()),
            "quit": _Command(lambda _: self._vm.end(Ending(ShutdownReason.QUIT))),
            "stop": _Command(lambda _: self._vm.stop()),
            "x-dump-cancel": _Command(lambda _: self._saving.cancel()),
            "x-query-tags": _Command(lambda _: self._query_tags()),
            "x-reclaim": _Command(lambda _: self._vm.reclaim()),
            "x-snapshot": _Command(
                lambda given: self._save(snapshot_request(given, self._max_downtime_ms), given),
                SNAPSHOT_ARGUMENTS,
            ),
        }

    def execute(self, command: str, arguments: JsonObject) -> object:
        """Run a command and return its value, {} where it has none; or a future of it."""
        entry = self._table.get(command)
        if entry is None:
            raise QmpError(
                f"The command {command} has not been found",
                error_class=ErrorClass.COMMAND_NOT_FOUND,
            )
        check_arguments(arguments, entry.arguments)
        value = entry.run(arguments)
        return {} if value is None else value

    def _names(self) -> object:
        return [{"name": name} for name in sorted([*self._table, NEGOTIATE])]

    def _query_status(self) -> object:
        state = self._vm.state
        return {"status": state.value, "running": state is VmState.RUNNING}

    def _query_tags(self) -> object:
        machine = self._vm.machine
        if machine is None:
            raise QmpError("the VM is not here yet: an incoming migration is awaited")
        census = take_census(machine)
        return {"granules": census.granules, "tagged-granules": census.tagged_granules}

    def _query_dump(self) -> object:
        record = self._saving.record
        return record.to_qmp() if record is not None else NOTHING_SAVED

    def _save(self, request: SaveRequest, arguments: JsonObject) -> object:
        if self._outgoing.is_under_way:
            raise RunStateError("There's a migration process in progress")
        return save(self._saving, request, detach=arguments.get("detach") is True)

    def _query_migrate(self) -> object:
        record = self._outgoing.record or self._incoming()
        return record.to_qmp() if record is not None else {}

    def _parameters(self) -> object:
        return {"downtime-limit": self._max_downtime_ms}

    def _set_parameters(self, arguments: JsonObject) -> None:
        limit = arguments.get("downtime-limit", self._max_downtime_ms)
        if not isinstance(limit, int) or not 0 <= limit <= MAX_DOWNTIME_LIMIT_MS:
            raise QmpError(
                "Parameter 'downtime-limit' expects an integer in the range of "
                f"0 to {MAX_DOWNTIME_LIMIT_MS} milliseconds"
            )
        self._max_downtime_ms = limit

    def _migrate(self, arguments: JsonObject) -> None:
        if self._saving.is_under_way:
            raise RunStateError("there is a dump or a snapshot in progress")
        self._outgoing.start(
            MigrationRequest(
                uri=str(arguments["uri"]),
                max_downtime_ms=self._max_downtime_ms,
                verify=arguments.get("x-verify") is True,
                drop_tags=arguments.get("x-drop-tags") is True,
                access=access_argument(arguments),
            )
        )
