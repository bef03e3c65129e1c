"""Controls a VM through its control socket: what the small commands do.

Every function raises ControlError if the socket cannot be reached or is lost, and CommandError
with the VM's reason if the VM refuses.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tagalong.control.client import ANSWER_TIMEOUT_S, ControlClient, connect
from tagalong.errors import (
    CommandError,
    ControlError,
    MigrationCancelledError,
    RemoteError,
    SnapshotCancelledError,
)
from tagalong.qapi.events import VmEvent
from tagalong.qapi.migration import MigrationInfo, MigrationStatus
from tagalong.qapi.saving import SaveInfo, SaveStatus

QUIT_TIMEOUT_S = ANSWER_TIMEOUT_S
"""How long a VM's process may take to end once it has accepted quit."""

_CANCELLED = {MigrationCancelledError.__name__, SnapshotCancelledError.__name__}


@dataclass(frozen=True)
class VmStatus:
    """What a VM is doing: its run state by QMP's name, and its last migration and snapshot."""

    state: str
    migration: MigrationInfo
    saving: SaveInfo

    def to_json(self) -> dict[str, object]:
        """Return what `json.dumps` takes: the answers of query-migrate and query-dump."""
        return {
            "status": self.state,
            "running": self.state == "running",
            "migration": self.migration.to_qmp(),
            "saving": self.saving.to_qmp(),
        }


async def vm_status(control: Path) -> VmStatus:
    """Return what the VM is doing."""
    async with connect(control) as client:
        return VmStatus(await client.run_state(), await client.migration(), await client.saving())


async def stop_vm(control: Path) -> str:
    """Pause the guest and return the run state."""
    return await _execute(control, "stop")


async def continue_vm(control: Path) -> str:
    """Let the guest run and return the run state."""
    return await _execute(control, "cont")


async def _execute(control: Path, command: str) -> str:
    async with connect(control) as client:
        await client.execute(command)
        return await client.run_state()


async def quit_vm(control: Path) -> None:
    """End the VM's process and return when its control socket is closed.

    Raises ControlError if that takes longer than QUIT_TIMEOUT_S.
    """
    async with connect(control) as client:
        try:
            await client.execute("quit")
        except CommandError:
            raise  # the VM is just arriving: it does not end
        except ControlError:
            pass  # the process is gone before its answer has arrived
        try:
            async with asyncio.timeout(QUIT_TIMEOUT_S):
                async for _ in client.events():
                    pass
        except TimeoutError as error:
            raise ControlError(
                f"the VM at {control} accepted quit and has not ended in {QUIT_TIMEOUT_S:.0f} s: "
                "see whether its process is stopped"
            ) from error


async def cancel_work(control: Path) -> str:
    """Cancel the migration, snapshot or dump under way; return in words what was cancelled.

    Raises CommandError if there is none, if it was too late, or if the VM is one that arrives.
    """
    async with connect(control) as client:
        if await _is_migrating(client):
            await _require_outgoing(client)
            await _cancel(client.cancel_migration(lambda _: None), "the migration")
            return "the migration"
        saving = await client.saving()
        if saving.status is SaveStatus.ACTIVE:
            what = f"the {saving.kind.value if saving.kind else 'snapshot'} to {saving.path}"
            await _cancel(client.cancel_save(lambda _: None), what)
            return what
    raise CommandError("nothing to cancel: no migration, snapshot or dump is under way")


async def _is_migrating(client: ControlClient) -> bool:
    status = (await client.migration()).status
    return status is not MigrationStatus.NONE and not status.is_final


async def _require_outgoing(client: ControlClient) -> None:
    """Raise CommandError if the migration is one to here, whose source decides about it."""
    is_awaited = (await client.migration()).is_incoming
    if is_awaited or await client.run_state() == "inmigrate":
        raise CommandError(
            "the VM is awaited here, or arrives: cancel its migration at the source, or end this "
            "process (tagalong quit)"
        )


async def _cancel(cancelling: Awaitable[object], what: str) -> None:
    try:
        await cancelling
    except RemoteError as error:
        if error.class_name not in _CANCELLED:
            raise
        return
    raise CommandError(f"{what} cannot be cancelled any more: it has completed")


async def follow_events(
    control: Path, on_event: Callable[[VmEvent], None], until: str | None = None
) -> bool:
    """Call `on_event` for each event until the VM's process ends, or an event named `until`.

    Return whether `until` was seen.
    """
    async with connect(control) as client:
        async for event in client.events():
            on_event(event)
            if event.name == until:
                return True
    return False
