import pytest

from tagalong.access.host import SEGV_MTEAERR, SEGV_MTESERR
from tagalong.mte.registers import TagCheckMode
from tagalong.studies.race.code import RACED_GPA, Side, granule_of
from tagalong.studies.race.world import OWN_CODE_VA, Granule
from tests.support import a64
from tests.support.race import own

RETAG = [a64.addg(0, 0, 0, 1), a64.stg(0, 0), a64.pair(a64.STP_X, a64.PAIR_OFFSET, 1, 2, 0)]
LOOK = [a64.mov(4, 0), a64.ldg(4, 4), a64.pair(a64.LDP_X, a64.PAIR_OFFSET, 2, 3, 4)]
FIRST = Granule(1, granule_of(1))


def test_content_follows_the_guest_instruction_by_instruction() -> None:
    with own(RETAG, LOOK) as race:
        seen = [race.world.content()[0]]
        while not race.world.is_done(Side.GUEST):
            race.world.step(Side.GUEST)
            seen.append(race.world.content()[0])

    assert seen == [FIRST, FIRST, Granule(2, granule_of(1)), Granule(2, granule_of(2))]


def test_look_alone_sees_what_is_there() -> None:
    with own([], LOOK) as race:
        faults = [race.world.step(Side.VMM) for _ in LOOK]

        assert faults == [None] * 3
        assert race.world.is_done(Side.VMM)
        assert race.look(race.world) == (FIRST,)


def test_restore_comes_back_to_the_very_state() -> None:
    with own(RETAG, LOOK) as race:
        world = race.world
        digests = []
        for _ in range(2):
            world.restore(race.start)
            digests.append([world.save().digest()])
            for side in (Side.VMM, Side.GUEST, Side.VMM, Side.GUEST, Side.GUEST):
                world.step(side)
                digests[-1].append(world.save().digest())

    assert digests[0] == digests[1]
    assert len(set(digests[0])) == len(digests[0])


def test_orders_that_make_no_difference_lead_to_equal_states() -> None:
    with own(RETAG, LOOK) as race:
        digests = set()
        for schedule in ("gv", "vg"):
            race.world.restore(race.start)
            for letter in schedule:
                race.world.step(Side(letter))
            digests.add(race.world.save().digest())

    assert len(digests) == 1


@pytest.mark.parametrize(
    ("mode", "steps", "code"),
    [(TagCheckMode.SYNC, 1, SEGV_MTESERR), (TagCheckMode.ASYNC, 2, SEGV_MTEAERR)],
)
def test_fault_is_reported_at_the_access_or_at_the_next_kernel_entry(
    mode: TagCheckMode, steps: int, code: int
) -> None:
    with own([], [a64.ldr(2, 0), a64.hint(0)], mode) as race:
        faults = [race.world.step(Side.VMM) for _ in range(steps)]

    assert faults[:-1] == [None] * (steps - 1)
    assert faults[-1] is not None
    assert faults[-1].code == code


def test_next_instruction_is_what_an_assembler_would_write() -> None:
    with own(RETAG, LOOK) as race:
        assert race.world.next_instruction(Side.GUEST)[1:] == (RETAG[0], "addg x0, x0, #0, #1")
        assert race.world.next_instruction(Side.VMM) == (OWN_CODE_VA, LOOK[0], "mov x4, x0")
        assert race.world.what(Side.GUEST) == "own"
        assert race.world.what(Side.VMM) == "own code"


def test_guest_s_exclusive_store_fails_after_the_vmm_stored_there() -> None:
    exclusive = [a64.ldxr(3, 5, 0), a64.stxr(3, 6, 1, 0)]
    store = [a64.str_(2, 1)]
    left = []
    for schedule in ("gg", "gvg"):
        with own(exclusive, store) as race:
            for letter in schedule:
                race.world.step(Side(letter))
            left.append(race.world.content()[0].data[:8])

    assert left == [granule_of(2)[:8], bytes(8)]
    assert RACED_GPA % 4096 == 0
