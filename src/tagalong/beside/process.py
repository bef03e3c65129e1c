"""The VMM under the library, and this process beside it, from start to end.

Two sockets are made before the VMM starts, and the VMM inherits their descriptors: one for the
library in its process, one for a QMP monitor of ours. Their files lie beside the control socket,
so a process that takes this one's place (`attach`) finds them. The VMM's end is this process's
end, with the VMM's status; this process's end is not the VMM's.
"""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tagalong.beside.command import awaits_migration, check_command
from tagalong.beside.commands import BesideCommands
from tagalong.beside.driving import settle
from tagalong.beside.dump import SavedBeside
from tagalong.beside.incoming import AwaitedTags, TagsIncoming
from tagalong.beside.monitor import VmmMonitor
from tagalong.beside.outgoing import TagsOutgoing, VmmAccess
from tagalong.beside.vmm import (
    LIBRARY_SUFFIX,
    MONITOR_SUFFIX,
    SETTINGS_SUFFIX,
    FoundVmm,
    StartedVmm,
    Vmm,
    beside,
    socket_for,
)
from tagalong.beside.vmm_settings import SettingsFile
from tagalong.control.client import ControlClient, connect
from tagalong.errors import (
    ControlError,
    HostError,
    RunStateError,
    TagalongError,
    UsageError,
    with_causes,
)
from tagalong.qapi.migration import MigrationStatus
from tagalong.qmp.messages import Event
from tagalong.qmp.server import ControlServer
from tagalong.socket_files import remove_if_stale
from tagalong.vmm.announcement import save_announcement
from tagalong.vmm.record import MigrationRecord
from tagalong.vmm.saving import Saving

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CANCEL_TIMEOUT_S: Final = 5.0
_CONNECT_AGAIN_S: Final = 0.1
_SEES_END_S: Final = 1.0
_SWITCH_S: Final = 0.0005
_LOOK_S: Final = 0.02

# Collections look at what is young; after so many objects, because each one is downtime.
_COLLECT_AFTER: Final = 50_000

Announce = Callable[[str], None]


@dataclass(frozen=True)
class BesideOptions:
    """The control socket, and where tags are awaited, if they are."""

    control: Path
    incoming: AwaitedTags | None = None


def run_beside(command: Sequence[str], options: BesideOptions, announce: Announce) -> int:
    """Run a VMM beside this process until it ends; return its status, 128 + N for signal N.

    `announce` gets messages for people. Raises UsageError or HostError if the VMM cannot be
    started so; then nothing was.
    """
    check_command(command)
    check_awaited(command, awaits_tags=options.incoming is not None)

    def start(stack: ExitStack) -> Vmm:
        sockets = [stack.enter_context(socket_for(path, what)) for path, what in _names(options)]
        # What a process that had this name has left is about another VMM.
        SettingsFile(beside(options.control, SETTINGS_SUFFIX)).remove()
        return StartedVmm(command, sockets, holds=options.incoming is not None)

    return asyncio.run(_BesideProcess(options, start, announce).run())


def attach(pid: int, options: BesideOptions, announce: Announce) -> int:
    """Be the process beside a VMM that was started under the library, until the VMM ends.

    Returns 0. Raises HostError if there is no such process, or its sockets are not there,
    UsageError if it has ended and another one is the VMM.
    """
    for path, what in _names(options):
        if not path.is_socket():
            raise HostError(
                f"{path} ({what}) is missing: was process {pid} started by tagalong beside with "
                f"--control {options.control}?"
            )
    vmm = FoundVmm(pid)
    try:
        return asyncio.run(_BesideProcess(options, lambda _: vmm, announce).run())
    finally:
        if vmm.has_ended:
            _remove_what_is_left(pid, options)


def _remove_what_is_left(pid: int, options: BesideOptions) -> None:
    """Remove the files of a VMM that has ended: no other process does. Raises UsageError."""
    left = [path for path, _ in _names(options) if not remove_if_stale(path)]
    if left:
        raise UsageError(
            f"process {pid} has ended, but a VMM still listens at {left[0]}: it is another "
            "process; attach to that one"
        )
    SettingsFile(beside(options.control, SETTINGS_SUFFIX)).remove()


def check_awaited(command: Sequence[str], *, awaits_tags: bool) -> None:
    """Raise UsageError if either the tags are awaited, or the rest, but not both."""
    if awaits_tags and not awaits_migration(command):
        raise UsageError(
            "--incoming awaits tags, so the VMM must await the rest: give it -incoming URI, too"
        )
    if not awaits_tags and awaits_migration(command):
        raise UsageError(
            "the VMM awaits a migration (-incoming), so its tags must be awaited, too: give "
            "--incoming URI"
        )


def _names(options: BesideOptions) -> tuple[tuple[Path, str], tuple[Path, str]]:
    return (
        (beside(options.control, LIBRARY_SUFFIX), "the library's socket"),
        (beside(options.control, MONITOR_SUFFIX), "the VMM's monitor"),
    )


class _BesideProcess:
    """Puts all of it together and takes it apart; lives as long as its event loop.

    `find` starts the VMM, or finds it.
    """

    def __init__(
        self, options: BesideOptions, find: Callable[[ExitStack], Vmm], announce: Announce
    ) -> None:
        self._options = options
        self._find = find
        self._tell = announce
        self._incoming: TagsIncoming | None = None
        self._outgoing: TagsOutgoing | None = None
        self._monitor: VmmMonitor | None = None
        self._has_said_shutdown = False
        self._guest_id = b""
        self._library = beside(options.control, LIBRARY_SUFFIX)
        self._monitor_path = beside(options.control, MONITOR_SUFFIX)
        self._settings = SettingsFile(beside(options.control, SETTINGS_SUFFIX))

    async def run(self) -> int:
        # The threads hand work to each other while the guest is stopped: none waits 5 ms for that.
        sys.setswitchinterval(_SWITCH_S)
        # Nor for a collection that looks through all that is loaded.
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER)
        self._saving = Saving(SavedBeside(self._saved_vm), self._save_ended)
        self._server = ControlServer(
            BesideCommands(
                self._require_monitor, self._require_outgoing, lambda: self._incoming, self._saving
            )
        )
        with ExitStack() as stack:
            try:
                if self._options.incoming is not None:
                    self._incoming = TagsIncoming(
                        self._options.incoming,
                        self._library,
                        self._migration_changed,
                        self._refused,
                    )
                # Last, so that what waits for the socket (wrapper.py) knows that tags can come.
                await self._server.start(self._options.control)
                vmm = self._find(stack)
                self._handle_signals(vmm)
                self._announce(f"control socket (QMP): {self._options.control}")
                return await self._stay_beside(vmm)
            finally:
                if self._incoming is not None:
                    await self._incoming.close(_CANCEL_TIMEOUT_S)
                await self._server.close()

    async def _stay_beside(self, vmm: Vmm) -> int:
        """Serve until the VMM ends; return its status."""
        ending = asyncio.ensure_future(asyncio.to_thread(vmm.wait))
        serving = asyncio.ensure_future(self._serve(vmm))
        try:
            status = await ending
        finally:
            await self._saving.cancel_and_wait(_CANCEL_TIMEOUT_S)
            if self._outgoing is not None:
                await self._outgoing.cancel_and_wait(_CANCEL_TIMEOUT_S)
            if vmm.has_ended:  # which it sees by itself: cancelled, its connection ends untidily
                await asyncio.wait((serving,), timeout=_SEES_END_S)
            serving.cancel()
            with suppress(asyncio.CancelledError, TagalongError):
                await serving
        if not self._has_said_shutdown:  # a VMM that was killed says nothing
            self._server.broadcast(Event("SHUTDOWN", {"guest": False, "reason": "host-error"}))
        return status

    async def _serve(self, vmm: Vmm) -> None:
        """Stay connected to the VMM's monitor, and pass its events on."""
        said = None
        while not vmm.has_ended:
            try:
                async with connect(self._monitor_path) as client:
                    self._begin(client)
                    client.tap_events(self._require_monitor().news.note)
                    async for event in client.events():
                        await self._let_migration_first()
                        self._has_said_shutdown |= event.name == "SHUTDOWN"
                        self._server.broadcast(Event(event.name, event.data))
            except ControlError as error:
                message = f"the VMM's monitor: {with_causes(error)}"
                if not vmm.has_ended and self._monitor is not None and message != said:
                    self._announce(message)
                    said = message
            await asyncio.sleep(_CONNECT_AGAIN_S)

    async def _let_migration_first(self) -> None:
        """Wait while the guest is stopped for its last tags, which another thread sends."""
        while self._require_monitor().news.is_urgent:
            await asyncio.sleep(_LOOK_S)

    def _begin(self, client: ControlClient) -> None:
        if self._monitor is not None:
            self._monitor.reconnected(client)
            return
        self._monitor = VmmMonitor(client, asyncio.get_running_loop())
        self._settling = asyncio.ensure_future(self._settle(self._monitor))

    async def _settle(self, monitor: VmmMonitor) -> None:
        """End what an earlier process beside this VMM has left; then migrations may begin."""
        self._guest_id = await monitor.guest_id()
        if self._incoming is not None:
            self._incoming.start(self._guest_id)
        access = self._access()
        try:
            words = await asyncio.to_thread(settle, access.monitor, access.settings)
        except TagalongError as error:
            words = (
                "cannot end the migration that an earlier process beside this VMM had begun: "
                f"{with_causes(error)}; cancel it by a monitor of yours (migrate_cancel)"
            )
        if words is not None:
            self._announce(words)
        self._outgoing = TagsOutgoing(access, self._migration_changed)

    def _access(self) -> VmmAccess:
        return VmmAccess(self._require_monitor(), self._library, self._settings, self._guest_id)

    def _saved_vm(self) -> VmmAccess:
        """Return how to look at the guest. Raises RunStateError, HostError if that is not now."""
        if self._incoming is not None and self._incoming.is_holding:
            raise RunStateError("the VM is not here yet: an incoming migration is awaited")
        if self._require_outgoing().is_under_way:
            raise RunStateError("There's a migration process in progress")
        return self._access()

    def _require_monitor(self) -> VmmMonitor:
        if self._monitor is None:
            raise HostError("the VMM has not opened its monitor yet")
        return self._monitor

    def _require_outgoing(self) -> TagsOutgoing:
        if self._outgoing is None:
            raise HostError(
                "the VMM has not opened its monitor yet, or an earlier migration is still being "
                "ended: try again"
            )
        return self._outgoing

    def _handle_signals(self, vmm: Vmm) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, vmm.signal, number)

    # --- what is said ---

    def _announce(self, message: str) -> None:
        with suppress(OSError):  # the reader of our messages may have gone away
            self._tell(message)

    def _refused(self, error: HostError) -> None:
        self._announce(f"rejected: {error}")

    def _save_ended(self, event: Event) -> None:
        self._server.broadcast(event)
        if self._saving.record is not None:
            self._announce(save_announcement(self._saving.record))

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
            case MigrationStatus.SETUP if self._outgoing is not None and self._outgoing.awaits_vmm:
                return f"the tags go with the VMM's next migration, to {self._outgoing.awaits_vmm}"
            case MigrationStatus.COMPLETED if arrives:
                return "all tags are there: the guest may run"
            case MigrationStatus.COMPLETED:
                return "the tags have moved to the destination"
            case MigrationStatus.FAILED | MigrationStatus.CANCELLED:
                cause = f": {with_causes(record.error)}" if record.error is not None else ""
                where = "; the guest is still held" if arrives else ""
                return f"the migration of tags {record.status.value}{where}{cause}"
        return None
