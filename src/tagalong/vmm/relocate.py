"""Moves a VM through its control socket, and says what to do when that does not work."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from tagalong.errors import CommandError, ControlError, TagalongError
from tagalong.vmm.advice import next_steps
from tagalong.vmm.client import Answer, ControlClient, connect
from tagalong.vmm.record import MigrationRequest


async def migrate_vm(
    control: Path, request: MigrationRequest, on_progress: Callable[[Answer], None]
) -> Answer:
    """Migrate the VM behind the control socket `control` and return the source's report.

    `on_progress` gets what QMP's query-migrate says, ten times a second. Cancelling the
    task cancels the migration; the report is returned all the same if it was too late.
    Raises the error that ended the migration, with a note on where the VM is and what to
    do next; ControlError if the socket cannot be reached.
    """
    async with connect(control) as client:
        try:
            return await _migrate(client, request, on_progress)
        except CommandError:
            raise  # refused: no migration began
        except TagalongError as error:
            error.add_note(next_steps(error, await _state(client)))
            raise


async def _migrate(
    client: ControlClient, request: MigrationRequest, on_progress: Callable[[Answer], None]
) -> Answer:
    beginning = asyncio.ensure_future(client.begin_migration(request))
    try:
        await asyncio.shield(beginning)
        return await client.follow_migration(on_progress)
    except asyncio.CancelledError:
        cancellation_is_dealt_with()
        await beginning  # a command that is on its way cannot be called back
        return await client.cancel_migration(on_progress)


def cancellation_is_dealt_with() -> None:
    """Make the running task one that nobody cancelled: it tidies up and waits for that."""
    # While a task counts as being cancelled, asyncio.timeout takes its own time-out for that
    # cancellation (before Python 3.11.4), and the wait for the end would break off.
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


async def _state(client: ControlClient) -> str | None:
    try:
        return await client.run_state()
    except ControlError:
        return None
