"""Lets further connections of a migration in at its destination: channels, and a return.

A thread listens on; who connects gets a thread of its own, in which it has to name the
migration (16 random bytes that only the source has) within the time limits, so that nobody
who connects and stays silent holds up anybody. A channel then takes pages in that thread until
it ends or fails. A source that comes back is left for the destination to fetch.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from tagalong import wire
from tagalong.errors import HostError, RemoteProtocolError, TagalongError
from tagalong.migrate.link import Link, Timeouts
from tagalong.migrate.pages.receiver import PageReceiver
from tagalong.migrate.transport.channel import Channel, never
from tagalong.migrate.transport.listener import LEAST_S, Listener

_MAX_GUESTS = 32
_LOOK_UP_S = 0.1

# What the broken connection still holds is worth a moment: it need not be sent again.
_DRAIN_S = 0.5


class DoorClosedError(HostError):
    """The destination wants no more connections, or not this one any more."""


class ReturnedError(HostError):
    """The source has come back on a new connection: the ones before are of no use."""


class Door:
    """Further connections of the migration that `hello` opened.

    `joining` says what they join, as of now; `new_taker` makes who takes the pages of a channel.
    `failure` is why a channel failed; `is_lost` that its connection broke.
    """

    def __init__(
        self,
        listener: Listener,
        timeouts: Timeouts,
        granted: wire.Hello,
        joining: Callable[[], wire.Joining],
        new_taker: Callable[[Channel], PageReceiver],
    ) -> None:
        self.failure: Exception | None = None
        self.is_lost = False
        self._listener = listener
        self._timeouts = timeouts
        self._granted = granted
        self._joining = joining
        self._new_taker = new_taker
        self._returned: tuple[Link, PageReceiver] | None = None
        self._returned_at = 0.0
        self._channels: dict[int, Link] = {}
        self._at_work: set[Link] = set()
        self._guests: set[threading.Thread] = set()
        self._strangers: dict[Link, float] = {}
        self._lock = threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        self._thread.start()

    # --- for the destination's thread ---

    def check(self) -> None:
        """Raise what a channel failed of, or ReturnedError if the source has come back."""
        if self._returned is not None and time.monotonic() - self._returned_at > _DRAIN_S:
            raise ReturnedError("the source has come back on a new connection")
        if self.failure is not None:
            raise self.failure

    def drop_channels(self) -> None:
        """Close all channels and wait until none of them writes to memory any more."""
        with self._lock:
            links, self._channels = list(self._channels.values()), {}
            for link in links:
                link.interrupt_with(_refuse)
            self._lock.wait_for(lambda: not self._at_work)
        self.failure, self.is_lost = None, False

    def wait_for_return(
        self, deadline_s: float, check: Callable[[], None]
    ) -> tuple[Link, PageReceiver] | None:
        """Return the link on which the source has come back, None if it does not in time.

        With it comes who takes the pages that it brings. `check` is called meanwhile.
        """
        waited_s = 0.0
        while self._returned is None and waited_s < deadline_s:
            check()
            with self._lock:
                self._lock.wait_for(lambda: self._returned is not None, _LOOK_UP_S)
            waited_s += _LOOK_UP_S
        with self._lock:
            returned, self._returned = self._returned, None
        return returned

    def shut(self) -> None:
        """Let nobody in any more; channels that are in stay."""
        self._is_open = False

    def close(self) -> None:
        """Shut the door, end all channels and wait for all threads."""
        self.shut()
        with self._lock:
            for link in self._channels.values():
                link.interrupt_with(_refuse)
        self._thread.join()
        for guest in list(self._guests):
            guest.join()
        if self._returned is not None:
            self._returned[0].close()

    # --- threads ---

    def _check_open(self) -> None:
        if not self._is_open:
            raise DoorClosedError("no more connections are let in")

    def _run(self) -> None:
        while self._is_open:
            if not self._has_room():
                time.sleep(_LOOK_UP_S)  # who has to leave takes a moment
                continue
            with suppress(HostError):
                channel = self._listener.accept(
                    idle_s=self._timeouts.idle_s, timeout_s=_LOOK_UP_S, interrupt=self._check_open
                )
                self._let_in(channel)

    def _has_room(self) -> bool:
        """Return whether one more may come in; if not, let those leave who say nothing."""
        self._guests = {guest for guest in self._guests if guest.is_alive()}
        if len(self._guests) < _MAX_GUESTS:
            return True
        with self._lock:
            for link, since in self._strangers.items():
                if time.monotonic() - since > LEAST_S:
                    link.interrupt_with(_make_room)
        return False

    def _let_in(self, channel: Channel) -> None:
        guest = threading.Thread(target=self._greet, args=(channel,), name="guest", daemon=True)
        self._guests.add(guest)
        guest.start()

    def _greet(self, channel: Channel) -> None:
        """Hear what a new connection is for. Who cannot say it is sent away."""
        taker = self._new_taker(channel)
        connection = wire.Connection(wire.Role.DESTINATION, self._joining(), taker)
        link = Link(channel, connection, self._timeouts)
        link.interrupt_with(self._check_open)
        try:
            record = self._hear_first(link)
            if isinstance(record, wire.ChannelRecord):
                self._serve(link, record, taker)
            elif isinstance(record, wire.Hello):
                self._take_back(link, record, taker)
                return
        except TagalongError as error:
            link.abort(error)
        link.close()

    def _hear_first(self, link: Link) -> wire.Record:
        """Return what a new connection says first. Until then it is a stranger's."""
        with self._lock:
            self._strangers[link] = time.monotonic()
        try:
            return link.receive()
        finally:
            with self._lock:
                del self._strangers[link]
                link.interrupt_with(self._check_open)

    def _take_back(self, link: Link, hello: wire.Hello, taker: PageReceiver) -> None:
        if not self._granted.reconnect_s:
            raise RemoteProtocolError("this migration is not to be resumed", offset=0)
        link.send(
            wire.Hello(
                wire.Role.DESTINATION,
                hello.migration_id,
                channels=min(hello.channels, self._granted.channels),
                reconnect_s=min(hello.reconnect_s, self._granted.reconnect_s),
            )
        )
        with self._lock:
            before, self._returned = self._returned, (link, taker)
            self._returned_at = time.monotonic()
            self._lock.notify_all()
        if before is not None:
            before[0].close()

    def _serve(self, link: Link, record: wire.ChannelRecord, taker: PageReceiver) -> None:
        """Take pages from a channel until it ends."""
        with self._lock:
            if record.number >= self._granted.channels or record.number in self._channels:
                raise RemoteProtocolError(f"channel {record.number:#x} is not awaited", offset=0)
            self._channels[record.number] = link
            self._at_work.add(link)
            link.interrupt_with(never)
        try:
            link.allow_silence()
            link.send(wire.ChannelRecord(record.migration_id, record.number))
            _take_all(link, taker)
        except TagalongError as error:
            if self._channels.get(record.number) is link:
                self.is_lost = self.is_lost or link.is_lost
                self.failure = self.failure or error
        finally:
            with self._lock:
                self._at_work.discard(link)
                self._lock.notify_all()


def _take_all(link: Link, taker: PageReceiver) -> None:
    while not isinstance(record := link.receive(), wire.EndRecord):
        if isinstance(record, wire.Pages):
            taker.take(record)
        elif isinstance(record, wire.Round):
            link.send(wire.Round(record.number, taker.end_round()))


def _make_room() -> None:
    raise DoorClosedError("others wait to be let in, and this connection has said nothing yet")


def _refuse() -> None:
    raise DoorClosedError("this channel is of no use any more")
