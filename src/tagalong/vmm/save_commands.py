"""The commands that save a VM: their arguments, and when they are answered.

As in QEMU, `dump-guest-memory` is answered when the dump is complete, or at once with
`detach`; then DUMP_COMPLETED says when. The same goes for our own `x-snapshot`.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tagalong.core import Space
from tagalong.errors import MachineError, with_causes
from tagalong.qapi.access_wish import access_argument
from tagalong.qapi.saving import SPACES, SaveInfo, SaveKind, SaveRequest
from tagalong.qmp.arguments import Argument, ArgumentType
from tagalong.qmp.messages import JsonObject, QmpError
from tagalong.vmm.save_record import SaveRecord
from tagalong.vmm.saving import Saving

_FORMAT: Final = "elf"
_FILE: Final = "file:"

CAPABILITY: Final = {"formats": [_FORMAT]}
"""What query-dump-guest-memory-capability answers."""

DUMP_ARGUMENTS: Final[Mapping[str, Argument]] = {
    "paging": Argument(ArgumentType.BOOLEAN, required=True),
    "protocol": Argument(ArgumentType.STRING, required=True),
    "detach": Argument(ArgumentType.BOOLEAN),
    "format": Argument(ArgumentType.STRING),
    "x-live": Argument(ArgumentType.BOOLEAN),
    "x-space": Argument(ArgumentType.STRING),
    "x-vcpu": Argument(ArgumentType.INTEGER),
    "x-access": Argument(ArgumentType.STRING),
}

SNAPSHOT_ARGUMENTS: Final[Mapping[str, Argument]] = {
    "protocol": Argument(ArgumentType.STRING, required=True),
    "detach": Argument(ArgumentType.BOOLEAN),
    "live": Argument(ArgumentType.BOOLEAN),
    "zstd": Argument(ArgumentType.BOOLEAN),
    "x-access": Argument(ArgumentType.STRING),
}


def dump_request(arguments: JsonObject, max_downtime_ms: int) -> SaveRequest:
    """Return what dump-guest-memory asks for. Raises QmpError."""
    if arguments.get("format", _FORMAT) != _FORMAT:
        raise QmpError(f"Parameter 'format' does not accept value '{arguments['format']}'")
    space = SPACES.get(str(arguments.get("x-space", Space.PHYSICAL.name.lower())))
    if space is None:
        raise QmpError(f"Parameter 'x-space' expects one of {', '.join(SPACES)}")
    if arguments["paging"] is not (space is not Space.PHYSICAL):
        raise QmpError(
            "Parameter 'paging' is for virtual addresses: true with x-space kernel or user, and "
            "only then"
        )
    vcpu, is_live = arguments.get("x-vcpu", 0), arguments.get("x-live") is True
    return SaveRequest(
        path=_path(arguments),
        kind=SaveKind.DUMP,
        space=space,
        vcpu=vcpu if isinstance(vcpu, int) else 0,
        live=is_live,
        max_downtime_ms=max_downtime_ms if is_live else 0,
        access=access_argument(arguments),
    )


def snapshot_request(arguments: JsonObject, max_downtime_ms: int) -> SaveRequest:
    """Return what x-snapshot asks for. Raises QmpError."""
    return SaveRequest(
        path=_path(arguments),
        live=arguments.get("live") is True,
        compress=arguments.get("zstd") is True,
        max_downtime_ms=max_downtime_ms,
        access=access_argument(arguments),
    )


def _path(arguments: JsonObject) -> Path:
    protocol = str(arguments["protocol"])
    if not protocol.startswith(_FILE) or len(protocol) == len(_FILE):
        raise QmpError("Parameter 'protocol' expects file:PATH")
    return Path(protocol.removeprefix(_FILE))


def query_dump(saving: Saving) -> object:
    """Return what query-dump answers."""
    record = saving.record
    return (record.info() if record is not None else SaveInfo()).to_qmp()


def save(saving: Saving, request: SaveRequest, *, detach: bool) -> object:
    """Begin to save; return None if detached, else a future of the command's value."""
    done = saving.start(request)
    return None if detach else asyncio.ensure_future(_finished(done))


async def _finished(done: asyncio.Future[SaveRecord]) -> object:
    record = await asyncio.shield(done)
    if record.error is not None:
        raise MachineError(with_causes(record.error)) from record.error
    return {}
