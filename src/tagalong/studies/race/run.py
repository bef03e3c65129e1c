"""Runs one race and reports it."""

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

    `words` is VMM code of the user's own. At its start x0 points at the granule through the
    mapping with PROT_MTE, x1 through the one without, and x5 at 4096 bytes of scratch memory. At
    its end x2 and x3 hold the granule's data, and x4 a pointer with its tag, as LDG leaves it.
    """

    guest: GuestCode
    access: str | None = None
    words: tuple[int, ...] = ()
    order: Order = Order.TAGS_FIRST
    mode: TagCheckMode = TagCheckMode.SYNC
    method: Method | None = None
    seed: int = 0


def run_race(race: Race) -> RaceReport:
    """Explore a race and return its report.

    Raises UsageError for a race with neither a strategy nor `words`, for one with both, and for
    an unknown strategy; and whatever `explore` raises.
    """
    if race.access is None and not race.words:
        raise UsageError("no VMM code to race: give --access NAME or --vmm-code FILE")
    if race.access is not None and race.words:
        raise UsageError("--access and --vmm-code exclude each other; give one of them")
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
    """Return what `words` have read once they are done, see Race."""
    data = b"".join(world.vmm_x(number).to_bytes(8, "little") for number in (2, 3))
    return (Granule(logical_tag(world.vmm_x(4)), data[:GRANULE_BYTES]),)
