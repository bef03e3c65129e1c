"""How a source reaches its destination again: further channels, and after a broken connection."""

from collections.abc import Callable
from dataclasses import dataclass

from tagalong import wire
from tagalong.machine import Machine
from tagalong.machine_records import record_of_description
from tagalong.memory import PageBitmap
from tagalong.migrate.link import Link, Timeouts
from tagalong.migrate.pages.placed import add_held
from tagalong.migrate.transport.channel import Channel

Connect = Callable[[], Channel]
"""Opens one more connection to the same destination. Raises HostError."""


@dataclass(frozen=True)
class Resumption:
    """A conversation that goes on: `rounds` have ended, `held` was placed of the one after."""

    link: Link
    rounds: int
    held: list[PageBitmap]


@dataclass(frozen=True)
class FurtherConnections:
    """What further connections of one migration need: its id, and what was agreed on."""

    connect_again: Connect
    machine: Machine
    hello: wire.Hello
    features: int
    timeouts: Timeouts

    def open_channel(self, number: int, rounds: int) -> Link:
        """Open channel `number` after so many rounds. Raises as `Link.send` and `receive`."""
        link = self._link(rounds)
        try:
            link.send(wire.ChannelRecord(self.hello.migration_id, number))
            link.expect(wire.ChannelRecord)
        except BaseException:
            link.close()
            raise
        return link

    def resume(self, rounds: int) -> Resumption:
        """Go on with the conversation; `rounds` have ended as the source knows.

        Raises HostError if the destination cannot be reached, and as `Link.receive`.
        """
        link = self._link(rounds)
        try:
            link.send(self.hello)
            link.expect(wire.Hello)
            link.send(wire.Resume(rounds))
            return self._hear_held(link)
        except BaseException:
            link.close()
            raise

    def _hear_held(self, link: Link) -> Resumption:
        regions = self.machine.memory.regions
        held = [PageBitmap(region.page_count) for region in regions]
        while isinstance(record := link.receive(), wire.Held):
            add_held(held, regions, record)
        assert isinstance(record, wire.Resumed)  # noqa: S101 (nothing else is possible)
        return Resumption(link, record.rounds, held)

    def _link(self, rounds: int) -> Link:
        joining = wire.Joining(
            self.hello.migration_id,
            record_of_description(self.machine.description),
            self.features,
            rounds,
        )
        connection = wire.Connection(wire.Role.SOURCE, joining=joining)
        return Link(self.connect_again(), connection, self.timeouts)
