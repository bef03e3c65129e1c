import pytest

from tagalong.disassembly import disassemble
from tagalong.errors import UsageError
from tagalong.mte.registers import TagCheckMode
from tagalong.studies.race.code import Side, VmmCode, granule_of
from tagalong.studies.race.guests import GUESTS, SUMMARIES, guest_code
from tagalong.studies.race.run import own_code
from tagalong.studies.race.world import Granule, World

TEXTS = {
    "retag-once": ["addg x0, x0, #0, #1", "stg x0, [x0]", "stp x1, x2, [x0]"],
    "clear": ["addg x0, x0, #0, #1", "stzg x0, [x0]", "stp x1, x2, [x0]"],
}
# Tag and owner of the data after each instruction; owner 0 is zeros.
CONTENTS = {
    "retag": [(1, 1), (1, 1), (2, 1), (2, 2), (2, 2), (3, 2), (3, 3)],
    "retag-once": [(1, 1), (1, 1), (2, 1), (2, 2)],
    "clear": [(1, 1), (1, 1), (2, 0), (2, 2), (2, 2), (3, 0), (3, 3)],
    "pair": [(1, 1), (1, 1), (2, 2), (2, 2), (3, 3)],
    "paused": [(1, 1)],
}


@pytest.mark.parametrize("name", list(TEXTS))
def test_words_are_what_their_comments_say(name: str) -> None:
    words = GUESTS[name].words

    assert [disassemble(word, 0) for word in words][:3] == TEXTS[name]


@pytest.mark.parametrize("name", list(GUESTS))
def test_guest_does_to_the_granule_what_its_summary_says(name: str) -> None:
    nothing: VmmCode = own_code((0xD503201F,), TagCheckMode.NONE)
    world = World(guest_code(name), nothing)
    seen = [world.content()[0]]

    while not world.is_done(Side.GUEST):
        world.step(Side.GUEST)
        seen.append(world.content()[0])
    neighbour = world.content()[1]
    world.close()

    assert seen == [Granule(tag, granule_of(owner)) for tag, owner in CONTENTS[name]]
    assert neighbour == Granule(1, granule_of(1))
    assert SUMMARIES[name]


def test_unknown_guest_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="unknown guest sequence 'x'; there are retag, retag-once"):
        guest_code("x")
