"""One race from names and files to its report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tagalong.errors import UsageError
from tagalong.mte import GRANULE_BYTES
from tagalong.mte.pointers import logical_tag
from tagalong.mte.registers import TagCheckMode
from tagalong.soft.host.process import PLAIN_VA, TAGGED_VA
from tagalong.studies.race.code import RACED_GPA, GuestCode, Order, VmmCall, VmmCode
from tagalong.studies.race.explore import Method, Reading, explore
from tagalong.studies.race.report import RaceReport, make_report
from tagalong.studies.race.trace import strategy_code, strategy_reading
from tagalong.studies.race.world import OWN_CODE_VA, Granule, World, scratch_address

OWN_CODE: Final = "own code"


@dataclass(frozen=True)
class Race:
    """What to explore: a guest's code against a strategy's look, or against `words`.

    `words`: a VMM's own code. It begins with x0 pointing at the granule through the mapping
    with PROT_MTE, x1 through the one without, x5 at 4096 bytes of scratch memory; x2 and x3
    hold the granule's data when it ends, and x4 a pointer with its tag, as LDG leaves it.
    """

    guest: GuestCode
    access: str | None = None
    words: tuple[int, ...] = ()
    order: Order = Order.TAGS_FIRST
    mode: TagCheckMode = TagCheckMode.SYNC
    method: Method | None = None
    seed: int = 0


def run_race(race: Race) -> RaceReport:
    """Explore a race and report what came out.

    Raises UsageError for a race without a VMM or with two, or with a strategy that there is not;
    and as `explore` does.
    """
    if (race.access is None) == (not race.words):
        raise UsageError("a race is with one strategy, or with code of your own")
    if race.access is None:
        return _explore(race, own_code(race.words, race.mode), own_reading)
    name = race.access
    code = strategy_code(name, race.order, race.mode)
    return _explore(race, code, lambda world: strategy_reading(name, race.order, world))


def _explore(race: Race, code: VmmCode, look: Callable[[World], Reading]) -> RaceReport:
    world = World(race.guest, code)
    try:
        start = world.save()
        exploration = explore(world, look, method=race.method, seed=race.seed)
        order = None if race.access is None else race.order
        return make_report(world, start, exploration, order, race.mode)
    finally:
        world.close()


def own_code(words: tuple[int, ...], mode: TagCheckMode) -> VmmCode:
    """Return the VMM's code for `words`, see Race."""
    arguments = (TAGGED_VA + RACED_GPA, PLAIN_VA + RACED_GPA, 0, 0, 0, scratch_address(0))
    end = OWN_CODE_VA + 4 * len(words)
    return VmmCode(OWN_CODE, (VmmCall(OWN_CODE, OWN_CODE_VA, arguments, mode, end),), words)


def own_reading(world: World) -> Reading:
    """Return what `words` have seen once they are done, see Race."""
    data = b"".join(world.vmm_x(number).to_bytes(8, "little") for number in (2, 3))
    return (Granule(logical_tag(world.vmm_x(4)), data[:GRANULE_BYTES]),)
