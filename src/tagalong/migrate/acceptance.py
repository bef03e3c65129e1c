"""Finds the source among all connections: the first one whose HELLO is whole and sound.

A destination waits for a source, not for a connection. A port scanner, a health check, a
browser, or a peer that sends nothing, or a byte now and then, is rejected, and the wait goes on.
No such connection is worth a thread: one loop serves all of them. Each has limited time, there
are few places, and when all are taken the oldest connection must give way, never the newest: so
silent peers cost the real source at most half a second for each sixteen of them. Of each
connection no more than a HELLO is read. After HELLO every failure ends the wait, as it has to: a
migration has begun.
"""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tagalong import wire
from tagalong.errors import HostError, TagalongError
from tagalong.migrate.link import error_of, reason_of
from tagalong.migrate.transport.channel import Channel, Interrupt, never
from tagalong.migrate.transport.connector import tune
from tagalong.migrate.transport.listener import (
    FAREWELL_S,
    LEAST_S,
    LOOK_UP_S,
    MAX_PENDING,
    SocketListener,
)


@dataclass(frozen=True)
class Greeting:
    """A connection, and the HELLO that it began with; None if that was not received yet."""

    channel: Channel
    connection: wire.Connection
    hello: wire.Hello | None = None


class SourceAcceptor:
    """Accepts connections of `listener`; each has `hello_s` for its HELLO.

    `new_connection` makes the parser of one connection's records.
    """

    def __init__(
        self,
        listener: SocketListener,
        hello_s: float,
        new_connection: Callable[[], wire.Connection],
    ) -> None:
        self._listener = listener
        self._hello_s = hello_s
        self._new_connection = new_connection
        self._candidates: list[_Candidate] = []  # oldest first

    def first(self, *, idle_s: float, interrupt: Interrupt = never) -> Greeting:
        """Wait for a source, without a time limit, and reject all others.

        Raises HostError if listening is not possible any more, and what `interrupt` raises.
        """
        greeting: Greeting | None = None
        try:
            while greeting is None:
                interrupt()
                self._accept(idle_s)
                greeting = self._read_all()
        finally:
            self._close_all(
                "another source was faster: its migration has begun"
                if greeting is not None
                else "the destination does not wait for a source any more"
            )
            self._listener.report_refusals()
        return greeting

    def _read_all(self) -> Greeting | None:
        """Return the first greeting that is complete; reject those that will not have one."""
        for candidate in list(self._candidates):
            if candidate.is_over:
                candidate.channel.close()
                self._candidates.remove(candidate)
                continue
            try:
                greeting = candidate.greeting()
                if greeting is not None:
                    tune(greeting.channel.sock)
            except (TagalongError, OSError) as error:
                # Whatever goes wrong with one peer is that peer's: the wait must outlive it.
                self._reject(candidate, error)
                continue
            if greeting is not None:
                self._candidates.remove(candidate)
                return greeting
        return None

    def _accept(self, idle_s: float) -> None:
        """Wait until a peer connects, or one that is connected has sent something."""
        is_full = len(self._candidates) >= MAX_PENDING
        channel = self._listener.look_up(
            LOOK_UP_S,
            idle_s=idle_s,
            others=[each.channel.sock.fileno() for each in self._candidates if each.is_heard],
            has_room=not is_full or any(each.may_be_replaced for each in self._candidates),
        )
        if channel is not None:
            if is_full:
                self._make_room()
            until = time.monotonic() + self._hello_s
            self._candidates.append(_Candidate(channel, self._new_connection(), until))

    def _reject(self, candidate: "_Candidate", error: TagalongError | OSError) -> None:
        self._listener.refuse(HostError(f"{candidate.channel.name}: {error}"))
        candidate.say_why(error)

    def _make_room(self) -> None:
        rejected = [each for each in self._candidates if not each.is_heard]
        candidate = (rejected or self._candidates)[0]
        if candidate.is_heard:
            self._reject(candidate, HostError("no HELLO yet, and too many others connect"))
        candidate.channel.close()
        self._candidates.remove(candidate)

    def _close_all(self, why: str) -> None:
        for candidate in self._candidates:
            if candidate.is_heard:
                candidate.say_why(HostError(why))
            candidate.channel.close()
        self._candidates.clear()


class _Candidate:
    """A connection that has until `until` (monotonic) to say HELLO; `is_heard` until rejected."""

    def __init__(self, channel: Channel, connection: wire.Connection, until: float) -> None:
        self.channel = channel
        self.is_heard = True
        self._connection = connection
        self._until = until
        self._since = time.monotonic()

    @property
    def may_be_replaced(self) -> bool:
        """Return whether a new connection may take this one's place."""
        return not self.is_heard or time.monotonic() - self._since > LEAST_S

    @property
    def is_over(self) -> bool:
        """Return whether the peer was told why, and had its time to read that."""
        return not self.is_heard and time.monotonic() > self._until

    def greeting(self) -> Greeting | None:
        """Read what has arrived; return the greeting if it is complete. Never waits.

        Raises TagalongError or OSError if this peer is not a source, or is too slow for one.
        """
        if not self.is_heard:
            return None
        while True:
            record = self._connection.next_record()
            if isinstance(record, wire.Hello):
                return Greeting(self.channel, self._connection, record)
            if isinstance(record, wire.Abort):
                raise error_of(record)
            if not self.channel.is_readable():
                break
            self._receive()
        if time.monotonic() > self._until:
            raise HostError("no HELLO came in time")
        return None

    def _receive(self) -> None:
        buffer = self._connection.receive_buffer()
        count = self.channel.receive_into(buffer, deadline=time.monotonic())
        self._connection.received(count)
        if not count and not self._connection.bytes_received:
            raise HostError("the peer closed the connection before it sent anything")
        if not count:
            self._connection.receive_eof()

    def say_why(self, error: TagalongError | OSError) -> None:
        """Reject the peer, and tell it why; it has a moment to read that. Never waits."""
        self.is_heard, self._until = False, time.monotonic() + FAREWELL_S
        with suppress(TagalongError, OSError):
            # It fits into the socket's buffer, or the peer does not want to know.
            abort = self._connection.send(wire.Abort(reason_of(error), str(error)))
            self.channel.send(abort, deadline=time.monotonic())
            socket.socket.shutdown(self.channel.sock, socket.SHUT_WR)
