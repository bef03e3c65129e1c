"""Further connections of a migration at its source: channels, and a return after a break."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Final

from tagalong import wire
from tagalong.errors import HostError, MigrationError, MigrationStage, RemoteProtocolError
from tagalong.machine import Machine
from tagalong.machine_records import record_of_description
from tagalong.memory import PageBitmap
from tagalong.migrate.link import Link
from tagalong.migrate.pages.placed import add_held
from tagalong.migrate.session import SourceSession
from tagalong.migrate.timeouts import Timeouts
from tagalong.migrate.transport.channel import Channel

_RETRY_EVERY_S: Final = 0.2

# A break counts as one with progress if the round came so much further since the one before. After
# so many breaks in a row without it, the migration ends: a destination that answers and then cuts
# the connection, again and again, must not keep it alive for ever.
_PROGRESS_BYTES: Final = 4 << 20
_MAX_BREAKS_WITHOUT_PROGRESS: Final = 16

Connect = Callable[[float], Channel]
"""Opens one more connection to the same destination, in at most so many seconds.

Raises HostError.
"""


@dataclass(frozen=True)
class Resumption:
    """A conversation that was resumed: `rounds` have ended; `placed` are pages of the next one."""

    link: Link
    rounds: int
    placed: list[PageBitmap]


@dataclass(frozen=True)
class FurtherConnections:
    """Opens connections to the destination of one migration, with what both ends agreed on."""

    connect: Connect
    machine: Machine
    hello: wire.Hello
    granted: wire.Hello
    features: int
    timeouts: Timeouts

    def add_channels(
        self, session: SourceSession, rounds: int, deadline: float = float("inf")
    ) -> None:
        """Open all channels that were granted, after so many rounds, and let them carry pages.

        Raises as `Link.send` and `Link.receive`.
        """
        with ExitStack() as begun:  # those that have begun are closed if one fails
            links = [
                begun.enter_context(closing(self._begin_channel(session, number, rounds, deadline)))
                for number in range(1, self.granted.channels)
            ]
            # Asked for all at once: the destination answers them side by side.
            for link in links:
                with _ended_if_it_fails(link):
                    link.expect(wire.ChannelRecord)
            begun.pop_all()
        for link in links:
            session.add_sender(link)

    def _begin_channel(
        self, session: SourceSession, number: int, rounds: int, deadline: float
    ) -> Link:
        link = self._link(session, rounds, deadline)
        with _ended_if_it_fails(link):
            link.send(wire.ChannelRecord(self.hello.migration_id, number))
        return link

    def resume(self, session: SourceSession, rounds: int, deadline: float) -> Resumption:
        """Resume the conversation; `rounds` have ended as far as the source knows.

        Raises HostError if the destination cannot be reached or the connection breaks, and as
        `Link.receive`.
        """
        link = self._link(session, rounds, deadline)
        with _ended_if_it_fails(link):
            link.send(self.hello)
            link.expect(wire.Hello)
            link.send(wire.Resume(rounds))
            return self._receive_placed(link)

    def _receive_placed(self, link: Link) -> Resumption:
        regions = self.machine.memory.regions
        placed = [PageBitmap(region.page_count) for region in regions]
        while isinstance(record := link.receive(), wire.Held):
            add_held(placed, regions, record)
        assert isinstance(record, wire.Resumed)  # noqa: S101 (nothing else is possible)
        return Resumption(link, record.rounds, placed)

    def _link(self, session: SourceSession, rounds: int, deadline: float) -> Link:
        joining = wire.Joining(
            self.hello.migration_id,
            record_of_description(self.machine.description),
            self.features,
            rounds,
        )
        connection = wire.Connection(wire.Role.SOURCE, joining=joining)
        channel = self.connect(max(0.0, deadline - time.monotonic()))
        link = Link(channel, connection, self.timeouts)
        link.interrupt_with(session.check_cancelled)
        link.deadline = deadline
        return link


@contextmanager
def _ended_if_it_fails(link: Link) -> Iterator[None]:
    """End the conversation over `link` on every error, with ABORT where that is possible.

    A peer that left raises HostError, as any broken connection.
    """
    try:
        yield
    except BaseException as error:
        if not link.is_lost:
            link.abort(error)
        link.close()
        if isinstance(error, RemoteProtocolError) and link.is_lost:
            raise HostError(str(error)) from error
        raise


class BreakCounter:
    """Counts breaks of a connection in a row without progress in between."""

    def __init__(self) -> None:
        self._breaks = 0
        self._rounds = -1
        self._left_bytes = 0

    def note(self, error: Exception, rounds: int, left_bytes: int) -> None:
        """Note a break because of `error`, with so many rounds ended and bytes of the next left.

        Raises MigrationError if there were too many without progress.
        """
        if rounds > self._rounds or left_bytes <= self._left_bytes - _PROGRESS_BYTES:
            self._breaks, self._rounds, self._left_bytes = 0, rounds, left_bytes
            return
        self._breaks += 1
        if self._breaks >= _MAX_BREAKS_WITHOUT_PROGRESS:
            raise MigrationError(
                f"the connection broke {self._breaks} times in a row ({error}), and the "
                f"destination placed less than {_PROGRESS_BYTES:#x} bytes in between: "
                f"{left_bytes:#x} bytes of the round are left"
            ) from error


class Recovery:
    """Brings a pre-copy back after its connections broke, if that was agreed on.

    A broken connection is resumed by what the destination has placed, not by acknowledgements.
    The destination knows of each page whether it was placed whole since the round began, a flag
    that it needs anyway, and sends these flags when the source returns. So nothing is acknowledged
    while all is well, the source keeps no list of what is on its way, and any number of
    connections may break at any byte.

    Only a connection that breaks is worth another one. An error in what was received, an ABORT or
    a rejection ends the migration at once (docs/formats/stream.md, section 8a): the destination
    would answer the same again.
    """

    def __init__(self, session: SourceSession, further: FurtherConnections | None) -> None:
        self._session = session
        self._further = further
        self._breaks = BreakCounter()

    @property
    def is_possible(self) -> bool:
        """Return whether both ends agreed to wait for each other."""
        return self._further is not None and self._further.granted.reconnect_s > 0

    def recover(
        self, error: Exception, rounds: int, pages: list[PageBitmap]
    ) -> list[PageBitmap] | None:
        """Reconnect after `error`, with `rounds` ended; see precopy.Recover."""
        session, further = self._session, self._further
        if further is None or not self.is_possible or not session.senders.is_resumable:
            raise error
        session.monitor.update(stage=MigrationStage.RECONNECT)
        resumption = self._resume(further, error, rounds)
        if resumption.rounds != rounds:
            return None
        left = [each - there for each, there in zip(pages, resumption.placed, strict=True)]
        page_bytes = session.machine.description.page_size_bytes
        self._breaks.note(error, rounds, sum(bitmap.count() for bitmap in left) * page_bytes)
        return left

    def _resume(self, further: FurtherConnections, error: Exception, rounds: int) -> Resumption:
        reconnect_s = further.granted.reconnect_s
        deadline = time.monotonic() + reconnect_s
        while True:
            self._session.check_cancelled()
            self._session.senders.close()
            try:
                return self._try_once(further, rounds, deadline)
            except HostError as again:
                if time.monotonic() > deadline:
                    raise HostError(
                        f"the connection broke ({error}) and did not come back in "
                        f"{reconnect_s} s ({again})"
                    ) from error
            time.sleep(_RETRY_EVERY_S)

    def _try_once(self, further: FurtherConnections, rounds: int, deadline: float) -> Resumption:
        """Bring all connections back. Raises HostError if one of them breaks or is not there."""
        session = self._session
        if session.steering.is_paused:
            raise HostError("the migration is paused")
        resumption = further.resume(session, rounds, deadline)
        session.replace_link(resumption.link)
        session.add_sender(resumption.link)
        further.add_channels(session, resumption.rounds, deadline)
        session.senders.set_deadline(float("inf"))
        return resumption
