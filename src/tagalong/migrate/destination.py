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
from tagalong.errors import MachineMismatchError, MigrationError, TagalongError, UsageError
from tagalong.machine import Machine, MachineDescription
from tagalong.machine.state import GUEST_ID_BYTES
from tagalong.machine_records import (
    description_of_record,
    record_of_description,
    state_of_record,
)
from tagalong.migrate.acceptance import Greeting, SourceAcceptor
from tagalong.migrate.cancellation import check_cancelled
from tagalong.migrate.channel_count import count_to_grant, take_all_cpus
from tagalong.migrate.filling import Filling, FillPlan
from tagalong.migrate.joining import Joins, Membership, accept_joins
from tagalong.migrate.link import Link
from tagalong.migrate.pages.receiver import PageInventory, PageReceiver
from tagalong.migrate.takeover import begin_take_over
from tagalong.migrate.timeouts import Timeouts
from tagalong.migrate.transport.channel import Channel
from tagalong.migrate.transport.listener import Listener, SocketListener
from tagalong.progress import CancelToken

MachineBuilder = Callable[[MachineDescription], Machine]
"""Builds a paused, empty machine for a description, or raises MachineMismatchError."""

TakeOver = Callable[[Machine, bool], None]
"""Takes the machine over on COMMIT; the flag says whether the guest ran at the source."""


def resume_if_it_ran(machine: Machine, ran: bool) -> None:
    """Take a machine over in the plainest way: it runs here if it ran there."""
    machine.activate()
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
    tags_only: bool = False,
) -> Arrival:
    """Wait for a source to connect, without a time limit, and `receive` from it.

    `tags_only`: accept a source that sends tags without data, and no other. `build` then gets a
    description without data.
    If `listener` is a socket, it rejects peers that do not say HELLO in `timeouts.idle_s`, and
    accepts further channels, and a source that comes back after a broken connection, later.
    """
    timeouts = timeouts or Timeouts()
    destination = _Destination(build, take_over, timeouts, cancel, tags_only=tags_only)
    idle_s = timeouts.idle_s

    def interrupt() -> None:
        check_cancelled(cancel)

    if not isinstance(listener, SocketListener):
        channel = listener.accept(idle_s=idle_s, interrupt=interrupt)
        return destination.run(Greeting(channel, destination.new_connection()))
    acceptor = SourceAcceptor(listener, idle_s, destination.new_connection)
    return destination.run(acceptor.first(idle_s=idle_s, interrupt=interrupt), listener)


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
    and the source gets its right back. `cancel` ends the migration until then: an EndOrder
    tells whoever sets it whether it came before the take-over.

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
        *,
        tags_only: bool = False,
    ) -> None:
        self._tags_only = tags_only
        self._build = build
        self._take_over = take_over
        self._timeouts = timeouts
        self._cancel = cancel
        self._machine: Machine | None = None
        self._joins: Joins | None = None
        self._filling: Filling | None = None
        self._has_taken_over = False

    def new_connection(self) -> wire.Connection:
        """Return the parser of a connection that this destination accepts."""
        return wire.Connection(wire.Role.DESTINATION, tags_only=self._tags_only)

    def run(self, greeting: Greeting, listener: SocketListener | None = None) -> Arrival:
        self._channel = greeting.channel
        self._first_link = Link(greeting.channel, greeting.connection, self._timeouts)
        self._first_link.cancel_with(self._cancel)
        try:
            return self._receive(greeting, listener)
        except BaseException as error:
            self._close_joins()
            if not self._has_taken_over:
                self._discard(error)
            if isinstance(error, TagalongError | OSError | MemoryError) and not isinstance(
                error, MigrationError
            ):
                raise MigrationError(str(error)) from error
            raise
        finally:
            self._close_joins()
            self._link.close()

    @property
    def _link(self) -> Link:
        """Return the link that carries the conversation now."""
        return self._filling.link if self._filling is not None else self._first_link

    def _receive(self, greeting: Greeting, listener: SocketListener | None) -> Arrival:
        # How long a peer may take is bounded for each stage as a whole: KEEPALIVE extends nothing.
        self._link.deadline = self._link.answer_deadline()
        granted = self._greet(greeting.hello, is_alone=listener is None)
        filling = self._filling = self._provide(granted, listener)
        self._link.send(wire.Accept())
        self._link.deadline = float("inf")
        filling.run()
        self._link.send(wire.Ready())
        commit = self._link.expect(wire.Commit)
        assert self._machine is not None  # noqa: S101 (provided)
        begin_take_over(self._cancel)
        self._link.cancel_with(None)
        self._take_over(self._machine, commit.run)
        self._has_taken_over = True
        return Arrival(
            machine=self._machine,
            migration_id=granted.migration_id.hex(),
            was_running=commit.run,
            acknowledged=self._acknowledge(),
            digest=filling.digest.hex() if filling.digest else None,
            pages=filling.pages,
        )

    def _greet(self, hello: wire.Hello | None, *, is_alone: bool) -> wire.Hello:
        """Answer HELLO with what is granted."""
        hello = hello or self._link.expect(wire.Hello)
        is_auto = hello.offered_features & wire.Feature.AUTO_CHANNELS
        most = count_to_grant() if is_auto else hello.channels
        granted = wire.Hello(
            wire.Role.DESTINATION,
            hello.migration_id,
            compatible_features=wire.SUPPORTED_FEATURES
            | is_auto
            | (wire.Feature.GUEST_ID if self._tags_only else 0),
            mandatory_features=self._granted_features(hello),
            channels=1 if is_alone else min(hello.channels, most),
            reconnect_s=0 if is_alone else hello.reconnect_s,
        )
        self._link.send(granted)
        return granted

    def _granted_features(self, hello: wire.Hello) -> int:
        if not self._tags_only:
            return 0
        return wire.Feature.TAGS_ONLY | (hello.offered_features & wire.Feature.TAGS_IN_PLACE)

    def _provide(self, granted: wire.Hello, listener: SocketListener | None) -> Filling:
        """Build the machine that is described, and make ready to fill it."""
        record = self._link.expect(wire.MachineRecord)
        machine = self._build_machine(record, granted.migration_id)
        machine.check_state(state_of_record(self._link.expect(wire.StateRecord)))
        inventory = PageInventory(machine, granted.channels)
        has_tags = record.mte_version != 0
        version, features = self._link.version, self._link.features

        def new_receiver(channel: Channel) -> PageReceiver:
            channel.follows_packets = channel.shares_host and take_all_cpus(granted.channels)
            return PageReceiver(
                machine, inventory, has_tags=has_tags, scatters=channel.receives_pages
            )

        def joining() -> wire.Joining:
            return wire.Joining(granted.migration_id, record, features, inventory.rounds, version)

        receiver = new_receiver(self._channel)
        self._link.place_with(receiver)
        if listener is not None and (granted.channels > 1 or granted.reconnect_s):
            membership = Membership(granted, joining, new_receiver)
            self._joins = accept_joins(listener, self._timeouts, membership)
        plan = FillPlan(
            machine=machine,
            inventory=inventory,
            has_tags=has_tags,
            joins=self._joins,
            reconnect_s=granted.reconnect_s,
            timeouts=self._timeouts,
            cancel=self._cancel,
        )
        filling = Filling(plan, self._link, receiver)
        self._link.interrupt_with(filling.check)
        return filling

    def _build_machine(self, record: wire.MachineRecord, migration_id: bytes) -> Machine:
        names_guest = bool(self._link.features & wire.Feature.GUEST_ID)
        try:
            description = description_of_record(record)
            machine = self._machine = self._build(
                replace(
                    description,
                    has_data=not self._tags_only,
                    tags_in_place=bool(self._link.features & wire.Feature.TAGS_IN_PLACE),
                    guest_id=migration_id[-GUEST_ID_BYTES:] if names_guest else b"",
                )
            )
        except UsageError as error:  # of a machine's own constructor: it cannot be like this
            raise MachineMismatchError(str(error)) from error
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
        return machine

    def _acknowledge(self) -> bool:
        """Tell the source that the VM runs here; it waits for that, the result does not."""
        self._link.deadline = time.monotonic() + self._timeouts.idle_s
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

    def _close_joins(self) -> None:
        if self._joins is not None:
            self._joins.close()


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
