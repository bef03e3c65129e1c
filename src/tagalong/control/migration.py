"""Moves a VM through its control socket, and says what to do when that does not work."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from tagalong.control.advice import SourceState, next_steps
from tagalong.control.cancellation import follow_or_cancel
from tagalong.control.client import ControlClient, OnMigration, connect
from tagalong.errors import CommandError, ControlError, TagalongError
from tagalong.files import refuse_descriptor_name
from tagalong.migrate import FileAddress, UnixAddress, parse_address
from tagalong.qapi.migration import REPORTED_AT_ITS_SOURCE, MigrationRequest, MigrationStatus
from tagalong.qapi.reports import MigrationResult


async def migrate_vm(
    control: Path, request: MigrationRequest, on_progress: OnMigration
) -> MigrationResult:
    """Migrate the VM behind the control socket `control` and return the source's report.

    `on_progress` gets what QMP's query-migrate says, ten times a second. Cancelling the
    task cancels the migration; the report is returned all the same if it was too late.
    Raises RemoteError if the migration failed, with a note on where the VM is and what to
    do next; ControlError if the socket cannot be reached; HostError for a file: address that
    names a descriptor of this process, which is not the VM's.
    """
    request = _named_from_here(request)
    async with connect(control) as client:
        try:
            return await follow_or_cancel(
                client.begin_migration(request),
                partial(client.follow_migration, on_progress),
                partial(client.cancel_migration, on_progress),
            )
        except CommandError:
            raise  # refused: no migration began
        except TagalongError as error:
            error.add_note(next_steps(error, await _source(client), request))
            raise


async def start_migration(control: Path, request: MigrationRequest) -> None:
    """Let the VM behind the control socket `control` begin to migrate, and return.

    Raises CommandError if the VM refuses, ControlError if the socket cannot be reached, HostError
    as migrate_vm.
    """
    request = _named_from_here(request)
    async with connect(control) as client:
        await client.begin_migration(request)


async def await_migration(control: Path, on_progress: OnMigration) -> MigrationResult:
    """Wait for the end of the VM's migration, and return the report.

    A migration that has ended already is reported in the same way. Cancelling the task ends the
    waiting; the migration continues. Raises CommandError if the VM has not migrated at all, or
    arrives or has arrived here, RemoteError if the migration failed, ControlError if the socket
    cannot be reached.
    """
    async with connect(control) as client:
        info = await client.migration()
        if info.status is MigrationStatus.NONE:
            raise CommandError(
                "there is no migration to wait for; start one with tagalong migrate CONTROL URI"
            )
        if info.is_incoming and info.failure is None:
            raise CommandError(REPORTED_AT_ITS_SOURCE)
        return await client.follow_migration(on_progress)


def _named_from_here(request: MigrationRequest) -> MigrationRequest:
    """Return the request with the path in its address made absolute.

    The VM's process has a working directory of its own, which is not where its operator types.
    Raises HostError if the stream is to go to a file that a name of a descriptor leads to.
    """
    address = parse_address(request.uri)
    if isinstance(address, FileAddress):
        refuse_descriptor_name(address.path)
    if isinstance(address, FileAddress | UnixAddress):
        address = replace(address, path=address.path.absolute())
        return replace(request, uri=str(address))
    return request


async def _source(client: ControlClient) -> SourceState:
    try:
        state = await client.run_state()
    except ControlError:
        state = None
    return SourceState(state, client.shutdown_reason)
