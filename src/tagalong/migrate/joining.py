"""Accepts further connections of a migration at its destination: channels, and a return.

Three roles, three classes:

    JoinAcceptor    listens on, and gives each new connection limited time to say what it is for
    PageChannels    the channels, which carry pages side by side, and why one of them failed
    SourceReturn    the connection on which the source came back after a break

A new connection gets a thread of its own, in which it has to name the migration (16 random
bytes that only the source has): so a silent one holds up no other. A channel then carries pages
in that thread until it ends or fails. A source that comes back is left for the destination's
thread, which drops the broken connections first.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tagalong import wire
from tagalong.errors import HostError, RemoteProtocolError
from tagalong.migrate.link import Link
from tagalong.migrate.pages.receiver import PageReceiver
from tagalong.migrate.timeouts import Timeouts
from tagalong.migrate.transport.channel import Channel, never
from tagalong.migrate.transport.listener import LEAST_S, Listener

_MAX_THREADS = 32
_LOOK_UP_S = 0.1

# Bytes that a broken connection still holds need not be sent again, if they come this soon.
_DRAIN_S = 0.5


class NotAcceptedError(HostError):
    """The destination accepts no more connections, or has no use for this one any more."""


class ReturnedError(HostError):
    """The source has come back on a new connection: the earlier ones are of no use."""


@dataclass(frozen=True)
class Rejoined:
    """The conversation goes on over `link`; `receiver` places the pages that it brings."""

    link: Link
    receiver: PageReceiver


class PageChannels:
    """Further connections that carry pages, `count` at most, numbered from 1.

    `failure` is why a channel failed; `is_lost`: because its connection broke.
    """

    def __init__(self, count: int) -> None:
        self.failure: Exception | None = None
        self.is_lost = False
        self._count = count
        self._links: dict[int, Link] = {}
        self._at_work: set[Link] = set()
        self._lock = threading.Condition()

    def check(self) -> None:
        """Raise the error that a channel failed with."""
        if self.failure is not None:
            raise self.failure

    def carry(self, link: Link, record: wire.ChannelRecord, receiver: PageReceiver) -> None:
        """Receive pages over one channel until it ends, in its thread.

        Raises RemoteProtocolError for a number that is not expected. Every later error becomes
        `failure`, unless the channel was dropped.
        """
        with self._lock:
            if record.number > self._count or record.number in self._links:
                raise RemoteProtocolError(f"channel {record.number:#x} is not expected", offset=0)
            self._links[record.number] = link
            self._at_work.add(link)
            link.interrupt_with(never)
        try:
            link.allow_silence()
            link.send(wire.ChannelRecord(record.migration_id, record.number))
            _receive_all(link, receiver)
        except Exception as error:  # noqa: BLE001 (raised in the destination's thread)
            if self._links.get(record.number) is link:
                self.is_lost = self.is_lost or link.is_lost
                self.failure = self.failure or error
        finally:
            with self._lock:
                self._at_work.discard(link)
                self._lock.notify_all()

    def drop(self) -> None:
        """End all channels and wait until none of them writes to memory any more."""
        with self._lock:
            links, self._links = list(self._links.values()), {}
            for link in links:
                link.interrupt_with(_end_channel)
            self._lock.wait_for(lambda: not self._at_work)
        self.failure, self.is_lost = None, False

    def end(self) -> None:
        """End all channels without waiting for them."""
        with self._lock:
            for link in self._links.values():
                link.interrupt_with(_end_channel)


class SourceReturn:
    """Where a source that came back waits until the destination is done with what broke."""

    def __init__(self) -> None:
        self._rejoined: Rejoined | None = None
        self._since = 0.0
        self._lock = threading.Condition()

    def check(self) -> None:
        """Raise ReturnedError if the source has come back and the earlier connection is drained."""
        if self._rejoined is not None and time.monotonic() - self._since > _DRAIN_S:
            raise ReturnedError("the source has come back on a new connection")

    def offer(self, link: Link, receiver: PageReceiver) -> None:
        """Take a connection on which the source said HELLO; it replaces an earlier one."""
        with self._lock:
            before, self._rejoined = self._rejoined, Rejoined(link, receiver)
            self._since = time.monotonic()
            self._lock.notify_all()
        if before is not None:
            before.link.close()

    def wait(self, deadline: float, check: Callable[[], None]) -> Rejoined | None:
        """Return the connection; None if there is none by the deadline (monotonic).

        `check` is called meanwhile and ends the wait by raising.
        """
        while self._rejoined is None and time.monotonic() < deadline:
            check()
            with self._lock:
                self._lock.wait_for(lambda: self._rejoined is not None, _LOOK_UP_S)
        with self._lock:
            rejoined, self._rejoined = self._rejoined, None
        return rejoined

    def close(self) -> None:
        """Close a connection that was not waited for."""
        if self._rejoined is not None:
            self._rejoined.link.close()


@dataclass(frozen=True)
class Membership:
    """What connections join: `granted` is the answer to the HELLO that opened the migration.

    `joining` returns what is known now; `new_receiver` makes the receiver of a channel's pages.
    """

    granted: wire.Hello
    joining: Callable[[], wire.Joining]
    new_receiver: Callable[[Channel], PageReceiver]


class JoinAcceptor:
    """Accepts connections in a thread until `stop`; each becomes a channel or the source's return.

    Connections beyond `_MAX_THREADS` wait in the kernel's queue until one that has said nothing
    had its time.
    """

    def __init__(
        self,
        listener: Listener,
        timeouts: Timeouts,
        membership: Membership,
        channels: PageChannels,
        returned: SourceReturn,
    ) -> None:
        self._listener = listener
        self._timeouts = timeouts
        self._membership = membership
        self._channels = channels
        self._returned = returned
        self._threads: set[threading.Thread] = set()
        self._unnamed: dict[Link, float] = {}  # since when; they have not said what they are for
        self._lock = threading.Lock()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="join-acceptor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Accept no more connections. Channels that were accepted stay."""
        self._is_open = False

    def close(self) -> None:
        """Accept no more, and wait for all threads; channels must end first."""
        self.stop()
        self._thread.join()
        for thread in list(self._threads):
            thread.join()

    def _check_open(self) -> None:
        if not self._is_open:
            raise NotAcceptedError("the destination accepts no more connections")

    def _run(self) -> None:
        while self._is_open:
            if not self._has_room():
                time.sleep(_LOOK_UP_S)  # a connection that must leave takes a moment
                continue
            with suppress(HostError):
                channel = self._listener.accept(
                    idle_s=self._timeouts.idle_s, timeout_s=_LOOK_UP_S, interrupt=self._check_open
                )
                self._begin(channel)

    def _has_room(self) -> bool:
        """Return whether one more may come; if not, end those that have been silent for long."""
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        if len(self._threads) < _MAX_THREADS:
            return True
        with self._lock:
            for link, since in self._unnamed.items():
                if time.monotonic() - since > LEAST_S:
                    link.interrupt_with(_make_room)
        return False

    def _begin(self, channel: Channel) -> None:
        thread = threading.Thread(target=self._join, args=(channel,), name="join", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread can be had, and the others must be served
            channel.close()
            return
        self._threads.add(thread)

    def _join(self, channel: Channel) -> None:
        """Learn what a new connection is for, and serve it. Reject one that cannot say it."""
        receiver = self._membership.new_receiver(channel)
        connection = wire.Connection(wire.Role.DESTINATION, self._membership.joining(), receiver)
        link = Link(channel, connection, self._timeouts)
        link.interrupt_with(self._check_open)
        try:
            record = self._receive_first(link)
            if isinstance(record, wire.ChannelRecord):
                self._channels.carry(link, record, receiver)
            elif isinstance(record, wire.Hello):
                self._take_back(link, record, receiver)
                return
        except Exception as error:  # noqa: BLE001 (the peer learns of it, the others go on)
            link.abort(error)
        link.close()

    def _receive_first(self, link: Link) -> wire.Record:
        """Return the first record of a new connection, which has no name until then."""
        link.deadline = time.monotonic() + self._timeouts.idle_s
        with self._lock:
            self._unnamed[link] = time.monotonic()
        try:
            return link.receive()
        finally:
            link.deadline = float("inf")
            with self._lock:
                del self._unnamed[link]
                link.interrupt_with(self._check_open)

    def _take_back(self, link: Link, hello: wire.Hello, receiver: PageReceiver) -> None:
        granted = self._membership.granted
        if not granted.reconnect_s:
            raise RemoteProtocolError("this migration cannot be resumed", offset=0)
        link.send(
            wire.Hello(
                wire.Role.DESTINATION,
                hello.migration_id,
                mandatory_features=granted.mandatory_features,
                channels=min(hello.channels, granted.channels),
                reconnect_s=min(hello.reconnect_s, granted.reconnect_s),
            )
        )
        self._returned.offer(link, receiver)


def _receive_all(link: Link, receiver: PageReceiver) -> None:
    while not isinstance(record := link.receive(), wire.EndRecord):
        if isinstance(record, wire.Pages):
            receiver.take(record)
        elif isinstance(record, wire.Round):
            link.send(wire.Round(record.number, receiver.end_round()))


def _make_room() -> None:
    raise NotAcceptedError("other connections wait, and this one has said nothing yet")


def _end_channel() -> None:
    raise NotAcceptedError("the migration has no use for this channel any more")


@dataclass(frozen=True)
class Joins:
    """All that joins one migration at its destination."""

    acceptor: JoinAcceptor
    channels: PageChannels
    returned: SourceReturn

    def check(self) -> None:
        """Raise ReturnedError if the source has come back, or the error of a channel."""
        self.returned.check()
        self.channels.check()

    def close(self) -> None:
        """End all channels and wait for all threads. Safe to call twice."""
        self.acceptor.stop()
        self.channels.end()
        self.acceptor.close()
        self.returned.close()


def accept_joins(listener: Listener, timeouts: Timeouts, membership: Membership) -> Joins:
    """Begin to accept further connections, until they are closed."""
    channels, returned = PageChannels(membership.granted.channels - 1), SourceReturn()
    acceptor = JoinAcceptor(listener, timeouts, membership, channels, returned)
    return Joins(acceptor, channels, returned)
