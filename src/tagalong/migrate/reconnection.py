"""Further connections of a migration at its source: channels, and a return after a break."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tagalong import wire
from tagalong.errors import HostError, MigrationStage, RemoteProtocolError
from tagalong.machine import Machine
from tagalong.machine_records import record_of_description
from tagalong.memory import PageBitmap
from tagalong.migrate.link import Link, Timeouts
from tagalong.migrate.pages.placed import add_held
from tagalong.migrate.session import SourceSession
from tagalong.migrate.transport.channel import Channel

_RETRY_EVERY_S: Final = 0.2

Connect = Callable[[], Channel]
"""Opens one more connection to the same destination. Raises HostError."""


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

    def add_channels(self, session: SourceSession, rounds: int) -> None:
        """Open all channels that were granted, after so many rounds, and let them carry pages.

        Raises as `Link.send` and `Link.receive`.
        """
        for number in range(1, self.granted.channels):
            session.add_sender(self._open_channel(number, rounds))

    def _open_channel(self, number: int, rounds: int) -> Link:
        link = self._link(rounds)
        try:
            link.send(wire.ChannelRecord(self.hello.migration_id, number))
            link.expect(wire.ChannelRecord)
        except BaseException:
            link.close()
            raise
        return link

    def resume(self, rounds: int) -> Resumption:
        """Resume the conversation; `rounds` have ended as far as the source knows.

        Raises HostError if the destination cannot be reached, and as `Link.receive`.
        """
        link = self._link(rounds)
        try:
            link.send(self.hello)
            link.expect(wire.Hello)
            link.send(wire.Resume(rounds))
            return self._receive_placed(link)
        except BaseException:
            link.close()
            raise

    def _receive_placed(self, link: Link) -> Resumption:
        regions = self.machine.memory.regions
        placed = [PageBitmap(region.page_count) for region in regions]
        while isinstance(record := link.receive(), wire.Held):
            add_held(placed, regions, record)
        assert isinstance(record, wire.Resumed)  # noqa: S101 (nothing else is possible)
        return Resumption(link, record.rounds, placed)

    def _link(self, rounds: int) -> Link:
        joining = wire.Joining(
            self.hello.migration_id,
            record_of_description(self.machine.description),
            self.features,
            rounds,
        )
        connection = wire.Connection(wire.Role.SOURCE, joining=joining)
        return Link(self.connect(), connection, self.timeouts)


class Recovery:
    """Brings a pre-copy back after its connections broke, if that was agreed on.

    A broken connection is resumed by what the destination has placed, not by acknowledgements.
    The destination knows of each page whether it was placed whole since the round began, a flag
    that it needs anyway, and sends these flags when the source returns. So nothing is acknowledged
    while all is well, the source keeps no list of what is on its way, and any number of
    connections may break at any byte.
    """

    def __init__(self, session: SourceSession, further: FurtherConnections | None) -> None:
        self._session = session
        self._further = further

    @property
    def is_possible(self) -> bool:
        """Return whether both ends agreed to wait for each other."""
        return self._further is not None and self._further.granted.reconnect_s > 0

    def recover(self, error: Exception, rounds: int) -> list[PageBitmap] | None:
        """Reconnect after `error`, with `rounds` ended; see precopy.Recover."""
        session, further = self._session, self._further
        if further is None or not self.is_possible or not session.senders.is_lost:
            raise error
        session.monitor.update(stage=MigrationStage.RECONNECT)
        session.senders.close()
        resumption = self._resume(further, error, rounds)
        session.replace_link(resumption.link)
        session.add_sender(resumption.link)
        further.add_channels(session, resumption.rounds)
        return resumption.placed if resumption.rounds == rounds else None

    def _resume(self, further: FurtherConnections, error: Exception, rounds: int) -> Resumption:
        reconnect_s = further.granted.reconnect_s
        deadline = time.monotonic() + reconnect_s
        while True:
            self._session.check_cancelled()
            try:
                if self._session.steering.is_paused:
                    raise HostError("the migration is paused")
                return further.resume(rounds)
            except (HostError, RemoteProtocolError) as again:
                if time.monotonic() > deadline:
                    raise HostError(
                        f"the connection broke ({error}) and did not come back in "
                        f"{reconnect_s} s ({again})"
                    ) from error
            time.sleep(_RETRY_EVERY_S)
