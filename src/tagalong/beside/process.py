"""The VMM under the library, and this process beside it, from start to end.

Two sockets are made before the VMM starts, and the VMM inherits their descriptors: one for the
library in its process, one for a QMP monitor of ours. Their files lie beside the control socket,
so a process that takes this one's place finds them. The VMM's end is this process's end, with the
VMM's status; this process's end is not the VMM's.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tagalong.beside.command import (
    awaits_migration,
    check_command,
    environment,
    library_path,
    with_monitor,
)
from tagalong.beside.commands import BesideCommands
from tagalong.beside.incoming import AwaitedTags, TagsIncoming
from tagalong.beside.monitor import VmmMonitor
from tagalong.beside.outgoing import TagsOutgoing, VmmAccess
from tagalong.control.client import connect
from tagalong.errors import ControlError, HostError, TagalongError, UsageError, with_causes
from tagalong.qapi.migration import MigrationStatus
from tagalong.qmp.messages import Event
from tagalong.qmp.server import ControlServer
from tagalong.socket_files import SocketFile
from tagalong.vmm.record import MigrationRecord

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BACKLOG: Final = 8
_CANCEL_TIMEOUT_S: Final = 5.0
_CONNECT_AGAIN_S: Final = 0.1

Announce = Callable[[str], None]


@dataclass(frozen=True)
class BesideOptions:
    """What to run, under which control socket, and where its tags are awaited, if they are."""

    command: tuple[str, ...]
    control: Path
    incoming: AwaitedTags | None = None


def run_beside(options: BesideOptions, announce: Announce) -> int:
    """Run a VMM beside this process until it ends; return its status, 128 + N for signal N.

    `announce` gets messages for people. Raises UsageError or HostError if the VMM cannot be
    started so; then nothing was.
    """
    check_command(options.command)
    if options.incoming is not None and not awaits_migration(options.command):
        raise UsageError(
            "--incoming awaits tags, so the VMM must await the rest: give it -incoming URI, too"
        )
    if options.incoming is None and awaits_migration(options.command):
        raise UsageError(
            "the VMM awaits a migration (-incoming), so its tags must be awaited, too: give "
            "--incoming URI"
        )
    return asyncio.run(_BesideProcess(options, announce).run())


class _BesideProcess:
    """Puts all of it together and takes it apart; lives as long as its event loop."""

    def __init__(self, options: BesideOptions, announce: Announce) -> None:
        self._options = options
        self._tell = announce
        self._incoming: TagsIncoming | None = None
        self._outgoing: TagsOutgoing | None = None
        self._monitor: VmmMonitor | None = None
        self._library = _beside(options.control, "kvm")
        self._monitor_path = _beside(options.control, "qmp")

    async def run(self) -> int:
        self._server = ControlServer(
            BesideCommands(self._require_monitor, self._require_outgoing, lambda: self._incoming)
        )
        async with AsyncExitStack() as stack:
            library = self._listen(stack, self._library, "the library's socket")
            monitor = self._listen(stack, self._monitor_path, "the VMM's monitor")
            await self._server.start(self._options.control)
            stack.push_async_callback(self._server.close)
            if self._options.incoming is not None:
                self._incoming = TagsIncoming(
                    self._options.incoming, self._library, self._migration_changed, self._refused
                )
            process = self._start(library.socket.fileno(), monitor.socket.fileno())
            for each in (library, monitor):
                each.socket.close()
            self._pass_signals_on(process)
            self._announce(f"control socket (QMP): {self._options.control}")
            return await self._stay_beside(process)

    def _listen(self, stack: AsyncExitStack, path: Path, what: str) -> SocketFile:
        file = SocketFile(path, what, _BACKLOG)
        stack.callback(file.remove)
        stack.callback(file.socket.close)
        return file

    def _start(self, library: int, monitor: int) -> "subprocess.Popen[bytes]":
        command = with_monitor(self._options.command, monitor)
        variables = environment(
            os.environ, library_path(), library, holds=self._options.incoming is not None
        )
        try:
            return subprocess.Popen(command, env=variables, pass_fds=(library, monitor))
        except OSError as error:
            raise HostError(f"cannot start {command[0]}: {error.strerror}") from error

    async def _stay_beside(self, process: "subprocess.Popen[bytes]") -> int:
        """Serve until the VMM ends; return its status."""
        ending = asyncio.ensure_future(asyncio.to_thread(process.wait))
        serving = asyncio.ensure_future(self._serve(process))
        try:
            status = await ending
        finally:
            if self._incoming is not None:
                self._incoming.close()
            if self._outgoing is not None:
                await self._outgoing.cancel_and_wait(_CANCEL_TIMEOUT_S)
            serving.cancel()
            with suppress(asyncio.CancelledError, TagalongError):
                await serving
        self._server.broadcast(Event("SHUTDOWN", {"guest": False, "reason": "host-error"}))
        return status if status >= 0 else 128 - status

    async def _serve(self, process: "subprocess.Popen[bytes]") -> None:
        """Stay connected to the VMM's monitor, and pass its events on."""
        while process.poll() is None:
            try:
                async with connect(self._monitor_path) as client:
                    self._monitor = VmmMonitor(client, asyncio.get_running_loop())
                    self._begin()
                    async for event in client.events():
                        self._server.broadcast(Event(event.name, event.data))
            except ControlError as error:
                if process.poll() is None and self._monitor is not None:
                    self._announce(f"the VMM's monitor: {with_causes(error)}")
            await asyncio.sleep(_CONNECT_AGAIN_S)

    def _begin(self) -> None:
        if self._outgoing is None and self._monitor is not None:
            access = VmmAccess(self._monitor, self._library)
            self._outgoing = TagsOutgoing(access, self._migration_changed)
            if self._incoming is not None:
                self._incoming.start()

    def _require_monitor(self) -> VmmMonitor:
        if self._monitor is None:
            raise HostError("the VMM has not opened its monitor yet")
        return self._monitor

    def _require_outgoing(self) -> TagsOutgoing:
        if self._outgoing is None:
            raise HostError("the VMM has not opened its monitor yet")
        return self._outgoing

    def _pass_signals_on(self, process: "subprocess.Popen[bytes]") -> None:
        def pass_on(number: int) -> None:
            with suppress(ProcessLookupError):
                process.send_signal(number)

        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, pass_on, number)

    # --- what is said ---

    def _announce(self, message: str) -> None:
        with suppress(OSError):  # the reader of our messages may have gone away
            self._tell(message)

    def _refused(self, error: HostError) -> None:
        self._announce(f"rejected: {error}")

    def _migration_changed(self, record: MigrationRecord) -> None:
        info = record.info()
        data: dict[str, object] = {"status": info.status.value}
        if info.status.is_final:
            data["x-info"] = info.to_qmp()
        self._server.broadcast(Event("MIGRATION", data))
        message = self._words(record)
        if message is not None:
            self._announce(message)

    def _words(self, record: MigrationRecord) -> str | None:
        arrives = self._incoming is not None and record is self._incoming.record
        match record.status:
            case MigrationStatus.SETUP if arrives and self._incoming is not None:
                return (
                    f"waiting for tags on {self._incoming.uri}; the guest is held until they are "
                    "there"
                )
            case MigrationStatus.COMPLETED if arrives:
                return "all tags are there: the guest may run"
            case MigrationStatus.COMPLETED:
                return "the tags have moved to the destination"
            case MigrationStatus.FAILED | MigrationStatus.CANCELLED:
                cause = f": {with_causes(record.error)}" if record.error is not None else ""
                where = "; the guest is still held" if arrives else ""
                return f"the migration of tags {record.status.value}{where}{cause}"
        return None


def _beside(control: Path, suffix: str) -> Path:
    return control.with_name(f"{control.name}.{suffix}")
