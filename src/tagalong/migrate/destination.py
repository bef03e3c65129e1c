"""The destination of a migration: builds the machine, fills it, and takes over on COMMIT.

Whatever fails before a whole COMMIT has come: the source is told with ABORT if it can
still be reached, the machine is closed, and it was never resumed. An ABORT from here is a
promise, so none is sent once the machine was started.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tagalong import wire
from tagalong.errors import (
    DigestMismatchError,
    HostError,
    MachineMismatchError,
    MigrationError,
    RemoteProtocolError,
    TagalongError,
)
from tagalong.machine import Machine, MachineDescription, MachinePages
from tagalong.machine_records import (
    description_of_record,
    record_of_description,
    state_of_record,
)
from tagalong.migrate.acceptance import Greeting, Reception
from tagalong.migrate.cancellation import check_cancelled
from tagalong.migrate.door import Door, ReturnedError
from tagalong.migrate.link import Link, Timeouts
from tagalong.migrate.pages.digest import memory_digest
from tagalong.migrate.pages.placed import records_of_held
from tagalong.migrate.pages.receiver import PageInventory, PageReceiver
from tagalong.migrate.transport.channel import Channel
from tagalong.migrate.transport.listener import Listener, SocketListener
from tagalong.progress import CancelToken

_LOOK_UP_S = 0.1

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
    """Wait for a source to connect, without a time limit, and `receive` from it.

    Where `listener` is a socket, who connects and says no HELLO in `timeouts.idle_s` is turned
    away, and further channels and a source that comes back after a broken connection are let
    in later.
    """
    timeouts = timeouts or Timeouts()
    destination = _Destination(build, take_over, timeouts, cancel)
    idle_s = timeouts.idle_s

    def interrupt() -> None:
        check_cancelled(cancel)

    if not isinstance(listener, SocketListener):
        channel = listener.accept(idle_s=idle_s, interrupt=interrupt)
        return destination.run(Greeting(channel, destination.new_connection()))
    reception = Reception(listener, idle_s, destination.new_connection)
    return destination.run(reception.first(idle_s=idle_s, interrupt=interrupt), listener)


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
    destination = _Destination(build, take_over, timeouts or Timeouts(), cancel)
    return destination.run(Greeting(channel, destination.new_connection()))


class _Destination:
    """One migration."""

    def __init__(
        self,
        build: MachineBuilder,
        take_over: TakeOver,
        timeouts: Timeouts,
        cancel: CancelToken | None,
    ) -> None:
        self._build = build
        self._take_over = take_over
        self._cancel = cancel
        self._machine: Machine | None = None
        self._digest: bytes | None = None
        self._timeouts = timeouts
        self._taker: PageReceiver | None = None
        self._door: Door | None = None
        self._granted = wire.Hello(wire.Role.DESTINATION, b"")
        self._has_tags = True
        self._has_taken_over = False

    def new_connection(self) -> wire.Connection:
        """Return what parses the records of a connection that may become the first one."""
        return wire.Connection(wire.Role.DESTINATION)

    def run(self, greeting: Greeting, listener: SocketListener | None = None) -> Arrival:
        self._link = Link(greeting.channel, greeting.connection, self._timeouts)
        self._link.interrupt_with(self._check)
        try:
            return self._receive(greeting.hello, listener)
        except BaseException as error:
            if self._door is not None:
                self._door.close()
            if not self._has_taken_over:
                self._discard(error)
            if isinstance(error, TagalongError | OSError | MemoryError) and not isinstance(
                error, MigrationError
            ):
                raise MigrationError(
                    f"the migration failed, nothing was started here: {error}"
                ) from error
            raise
        finally:
            if self._door is not None:
                self._door.close()
            self._link.close()

    def _check(self) -> None:
        check_cancelled(self._cancel)
        if self._door is not None:
            self._door.check()

    def _receive(self, hello: wire.Hello | None, listener: SocketListener | None) -> Arrival:
        hello = hello or self._link.expect(wire.Hello)
        self._granted = wire.Hello(
            wire.Role.DESTINATION,
            hello.migration_id,
            channels=hello.channels if listener else 1,
            reconnect_s=hello.reconnect_s if listener else 0,
        )
        self._link.send(self._granted)
        record = self._link.expect(wire.MachineRecord)
        machine = self._build_machine(record)
        machine.check_state(state_of_record(self._link.expect(wire.StateRecord)))
        holdings = PageInventory(machine, self._granted.channels)
        taker = self._taker = self._new_taker(machine, holdings, self._link.streams_pages)
        self._link.place_with(taker)
        if listener is not None:
            self._open_door(listener, record, machine, holdings)
        self._link.send(wire.Accept())
        self._fill(machine, holdings)
        self._link.send(wire.Ready())
        commit = self._link.expect(wire.Commit)
        self._link.cancel_with(None)
        self._take_over(machine, commit.run)
        self._has_taken_over = True
        return Arrival(
            machine=machine,
            migration_id=hello.migration_id.hex(),
            was_running=commit.run,
            acknowledged=self._acknowledge(),
            digest=self._digest.hex() if self._digest else None,
            pages=holdings.pages,
        )

    def _open_door(
        self,
        listener: SocketListener,
        record: wire.MachineRecord,
        machine: Machine,
        holdings: PageInventory,
    ) -> None:
        granted, features = self._granted, self._link.features
        if granted.channels == 1 and not granted.reconnect_s:
            return
        self._door = Door(
            listener,
            self._timeouts,
            granted,
            lambda: wire.Joining(granted.migration_id, record, features, holdings.rounds),
            lambda channel: self._new_taker(
                machine, holdings, channel.plain_descriptor is not None
            ),
        )

    def _new_taker(self, machine: Machine, holdings: PageInventory, scatters: bool) -> PageReceiver:
        return PageReceiver(machine, holdings, has_tags=self._has_tags, scatters=scatters)

    def _build_machine(self, record: wire.MachineRecord) -> Machine:
        machine = self._machine = self._build(description_of_record(record))
        built = record_of_description(machine.description)
        _require_devices(record, built)
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

    def _fill(self, machine: Machine, holdings: PageInventory) -> None:
        """Take in everything up to PREPARE, whatever connections that takes."""
        while True:
            try:
                self._take_until_prepare(machine, holdings)
            except (HostError, RemoteProtocolError) as error:
                if not self._may_resume(error):
                    raise
                self._resume(holdings, error)
            else:
                return

    def _take_until_prepare(self, machine: Machine, holdings: PageInventory) -> None:
        assert self._taker is not None  # noqa: S101 (no PAGES before ACCEPT)
        taker = self._taker
        while not isinstance(record := self._link.receive(), wire.Prepare):
            self._check()
            match record:
                case wire.Pages():
                    taker.take(record)
                case wire.Round():
                    self._link.send(wire.Round(record.number, taker.end_round()))
                case wire.StateRecord():
                    self._await_channels(holdings)
                    taker.clear_stale()
                    machine.load_state(state_of_record(record))
                case wire.Verify():
                    self._digest = memory_digest(
                        MachinePages(machine), self._work, has_tags=self._has_tags
                    )
                case wire.Digest():
                    self._compare(record.digest)

    def _await_channels(self, holdings: PageInventory) -> None:
        """Wait until the channels have carried all they were given, and let nobody else in."""
        if self._door is None:
            return
        deadline = time.monotonic() + self._timeouts.answer_s
        while not holdings.wait_for_others(_LOOK_UP_S):
            self._work()
            self._check()
            if time.monotonic() > deadline:
                raise HostError("the channels do not deliver what was sent over them")
        self._door.shut()
        self._link.cancel_with(self._cancel)

    # --- a connection that breaks ---

    def _may_resume(self, error: Exception) -> bool:
        is_lost = self._link.is_lost or isinstance(error, ReturnedError)
        is_lost = is_lost or (self._door is not None and self._door.is_lost)
        is_copying = self._link.phase in (wire.Phase.COPYING, wire.Phase.ROUND_ENDED)
        return bool(self._granted.reconnect_s) and is_lost and is_copying

    def _resume(self, holdings: PageInventory, error: Exception) -> None:
        """Wait for the source to come back, and tell it what is here. Raises if it does not."""
        assert self._door is not None and self._machine is not None  # noqa: S101, PT018 (granted)
        self._link.close()
        self._door.drop_channels()
        holdings.interrupt_round()
        returned = self._door.wait_for_return(
            self._granted.reconnect_s, lambda: check_cancelled(self._cancel)
        )
        if returned is None:
            raise HostError(
                f"the connection broke ({error}), and the source did not come back in "
                f"{self._granted.reconnect_s} s"
            ) from error
        self._link, self._taker = link, _ = returned
        link.interrupt_with(self._check)
        try:
            link.expect(wire.Resume)
            for held in records_of_held(self._machine.memory.regions, holdings.placed):
                link.send(held)
            link.send(wire.Resumed(holdings.rounds))
        except (HostError, RemoteProtocolError) as again:
            if not link.is_lost and not isinstance(again, ReturnedError):
                raise
            self._resume(holdings, again)

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


def _require_devices(described: wire.MachineRecord, built: wire.MachineRecord) -> None:
    """Raise MachineMismatchError naming each device that is not the same at both ends."""
    there = {device.name: device for device in described.devices}
    here = {device.name: device for device in built.devices}
    wrong = [
        *(f"the VM has {there[name]}, which is missing here" for name in there.keys() - here),
        *(
            f"the VM has {there[name]}, here it is {here[name]}"
            for name in there.keys() & here
            if here[name] != there[name]
        ),
        *(f"the VM does not have {here[name]}" for name in here.keys() - there),
    ]
    if wrong:
        raise MachineMismatchError(
            f"{'; '.join(sorted(wrong))}: give the destination the devices that the VM has"
        )
