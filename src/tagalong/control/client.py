"""Talks to a VM's control socket: a thin layer over the public qemu.qmp package.

It turns that package's exceptions into tagalong's, and knows how a migration is followed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError

from tagalong import errors
from tagalong.errors import CommandError, ControlError, MigrationError, TagalongError
from tagalong.vmm.access_wish import to_argument
from tagalong.vmm.record import MigrationRequest, MigrationStatus
from tagalong.vmm.save_record import SaveKind, SaveRequest, SaveStatus

_CONNECT_TIMEOUT_S = 10.0
_POLL_S = 0.1

# No option of our commands sets these: whoever did it by QMP wants them to stay.
_LEFT_ALONE = {"cpu-throttle-initial", "cpu-throttle-increment", "max-cpu-throttle"}

# The package logs every lost connection; we report it ourselves, once.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())
logging.getLogger("qemu.qmp").propagate = False

Answer = Mapping[str, object]


class ControlClient:
    """A negotiated connection to one VM; made by `connect`."""

    def __init__(self, qmp: QMPClient, path: Path) -> None:
        self._qmp = qmp
        self._path = path

    async def execute(self, command: str, arguments: Answer | None = None) -> Answer:
        """Run one command and return its value.

        Raises CommandError with the VM's reason if it refuses, ControlError if the
        connection is lost.
        """
        try:
            return cast("Answer", await self._qmp.execute(command, arguments))
        except ExecuteError as error:
            raise CommandError(f"the VM refused {command}: {error}") from error
        except (QMPError, OSError, EOFError) as error:
            raise ControlError(f"lost the control socket {self._path}: {error}") from error

    async def run_state(self) -> str:
        """Return the VM's run state by QMP's name."""
        return str((await self.execute("query-status"))["status"])

    async def migration(self) -> Answer:
        """Return what QMP's query-migrate says."""
        return await self.execute("query-migrate")

    async def migrate(
        self, request: MigrationRequest, on_progress: Callable[[Answer], None]
    ) -> Answer:
        """Migrate the VM away: `begin_migration` and `follow_migration`."""
        await self.begin_migration(request)
        return await self.follow_migration(on_progress)

    async def begin_migration(self, request: MigrationRequest) -> None:
        """Let the VM begin to migrate. Raises CommandError if it refuses."""
        settings = request.settings
        parameters = settings.parameters()
        wanted = {name: parameters[name] for name in parameters if name not in _LEFT_ALONE}
        await self.execute("migrate-set-parameters", wanted)
        await self.execute("migrate-set-capabilities", {"capabilities": settings.capabilities()})
        await self.execute("migrate", _arguments(request))

    async def follow_migration(self, on_progress: Callable[[Answer], None]) -> Answer:
        """Wait for the end of the migration under way and return the source's report.

        `on_progress` gets the answers of query-migrate, ten times a second. Raises the
        error that ended the migration, in its own class. If the waiting task is cancelled,
        the migration goes on: see cancel_migration.
        """
        listener = EventListener("MIGRATION")
        with self._qmp.listen(listener):
            while True:
                info = await self.migration()
                on_progress(info)
                if MigrationStatus(info["status"]).is_final:
                    return _outcome(info)
                await _wait_for_event(listener)

    async def cancel_migration(self, on_progress: Callable[[Answer], None]) -> Answer:
        """Cancel the migration and wait for its end; returns and raises as follow_migration."""
        await self.execute("migrate_cancel")
        return await self.follow_migration(on_progress)

    # --- snapshots and dumps ---

    async def begin_save(self, request: SaveRequest) -> None:
        """Let the VM begin to save itself. Raises CommandError if it refuses."""
        if request.kind is SaveKind.DUMP:
            await self.execute("dump-guest-memory", _dump_arguments(request))
            return
        await self.execute("migrate-set-parameters", {"downtime-limit": request.max_downtime_ms})
        await self.execute("x-snapshot", _snapshot_arguments(request))

    async def follow_save(self, on_progress: Callable[[Answer], None]) -> Answer:
        """Wait until the VM is saved and return the report.

        `on_progress` gets the answers of query-dump. Raises the error that ended it, in its
        own class. If the waiting task is cancelled, the VM goes on saving: see cancel_save.
        """
        listener = EventListener("DUMP_COMPLETED")
        with self._qmp.listen(listener):
            while True:
                info = await self.execute("query-dump")
                on_progress(info)
                if info["status"] == SaveStatus.COMPLETED.value:
                    return cast("Answer", info["x-report"])
                if info["status"] == SaveStatus.FAILED.value:
                    raise _rebuild_error(str(info.get("x-error-class")), str(info["error-desc"]))
                await _wait_for_event(listener)

    async def cancel_save(self, on_progress: Callable[[Answer], None]) -> Answer:
        """Cancel saving and wait for its end; returns and raises as follow_save."""
        await self.execute("x-dump-cancel")
        return await self.follow_save(on_progress)


async def _wait_for_event(listener: EventListener) -> None:
    """Return at the next event, or when it is time to look at the progress again."""
    # Not wait_for: before Python 3.12 that loses a cancellation that comes with the event.
    with suppress(TimeoutError):
        async with asyncio.timeout(_POLL_S):
            await listener.get()


def _arguments(request: MigrationRequest) -> Answer:
    return {
        "uri": request.uri,
        "x-verify": request.verify,
        "x-drop-tags": request.drop_tags,
        **to_argument(request.access),
    }


def _dump_arguments(request: SaveRequest) -> Answer:
    return {
        "paging": request.space != "physical",
        "protocol": f"file:{request.path}",
        "detach": True,
        "x-space": request.space,
        "x-vcpu": request.vcpu,
        **to_argument(request.access),
    }


def _snapshot_arguments(request: SaveRequest) -> Answer:
    return {
        "protocol": f"file:{request.path}",
        "detach": True,
        "live": request.live,
        "zstd": request.compress,
        **to_argument(request.access),
    }


def _outcome(info: Answer) -> Answer:
    if MigrationStatus(info["status"]) is MigrationStatus.COMPLETED:
        return cast("Answer", info["x-report"])
    raise _rebuild_error(str(info.get("x-error-class")), str(info.get("error-desc")))


def _rebuild_error(name: str, text: str) -> TagalongError:
    """Return the error of the VM's process: of its class if we know it, with its text."""
    found = getattr(errors, name, None)
    if not (isinstance(found, type) and issubclass(found, TagalongError)):
        found = MigrationError
    # Not called: some classes make their text out of parts, and this text is complete.
    error = found.__new__(found)
    Exception.__init__(error, text)
    return error


@asynccontextmanager
async def connect(path: Path) -> AsyncIterator[ControlClient]:
    """Connect to the control socket at `path` for the time of a `with` block.

    Raises ControlError if nobody listens there or it is no QMP socket.

    >>> async with connect(Path("vm.sock")) as client:
    ...     await client.execute("stop")
    """
    qmp = QMPClient("tagalong")
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await qmp.connect(str(path))
    except TimeoutError as error:
        raise ControlError(f"no QMP greeting from {path} in {_CONNECT_TIMEOUT_S:.0f} s") from error
    except (QMPError, OSError) as error:
        raise ControlError(f"cannot connect to the control socket {path}: {error}") from error
    try:
        yield ControlClient(qmp, path)
    finally:
        await _disconnect(qmp)


async def _disconnect(qmp: QMPClient) -> None:
    # The VM's process may have gone first.
    with suppress(QMPError, OSError, EOFError):
        await qmp.disconnect()
