"""The status of a VM in words."""

from collections.abc import Iterator

from tagalong.cli.units import ms, rate, row, size
from tagalong.control.vm_control import VmStatus
from tagalong.qapi.migration import MigrationInfo, MigrationStatus
from tagalong.qapi.reports import MigrationResult
from tagalong.qapi.saving import SaveInfo, SaveStatus

_BITS_PER_BYTE = 8
_MEANINGS = {
    "prelaunch": "created and not started yet",
    "inmigrate": "waiting for a VM that arrives",
    "running": "the guest runs",
    "paused": "the guest is paused",
    "finish-migrate": "paused for the last pages of a migration",
    "save-vm": "paused while it is written to a file",
    "postmigrate": "the VM has moved: this is the copy that it left",
    "shutdown": "the guest has ended",
    "internal-error": "the machine stopped with an error",
}


def status_report(status: VmStatus) -> str:
    """Return the run state, and rows on the last migration and the last snapshot."""
    meaning = _MEANINGS.get(status.state)
    lines = [status.state if meaning is None else f"{status.state} ({meaning})"]
    lines += [row("migration", text) for text in _migration(status.migration)]
    lines += [row("saving", text) for text in _saving(status.saving)]
    return "\n".join(lines)


def _migration(info: MigrationInfo) -> Iterator[str]:
    if info.status is MigrationStatus.NONE:
        return
    if info.failure is not None:
        yield f"{info.status.value}: {info.failure.text}"
    elif isinstance(info.report, MigrationResult):
        yield f"{info.status.value}, downtime {ms(info.report.report.downtime.total_s)}"
    elif info.is_incoming:
        yield _arrival(info)
    else:
        yield f"{info.status.value}{_progress(info)}"


def _arrival(info: MigrationInfo) -> str:
    """Return how far a VM is that comes here; the address stays when nothing listens there."""
    at = "" if info.socket_address is None else f" at {info.socket_address.uri}"
    match info.status:
        case MigrationStatus.SETUP:
            return f"awaited{at}"
        case MigrationStatus.COMPLETED:
            return "completed: the VM has arrived"
        case MigrationStatus.FAILED | MigrationStatus.CANCELLED:
            return f"{info.status.value}: the VM has not arrived"
    return f"arriving{at}{_progress(info)}"


def _progress(info: MigrationInfo) -> str:
    if info.ram is None or not info.ram.rounds:
        return ""
    bytes_per_s = info.ram.megabits_per_s * 1e6 / _BITS_PER_BYTE
    return f", round {info.ram.rounds}, {size(info.ram.remaining_bytes)} left, {rate(bytes_per_s)}"


def _saving(info: SaveInfo) -> Iterator[str]:
    if info.status is SaveStatus.NONE:
        return
    if info.failure is not None:
        yield f"failed: {info.failure.text}"
    elif info.status is SaveStatus.ACTIVE:
        yield f"{info.path}: {info.stage}, {size(info.completed_bytes)}"
    else:
        yield f"{info.path}: complete"
