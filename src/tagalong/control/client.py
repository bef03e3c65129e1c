"""Talks to a VM's control socket: a thin layer over the public qemu.qmp package.

It turns that package's exceptions into tagalong's and the VM's answers into typed values, and knows
how a migration is followed. The VM at the other end is not trusted: see qapi/json_fields.py.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from qemu.qmp import (
    EventListener,
    ExecInterruptedError,
    ExecuteError,
    Message,
    QMPClient,
    QMPError,
    Runstate,
)

from tagalong.errors import CommandError, ControlError, TagalongError
from tagalong.printable import one_line
from tagalong.qapi.census import TagCensus
from tagalong.qapi.events import VmEvent
from tagalong.qapi.json_fields import JsonFields, anything, text
from tagalong.qapi.migration import MigrationInfo, MigrationRequest, MigrationStatus
from tagalong.qapi.reports import MigrationResult, SaveResult
from tagalong.qapi.saving import SaveInfo, SaveKind, SaveRequest

_CONNECT_TIMEOUT_S = 10.0
_POLL_S = 0.1
_MAX_EVENTS = 256

ANSWER_TIMEOUT_S = 60.0
"""How long a VM may take to answer a command that only asks, or only begins something."""

# The events whose data has `x-info`: all that is known of work that has ended.
_LAST_WORDS = ("MIGRATION", "DUMP_COMPLETED")

# No option of our commands sets these: an operator who set them by QMP wants them to stay.
_LEFT_ALONE = {"cpu-throttle-initial", "cpu-throttle-increment", "max-cpu-throttle"}

# The package logs every lost connection; we report it ourselves, once.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())
logging.getLogger("qemu.qmp").propagate = False

OnMigration = Callable[[MigrationInfo], None]
OnSave = Callable[[SaveInfo], None]
_T = TypeVar("_T")

OnEvent = Callable[[VmEvent], None]


class _News(EventListener):
    """What events of a VM say; keeps the last of each kind, so a flood of events costs nothing.

    The package would keep a history of all. `last` has the data of the last event of each name,
    `arrived` is set by every event.
    """

    def __init__(self) -> None:
        super().__init__(("SHUTDOWN", *_LAST_WORDS))
        self.last: dict[str, object] = {}
        self.arrived = asyncio.Event()

    async def put(self, event: Message) -> None:
        """Note an event."""
        if self.accept(event):
            self.last[str(event["event"])] = event.get("data")
            self.arrived.set()

    async def wait(self) -> None:
        """Return at the next event, or when it is time to look at the progress again."""
        # Not wait_for: before Python 3.12 that loses a cancellation that comes with the event.
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL_S):
                await self.arrived.wait()
        self.arrived.clear()


class _BoundedClient(QMPClient):
    """The package's client with a bound on one message; twice as much is buffered at most.

    And with messages that any thread can send by itself, between those of the package.
    """

    readbuflen = 2 << 20

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.sending = threading.Lock()
        """Held while bytes leave."""

    def _do_send(self, msg: Message) -> None:
        with self.sending:
            super()._do_send(msg)

    def encode(self, command: str, arguments: Mapping[str, object]) -> tuple[str, bytes]:
        """Return a command's id, by which `reply` knows what answers it, and its bytes."""
        message = self.make_execute_msg(command, arguments)
        message["id"] = name = self._get_exec_id()
        self._pending[name] = asyncio.Queue(maxsize=1)
        return name, bytes(message)

    async def reply(self, name: str) -> Message:
        """Wait for what answers the command that has this id."""
        return await self._reply(name)

    def own_descriptor(self) -> int:
        """Return a descriptor of the connection, which is the caller's to close."""
        assert self._writer is not None  # noqa: S101 (connected)
        return os.dup(self._writer.get_extra_info("socket").fileno())

    @property
    def is_mid_message(self) -> bool:
        """Return whether a part of a message is still to be sent."""
        return self._writer is None or self._writer.transport.get_write_buffer_size() > 0


class PreparedCommand:
    """A command whose bytes are ready, so that any thread sends it in one system call; once.

    Its descriptor is closed with the connection: a VMM takes the next one only then.
    """

    def __init__(self, qmp: _BoundedClient, command: str, arguments: Mapping[str, object]) -> None:
        self._qmp = qmp
        self._descriptor = qmp.own_descriptor()
        name, self._data = qmp.encode(command, arguments)
        self._reply = asyncio.ensure_future(qmp.reply(name))
        self._reply.add_done_callback(self._ended)

    def send(self) -> bool:
        """Send it; return whether that was possible. From any thread."""
        with self._qmp.sending:
            if self._descriptor < 0 or self._qmp.is_mid_message:
                return False
            try:
                # A Unix socket takes all of so few bytes, or none (net/unix/af_unix.c).
                return os.write(self._descriptor, self._data) == len(self._data)
            except OSError:
                return False

    async def answer(self) -> Message:
        """Wait for the answer, a refusal too. Raises the package's exceptions."""
        return await asyncio.shield(self._reply)

    def close(self) -> None:
        """Forget it, sent or not. In the event loop; safe to call twice."""
        self._reply.cancel()

    def _ended(self, reply: "asyncio.Future[Message]") -> None:
        with self._qmp.sending:
            os.close(self._descriptor)
            self._descriptor = -1
        if not reply.cancelled():
            reply.exception()  # nobody may ask for it any more


class _EventQueue(EventListener):
    """All events, in order; a VM that sends them faster than they are read has to wait.

    The package would hold any number of them, and keep a history besides.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: asyncio.Queue[Message] = asyncio.Queue(_MAX_EVENTS)

    async def put(self, event: Message) -> None:
        """Add an event, once there is room for it."""
        await self._waiting.put(event)

    async def get(self) -> Message:
        """Return the next event, once there is one."""
        return await self._waiting.get()

    def empty(self) -> bool:
        """Return whether no event waits."""
        return self._waiting.empty()

    def clear(self) -> list[Message]:
        """Remove and return the events that wait."""
        return [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]


class _EventTap(EventListener):
    """Hands each event over as soon as it is read, before any task has its turn."""

    def __init__(self, note: OnEvent) -> None:
        super().__init__()
        self._note = note

    async def put(self, event: Message) -> None:
        """Hand an event over. One that makes no sense ends `ControlClient.events`."""
        with suppress(ControlError):
            self._note(VmEvent.from_qmp(event))


class ControlClient:
    """A negotiated connection to one VM; made by `connect`.

    The last words of a VM's process are events: SHUTDOWN with the reason, and MIGRATION or
    DUMP_COMPLETED with all that is known of the work that the end interrupted. They arrive before
    the connection ends, so the client can tell what happened although nothing answers any more.
    """

    def __init__(self, qmp: _BoundedClient, path: Path) -> None:
        self._qmp = qmp
        self._path = path
        self._news = _News()
        # The package's own listener would hold every event that the VM ever sends.
        qmp.events.event_filter = lambda _: False
        qmp.register_listener(self._news)

    @property
    def shutdown_reason(self) -> str | None:
        """Return why the VM's process ends, by QMP's word; None if it has not said so.

        Raises ControlError if it said something that makes no sense.
        """
        if "SHUTDOWN" not in self._news.last:
            return None
        return JsonFields(self._news.last["SHUTDOWN"], "SHUTDOWN").read("reason", text)

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = ANSWER_TIMEOUT_S,
    ) -> object:
        """Run one command and return its value, as it came from the VM.

        Raises CommandError with the VM's reason if it refuses, ControlError if the connection is
        lost, or if the answer takes longer than `timeout_s`. None: wait for as long as it takes.
        """
        return await self._run(command, self._qmp.execute(command, arguments), timeout_s)

    async def prepare(self, command: str, arguments: Mapping[str, object]) -> PreparedCommand:
        """Make a command ready to be sent by any thread. Raises ControlError without connection."""
        return await self._run(command, self._prepare(command, arguments), ANSWER_TIMEOUT_S)

    async def _prepare(self, command: str, arguments: Mapping[str, object]) -> PreparedCommand:
        return PreparedCommand(self._qmp, command, arguments)

    async def answered(self, command: str, prepared: PreparedCommand) -> None:
        """Wait for the answer to a prepared command that was sent. Raises as `execute`."""
        answer = await self._run(command, prepared.answer(), ANSWER_TIMEOUT_S)
        if "error" in answer:
            reason = JsonFields(answer["error"], command).read("desc", text)
            raise CommandError(f"the VM refused {command}: {reason}")

    async def _run(self, command: str, work: Awaitable[_T], timeout_s: float | None) -> _T:
        try:
            async with asyncio.timeout(timeout_s):
                return await work
        except ExecuteError as error:
            reason = one_line(str(error))
            raise CommandError(f"the VM refused {command}: {reason}") from error
        except TimeoutError as error:
            raise ControlError(
                f"the VM at {self._path} has not answered {command} in {timeout_s:.0f} s: see "
                "whether its process is stopped"
            ) from error
        except (TagalongError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 (see the comment)
            # The package's reader meets messages that it does not expect, an `id` that is a list
            # or a thousand brackets, with whatever its own code then raises.
            raise ControlError(
                f"lost the control socket {self._path}: {_reason(error)}"
            ) from _told(error)

    async def run_state(self) -> str:
        """Return the VM's run state by QMP's name."""
        return JsonFields(await self.execute("query-status"), "query-status").read("status", text)

    async def migration(self) -> MigrationInfo:
        """Return what QMP's query-migrate says."""
        return MigrationInfo.from_qmp(await self.execute("query-migrate"))

    async def saving(self) -> SaveInfo:
        """Return what QMP's query-dump says."""
        return SaveInfo.from_qmp(await self.execute("query-dump"))

    async def events(self) -> AsyncIterator[VmEvent]:
        """Yield the VM's events from now on, until the connection ends."""
        listener = _EventQueue()
        with self._qmp.listen(listener):
            # The end of a connection wakes no listener, so it is looked for in between.
            while self._qmp.runstate is Runstate.RUNNING or not listener.empty():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_S):
                        event = await listener.get()
                    yield VmEvent.from_qmp(event)

    def tap_events(self, note: OnEvent) -> None:
        """Call `note` with each event from now on, in the event loop, before all who wait."""
        self._qmp.register_listener(_EventTap(note))

    async def count_tags(self) -> TagCensus:
        """Return what x-query-tags says: how many granules carry a tag."""
        return TagCensus.from_qmp(await self.execute("x-query-tags", timeout_s=None))

    async def migrate(self, request: MigrationRequest, on_progress: OnMigration) -> MigrationResult:
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
        self._news.last.pop("MIGRATION", None)
        await self.execute("migrate", request.to_arguments())

    async def follow_migration(self, on_progress: OnMigration) -> MigrationResult:
        """Wait for the end of the migration under way and return the source's report.

        `on_progress` gets the answers of query-migrate, ten times a second. Raises RemoteError
        if the migration failed. If the waiting task is cancelled, the migration continues: see
        cancel_migration. Raises ControlError if the VM knows of no migration for 60 s.
        """
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            info = MigrationInfo.from_qmp(await self._ask("query-migrate", "MIGRATION"))
            on_progress(info)
            if info.status.is_final:
                return info.outcome()
            if info.status is MigrationStatus.NONE and time.monotonic() > deadline_s:
                raise ControlError(
                    f"the VM at {self._path} accepted the migration, and knows of none since: see "
                    "which program listens there"
                )
            await self._news.wait()

    async def _ask(self, command: str, event: str) -> object:
        """Return the answer of a query, or, if it gets none, what the last event said instead."""
        try:
            return await self.execute(command)
        except ControlError:
            data = self._news.last.get(event)
            if data is None or "x-info" not in (members := JsonFields(data, event)):
                raise
            return members.read("x-info", anything)

    async def cancel_migration(self, on_progress: OnMigration) -> MigrationResult:
        """Cancel the migration and wait for its end; returns and raises as follow_migration."""
        await self.execute("migrate_cancel")
        return await self.follow_migration(on_progress)

    # --- snapshots and dumps ---

    async def begin_save(self, request: SaveRequest) -> None:
        """Let the VM begin to save itself. Raises CommandError if it refuses."""
        if request.kind is SaveKind.SNAPSHOT or request.live:
            limit = {"downtime-limit": request.max_downtime_ms}
            await self.execute("migrate-set-parameters", limit)
        self._news.last.pop("DUMP_COMPLETED", None)
        await self.execute(request.command, request.to_arguments())

    async def follow_save(self, on_progress: OnSave) -> SaveResult:
        """Wait until the VM is saved and return the report.

        `on_progress` gets the answers of query-dump, ten times a second. Raises RemoteError if it
        failed. If the waiting task is cancelled, the VM continues to save: see cancel_save.
        """
        while True:
            info = SaveInfo.from_qmp(await self._ask("query-dump", "DUMP_COMPLETED"))
            on_progress(info)
            if info.status.is_final:
                return info.outcome()
            await self._news.wait()

    async def cancel_save(self, on_progress: OnSave) -> SaveResult:
        """Cancel saving and wait for its end; returns and raises as follow_save."""
        await self.execute("x-dump-cancel")
        return await self.follow_save(on_progress)


@asynccontextmanager
async def connect(path: Path) -> AsyncIterator[ControlClient]:
    """Connect to the control socket at `path` for the time of a `with` block.

    Raises ControlError if no process listens there, if it does not greet and negotiate in
    time, or if it is no QMP socket.

    >>> async with connect(Path("vm.sock")) as client:
    ...     await client.execute("stop")
    """
    qmp = _BoundedClient("tagalong")
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await qmp.connect(str(path))
    except TimeoutError as error:
        raise ControlError(_silence(path, has_greeted=qmp.greeting is not None)) from error
    except Exception as error:  # noqa: BLE001 (the package's reader: see ControlClient.execute)
        cause = getattr(error, "exc", error)
        raise ControlError(
            f"cannot connect to the control socket {path}: {_why_not(path, cause)}"
        ) from _told(cause)
    try:
        yield ControlClient(qmp, path)
    finally:
        await _disconnect(qmp)


def _silence(path: Path, *, has_greeted: bool) -> str:
    """Return what a process that accepts connections did not do in time, and what to do."""
    advice = "see whether its process is stopped, or another program's"
    if has_greeted:
        return (
            f"{path} sent a QMP greeting and has not answered qmp_capabilities in "
            f"{_CONNECT_TIMEOUT_S:.0f} s: {advice}"
        )
    return f"no QMP greeting from {path} in {_CONNECT_TIMEOUT_S:.0f} s: {advice}"


# What the package raises on purpose, and what its stream does (ValueError: a line too long).
_IN_WORDS = (QMPError, OSError, EOFError, ValueError)
_NO_QMP = "it sent something that is no QMP message; see which program listens there"


def _reason(error: Exception) -> str:
    """Return why a connection has ended, in words for people."""
    if isinstance(error, ExecInterruptedError):
        return "the connection has ended; see whether the VM still runs and answers in QMP"
    if not isinstance(error, _IN_WORDS):
        return _NO_QMP
    return one_line(str(getattr(error, "strerror", None) or error)) or "it was closed"


def _told(error: Exception) -> Exception | None:
    """Return the cause of an error for `with_causes`: none that speaks of Python's insides."""
    is_told = isinstance(error, _IN_WORDS) and not isinstance(error, ExecInterruptedError)
    return error if is_told else None


def _why_not(path: Path, cause: Exception) -> str:
    """Return what is wrong with a control socket, and what to do."""
    reason = _reason(cause)
    if isinstance(cause, ConnectionRefusedError) and path.is_socket():
        return f"{reason}; the VM that made it has ended"
    if isinstance(cause, ConnectionRefusedError | FileNotFoundError):
        return f"{reason}; give the --control of a running tagalong run"
    return reason


async def _disconnect(qmp: QMPClient) -> None:
    # The VM's process may have gone first.
    with suppress(Exception):  # the package's reader, once more
        await qmp.disconnect()
