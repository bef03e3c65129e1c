"""Finds the source among all who connect: the first whose HELLO is whole and sound.

Who connects by mistake or out of malice (a port scanner, a health check, a browser, somebody
who says nothing or one byte now and then) is turned away, and the wait goes on. All are
heard side by side in one thread. Each has a limited time, there are few places, and a newcomer
may take the place of whoever has had one for a while; of nobody more than a HELLO is
taken in.
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
    """A connection, and the HELLO that came over it, None if it was not awaited yet."""

    channel: Channel
    connection: wire.Connection
    hello: wire.Hello | None = None


class Reception:
    """Hears who connects to `listener`; each has `patience_s` for its HELLO.

    `new_connection` makes what the records of one of them are parsed by.
    """

    def __init__(
        self,
        listener: SocketListener,
        patience_s: float,
        new_connection: Callable[[], wire.Connection],
    ) -> None:
        self._listener = listener
        self._patience_s = patience_s
        self._new_connection = new_connection
        self._callers: list[_Caller] = []  # by the time at which they came

    def first(self, *, idle_s: float, interrupt: Interrupt = never) -> Greeting:
        """Wait for a source, without a time limit; all others are sent away.

        Raises HostError if nobody can be listened for any more, and what `interrupt` raises.
        """
        greeting: Greeting | None = None
        try:
            while greeting is None:
                interrupt()
                self._let_in(idle_s)
                greeting = self._hear_all()
        finally:
            self._send_home(
                "another source was faster: its migration has begun"
                if greeting is not None
                else "no source is awaited here any more"
            )
        return greeting

    def _hear_all(self) -> Greeting | None:
        """Return the first greeting that is complete; turn away who will not have one."""
        for caller in list(self._callers):
            if caller.has_left:
                caller.channel.close()
                self._callers.remove(caller)
                continue
            try:
                greeting = caller.greeting()
            except TagalongError as error:
                self._turn_away(caller, error)
                continue
            if greeting is not None:
                self._callers.remove(caller)
                tune(caller.channel.sock)
                return greeting
        return None

    def _let_in(self, idle_s: float) -> None:
        """Wait until somebody connects, or somebody who is in has said something."""
        is_full = len(self._callers) >= MAX_PENDING
        channel = self._listener.look_up(
            LOOK_UP_S,
            idle_s=idle_s,
            others=[each.channel.sock.fileno() for each in self._callers if not each.is_leaving],
            has_room=not is_full or any(each.may_be_replaced for each in self._callers),
        )
        if channel is not None:
            if is_full:
                self._make_room()
            until = time.monotonic() + self._patience_s
            self._callers.append(_Caller(channel, self._new_connection(), until))

    def _turn_away(self, caller: "_Caller", error: TagalongError) -> None:
        self._listener.refused(HostError(f"{caller.channel.name}: {error}"))
        caller.say_why(error)

    def _make_room(self) -> None:
        leaving = [each for each in self._callers if each.is_leaving]
        caller = (leaving or self._callers)[0]
        if not caller.is_leaving:
            self._turn_away(caller, HostError("too many connect, and this one has said no HELLO"))
        caller.channel.close()
        self._callers.remove(caller)

    def _send_home(self, why: str) -> None:
        for caller in self._callers:
            if not caller.is_leaving:
                caller.say_why(HostError(why))
            caller.channel.close()
        self._callers.clear()


class _Caller:
    """Somebody who has connected and has `until` (monotonic) for a HELLO."""

    def __init__(self, channel: Channel, connection: wire.Connection, until: float) -> None:
        self.channel = channel
        self.is_leaving = False
        self._connection = connection
        self._until = until
        self._since = time.monotonic()

    @property
    def may_be_replaced(self) -> bool:
        """Return whether a newcomer has a better right to the place."""
        return self.is_leaving or time.monotonic() - self._since > LEAST_S

    @property
    def has_left(self) -> bool:
        """Return whether the peer was told why, and has had its time to hear that."""
        return self.is_leaving and time.monotonic() > self._until

    def greeting(self) -> Greeting | None:
        """Return the greeting if it is complete, and take in what has come of it. Never waits.

        Raises TagalongError for whoever is not, or not in time, a source.
        """
        if self.is_leaving:
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
            raise HostError("the peer closed the connection without a word")
        if not count:
            self._connection.receive_eof()

    def say_why(self, error: TagalongError) -> None:
        """Tell the peer why it is turned away; it has a moment to hear that. Never waits."""
        self.is_leaving, self._until = True, time.monotonic() + FAREWELL_S
        with suppress(TagalongError, OSError):
            # It fits into the socket's buffer, or the peer does not want to know.
            abort = self._connection.send(wire.Abort(reason_of(error), str(error)))
            self.channel.send(abort, deadline=time.monotonic())
            socket.socket.shutdown(self.channel.sock, socket.SHUT_WR)
