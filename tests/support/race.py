"""A race of two short sequences, ready to be explored."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tagalong.mte.registers import TagCheckMode
from tagalong.studies.race.code import GuestCode, Side
from tagalong.studies.race.explore import Reading
from tagalong.studies.race.run import own_code, own_reading
from tagalong.studies.race.world import Saved, World


@dataclass
class Own:
    """A world and its start."""

    world: World
    start: Saved

    @property
    def lengths(self) -> tuple[int, int]:
        """Return how many instructions of guest and VMM are executed when each is alone."""
        return self._length(Side.GUEST), self._length(Side.VMM)

    def _length(self, side: Side) -> int:
        self.world.restore(self.start)
        length, fault = 0, None
        while fault is None and not self.world.is_done(side):
            length += 1
            fault = self.world.step(side)
        self.world.restore(self.start)
        return length

    def look(self, world: World) -> Reading:
        return own_reading(world)


@contextmanager
def own(
    guest: Sequence[int], vmm: Sequence[int], mode: TagCheckMode = TagCheckMode.SYNC
) -> Iterator[Own]:
    """Give a world in which both sides stand before their first instruction."""
    world = World(GuestCode("own", tuple(guest)), own_code(tuple(vmm), mode))
    try:
        yield Own(world, world.save())
    finally:
        world.close()
