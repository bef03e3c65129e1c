"""The destination of a migration: builds the machine, fills it, and takes over on COMMIT.

Whatever fails before a whole COMMIT has come: the source is told with ABORT if it can
still be reached, the machine is closed, and it was never resumed. An ABORT from here is a
promise, so none is sent once the machine was started.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from tagalong import wire
from tagalong.errors import (
    DigestMismatchError,
    MachineMismatchError,
    MigrationError,
    TagalongError,
)
from tagalong.machine import Machine, MachineDescription
from tagalong.migrate.channel import Channel
from tagalong.migrate.digest import memory_digest
from tagalong.migrate.link import Link, Timeouts
from tagalong.migrate.listener import Listener
from tagalong.migrate.monitor import CancelToken, check_cancelled
from tagalong.migrate.page_taker import PageTaker
from tagalong.migrate.translate import (
    description_of_record,
    record_of_description,
    state_of_record,
)

MachineBuilder = Callable[[MachineDescription], Machine]
"""Builds a paused, empty machine for a description, or raises MachineMismatchError."""

TakeOver = Callable[[Machine, bool], None]
"""Takes the machine over on COMMIT; the flag says whether the guest ran at the source."""


def resume_if_it_ran(machine: Machine, ran: bool) -> None:
    """Take a machine over in the plainest way: it runs here if it ran there."""
    if ran:
        machine.resume()


@dataclass(frozen=True)
class Arrival:
    """A machine that has arrived and belongs to this end now.

    `was_running`: whether the guest ran at the source. `acknowledged`: whether the source
    could be told; if not, its operator sees an uncertain hand-over and needs to know that
    `migration_id` was taken over here. `digest`: of memory and tags, if they were verified.
    """

    machine: Machine
    migration_id: str
    was_running: bool
    acknowledged: bool
    digest: str | None
    pages: int


def receive_from(
    listener: Listener,
    build: MachineBuilder,
    *,
    take_over: TakeOver = resume_if_it_ran,
    timeouts: Timeouts | None = None,
    cancel: CancelToken | None = None,
) -> Arrival:
    """Wait for a source to connect, without a time limit, and `receive` from it."""
    timeouts = timeouts or Timeouts()
    channel = listener.accept(idle_s=timeouts.idle_s, interrupt=lambda: check_cancelled(cancel))
    return receive(channel, build, take_over=take_over, timeouts=timeouts, cancel=cancel)


def receive(
    channel: Channel,
    build: MachineBuilder,
    *,
    take_over: TakeOver = resume_if_it_ran,
    timeouts: Timeouts | None = None,
    cancel: CancelToken | None = None,
) -> Arrival:
    """Receive one machine over `channel`, which is closed, and take it over.

    `build` makes the machine; `take_over` is called once the source has given up its right
    to run, and starts the machine if it should run. If it raises, the machine must not run,
    and the source gets its right back.

    Raises MigrationError or one of its subclasses, with the cause chained: the machine is
    closed, was never started, and the source keeps the VM.
    """
    with channel:
        return _Destination(channel, build, take_over, timeouts or Timeouts(), cancel).run()


class _Destination:
    """One migration."""

    def __init__(
        self,
        channel: Channel,
        build: MachineBuilder,
        take_over: TakeOver,
        timeouts: Timeouts,
        cancel: CancelToken | None,
    ) -> None:
        self._build = build
        self._take_over = take_over
        self._cancel = cancel
        connection = wire.Connection(wire.Role.DESTINATION, self._place)
        self._link = Link(channel, connection, timeouts)
        self._machine: Machine | None = None
        self._digest: bytes | None = None
        self._taker: PageTaker | None = None
        self._has_tags = True
        self._has_taken_over = False

    def run(self) -> Arrival:
        self._link.disturb(self._cancel)
        try:
            return self._receive()
        except BaseException as error:
            if not self._has_taken_over:
                self._discard(error)
            if isinstance(error, TagalongError | OSError | MemoryError) and not isinstance(
                error, MigrationError
            ):
                raise MigrationError(
                    f"the migration failed, nothing was started here: {error}"
                ) from error
            raise

    def _receive(self) -> Arrival:
        hello = self._link.expect(wire.Hello)
        self._link.send(wire.Hello(wire.Role.DESTINATION, hello.migration_id))
        machine = self._build_machine(self._link.expect(wire.Machine))
        machine.check_state(state_of_record(self._link.expect(wire.State)))
        taker = self._taker = PageTaker(machine, has_tags=self._has_tags)
        self._link.send(wire.Accept())
        self._fill(machine, taker)
        self._link.send(wire.Ready())
        commit = self._link.expect(wire.Commit)
        self._link.disturb(None)
        self._take_over(machine, commit.run)
        self._has_taken_over = True
        return Arrival(
            machine=machine,
            migration_id=hello.migration_id.hex(),
            was_running=commit.run,
            acknowledged=self._acknowledge(),
            digest=self._digest.hex() if self._digest else None,
            pages=taker.pages,
        )

    def _build_machine(self, record: wire.Machine) -> Machine:
        machine = self._machine = self._build(description_of_record(record))
        built = record_of_description(machine.description)
        if built != replace(record, mte_version=built.mte_version):
            raise MachineMismatchError(
                f"the machine built here ({built}) is not the one described ({record})"
            )
        if built.mte_version < record.mte_version:
            raise MachineMismatchError(
                f"the machine has MTE version {record.mte_version}, the one built here "
                f"{built.mte_version}: its tags would be lost or their checks changed"
            )
        self._has_tags = record.mte_version != 0
        return machine

    def _place(self, gpa: int, size_bytes: int) -> memoryview:
        assert self._taker is not None  # noqa: S101 (no PAGES before ACCEPT)
        return self._taker.place(gpa, size_bytes)

    def _fill(self, machine: Machine, taker: PageTaker) -> None:
        """Take in everything up to PREPARE."""
        while not isinstance(record := self._link.receive(), wire.Prepare):
            check_cancelled(self._cancel)
            match record:
                case wire.Pages():
                    taker.take(record)
                case wire.Round():
                    self._link.send(wire.Round(record.number, taker.end_round()))
                case wire.State():
                    taker.clear_stale()
                    machine.load_state(state_of_record(record))
                case wire.Verify():
                    self._digest = memory_digest(machine, self._work, has_tags=self._has_tags)
                case wire.Digest():
                    self._compare(record.digest)

    def _work(self) -> None:
        """Stay in touch during long work."""
        check_cancelled(self._cancel)
        self._link.keep_alive()

    def _compare(self, theirs: bytes) -> None:
        ours = self._digest or b""
        self._link.send(wire.Digest(ours))
        if ours != theirs:
            raise DigestMismatchError(
                f"the source holds other memory or tags: its digest is {theirs.hex()}, the "
                f"destination's {ours.hex()}; nothing was started here"
            )

    def _acknowledge(self) -> bool:
        try:
            self._link.send(wire.Running())
        except TagalongError:
            return False
        return True

    def _discard(self, error: BaseException) -> None:
        """Close the machine, then promise the source that it will never run."""
        if self._machine is not None:
            with contextlib.suppress(TagalongError):
                self._machine.close()
        self._link.abort(error)
