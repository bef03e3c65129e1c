"""Saves a VM through its control socket, or another core out of a core file."""

import asyncio
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from tagalong import snapshot
from tagalong.control.cancellation import cancellation_is_dealt_with, follow_or_cancel
from tagalong.control.client import ControlClient, OnSave, connect
from tagalong.errors import CommandError, HostError, TagalongError, UsageError
from tagalong.files import refuse_descriptor_name
from tagalong.progress import CancelToken, ProgressCallback
from tagalong.qapi.reports import SaveResult
from tagalong.qapi.saving import SaveInfo, SaveRequest, SaveStatus
from tagalong.snapshot import SaveProgress

Write = Callable[[ProgressCallback[SaveProgress], CancelToken], SaveResult]
"""Writes a core; reports its progress to the first, and ends when the second is set."""


def is_control_socket(path: Path) -> bool:
    """Return whether there is a socket at `path`. Raises HostError if there is nothing."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as error:
        raise HostError(f"cannot look at {path}: {error.strerror}") from error


async def save_vm(control: Path, request: SaveRequest, on_progress: OnSave) -> SaveResult:
    """Let the VM behind the socket `control` save itself and return the report.

    `on_progress` gets what QMP's query-dump says, ten times a second. Cancelling the task
    cancels the saving; the report is returned all the same if it was too late. Raises
    RemoteError if that failed, with a note on what became of the VM; ControlError if the socket
    cannot be reached; HostError if the path names a descriptor of this process.
    """
    # The VM's process has another working folder than its operator, and other descriptors.
    request = replace(request, path=request.path.absolute())
    refuse_descriptor_name(request.path)
    async with connect(control) as client:
        try:
            return await follow_or_cancel(
                client.begin_save(request),
                partial(client.follow_save, on_progress),
                partial(client.cancel_save, on_progress),
            )
        except CommandError:
            raise  # refused: nothing began
        except TagalongError as error:
            error.add_note(f"{_whereabouts(client)} Nothing new is at {request.path}.")
            raise


def _whereabouts(client: ControlClient) -> str:
    reason = client.shutdown_reason
    return "The VM continues as before." if reason is None else f"The VM has ended ({reason})."


async def convert_core(source: Path, request: SaveRequest, on_progress: OnSave) -> SaveResult:
    """Write the machine in the core `source` as `request` says and return the report.

    Cancelling the task cancels the work. Raises what snapshot.dump_core raises, UsageError if
    source and target are one file, or for an access strategy.
    """
    if request.access is not None:
        raise UsageError(f"{source} is a file: access strategies are for the RAM of running VMs")
    if request.path.exists() and request.path.samefile(source):
        raise UsageError(f"{source} cannot be dumped onto itself")
    return await write_here(
        lambda tell, cancel: SaveResult(
            snapshot.dump_core(
                source, request.path, request.options(), progress=tell, cancel=cancel
            )
        ),
        request,
        on_progress,
    )


async def write_here(write: Write, request: SaveRequest, on_progress: OnSave) -> SaveResult:
    """Write what `request` asks for in this process, in a thread, and return the report.

    Cancelling the task cancels the work; the report is returned all the same if it was too late.
    Raises what `write` raises.
    """
    cancelled = threading.Event()
    loop = asyncio.get_running_loop()

    def tell(progress: SaveProgress) -> None:
        loop.call_soon_threadsafe(on_progress, _info(request, progress))

    work = asyncio.ensure_future(asyncio.to_thread(write, tell, cancelled))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        cancellation_is_dealt_with()
        cancelled.set()
        return await work


def _info(request: SaveRequest, progress: SaveProgress) -> SaveInfo:
    return SaveInfo(
        status=SaveStatus.ACTIVE,
        completed_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        kind=request.kind,
        path=request.path,
        stage=progress.stage.value,
        round_number=progress.round_number,
    )
