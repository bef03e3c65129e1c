"""The explorer against the plain thing: every interleaving executed from its start."""

from collections import Counter
from itertools import combinations
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagalong.access.outcome import Outcome
from tagalong.errors import MachineError
from tagalong.mte.registers import TagCheckMode
from tagalong.studies.race.code import GuestCode, Order, Side, VmmCall, VmmCode
from tagalong.studies.race.explore import Method, Reading, explore, judge
from tagalong.studies.race.guests import GUESTS
from tagalong.studies.race.run import Race, run_race
from tagalong.studies.race.trace import strategy_code, strategy_reading
from tagalong.studies.race.world import Granule, World
from tests.support import a64
from tests.support.race import Own, interrupted, own

LOOK = (a64.mov(4, 0), a64.ldg(4, 4))
LOAD_MATCHING = a64.pair(a64.LDP_X, a64.PAIR_OFFSET, 2, 3, 4)
LOAD_PLAIN = a64.pair(a64.LDP_X, a64.PAIR_OFFSET, 2, 3, 1)
GUEST_POOL = (
    a64.addg(0, 0, 0, 1),
    a64.stg(0, 0),
    a64.tag_store(a64.STZG, a64.OFFSET, 0, 0),
    a64.stgp(a64.PAIR_OFFSET, 1, 2, 0),
    a64.pair(a64.STP_X, a64.PAIR_OFFSET, 3, 4, 0),
    a64.str_(1, 0, 8),
    a64.hint(0),
)
VMM_POOL = (
    LOAD_MATCHING,
    LOAD_PLAIN,
    a64.ldg(4, 0),
    a64.ldr(2, 1),
    a64.ldr(3, 4, 8),
    a64.msr_tco(1),
    a64.msr_tco(0),
    a64.str_(2, 5),
    a64.add_imm(6, 6, 1),
)

# The handler of an interrupt that re-tags: what the VMM may see in the middle of anything.
_IAR1, _EOIR1, _SGI1R = (3, 0, 12, 12, 0), (3, 0, 12, 12, 1), (3, 0, 12, 11, 5)
_VIRTUAL_TIMER_CONTROL = (3, 3, 14, 3, 1)
RETAGGING_HANDLER = (
    a64.mrs(5, _IAR1),
    a64.msr(_VIRTUAL_TIMER_CONTROL, a64.ZR),
    a64.addg(0, 0, 0, 1),
    a64.stg(0, 0),
    a64.pair(a64.STP_X, a64.PAIR_OFFSET, 1, 2, 0),
    a64.msr(_EOIR1, 5),
    a64.eret(),
)
SEND_SGI = (a64.movz(6, 1), a64.msr(_SGI1R, 6), a64.hint(0))  # INTID 0, to vCPU 0
IDLE = (a64.hint(0),) * 4


def brute_force(race: Own) -> Counter[Outcome]:
    """Execute all interleavings of the two whole sequences, each from the start."""
    guest, vmm = race.lengths
    counts: Counter[Outcome] = Counter()
    for places in combinations(range(guest + vmm), guest):
        race.world.restore(race.start)
        contents = {race.world.content()}
        outcome = None
        for place in range(guest + vmm):
            side = Side.GUEST if place in places else Side.VMM
            if outcome is not None or race.world.is_done(side):
                continue
            if race.world.step(side) is not None:
                outcome = Outcome.FAULT
                continue
            now = race.world.content()
            contents.add(now)
            if race.world.is_done(Side.VMM):
                outcome = judge(race.look(race.world), frozenset(contents), now)
        assert outcome is not None
        counts[outcome] += 1
    race.world.restore(race.start)
    return counts


@settings(max_examples=40, deadline=None)
@given(
    guest=st.lists(st.sampled_from(GUEST_POOL), max_size=4),
    vmm=st.lists(st.sampled_from(VMM_POOL), min_size=1, max_size=4),
    mode=st.sampled_from([TagCheckMode.SYNC, TagCheckMode.ASYNC, TagCheckMode.ASYMMETRIC]),
)
def test_exhaustive_numbers_are_those_of_executing_every_interleaving(
    guest: list[int], vmm: list[int], mode: TagCheckMode
) -> None:
    with own(guest, [*LOOK, *vmm], mode) as race:
        expected = brute_force(race)

        found = explore(race.world, race.look, method=Method.EXHAUSTIVE)
        lengths = race.lengths

    assert {outcome: one.count for outcome, one in found.found.items()} == dict(expected)
    assert found.interleavings == comb(sum(lengths), lengths[0])


@pytest.mark.parametrize(
    ("guest", "fires_at"),
    [(SEND_SGI, None), (IDLE, 1), (IDLE, 3), ((*SEND_SGI, a64.stg(0, 0)), 1)],
    ids=["SGI", "timer at once", "timer", "both"],
)
@pytest.mark.parametrize(("load", "wrong"), [(LOAD_MATCHING, "FAULT"), (LOAD_PLAIN, "TORN")])
def test_exhaustive_numbers_are_right_when_interrupts_come_in_the_middle(
    guest: tuple[int, ...], fires_at: int | None, load: int, wrong: str
) -> None:
    with interrupted(guest, [*LOOK, load], RETAGGING_HANDLER, fires_at) as race:
        expected = brute_force(race)

        found = explore(race.world, race.look, method=Method.EXHAUSTIVE)
        race.world.restore(race.start)
        again = explore(race.world, race.look, method=Method.EXHAUSTIVE)

    assert {outcome: one.count for outcome, one in found.found.items()} == dict(expected)
    assert {Outcome.RIGHT, Outcome[wrong]} <= found.found.keys()  # by what the handler does
    assert again == found


@settings(max_examples=40, deadline=None)
@given(
    guest=st.lists(st.sampled_from(GUEST_POOL), max_size=5),
    vmm=st.lists(st.sampled_from(VMM_POOL), min_size=1, max_size=6),
    mode=st.sampled_from([TagCheckMode.SYNC, TagCheckMode.ASYNC, TagCheckMode.ASYMMETRIC]),
)
def test_reduction_loses_no_outcome_and_visits_no_more_states(
    guest: list[int], vmm: list[int], mode: TagCheckMode
) -> None:
    with own(guest, [*LOOK, *vmm], mode) as race:
        everything = explore(race.world, race.look, method=Method.EXHAUSTIVE)
        race.world.restore(race.start)

        reduced = explore(race.world, race.look, method=Method.REDUCED)

    assert reduced.found.keys() == everything.found.keys()
    assert reduced.states <= everything.states
    assert reduced.interleavings <= everything.interleavings


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("name", ["match", "alias", "sp"])
def test_reduction_of_real_routines_loses_no_outcome(name: str, order: Order) -> None:
    reports = [
        run_race(Race(GUESTS["retag"], name, order=order, method=method))
        for method in (Method.EXHAUSTIVE, Method.REDUCED)
    ]

    everything, reduced = (report.exploration for report in reports)

    assert everything.found.keys() == reduced.found.keys()
    assert reduced.states < everything.states
    assert everything.interleavings == comb(sum(everything.lengths), 6)


def test_sampling_same_seed_gives_the_same_and_only_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tagalong.studies.race.explore.SAMPLES", 500)
    race = Race(GUESTS["retag"], "match", method=Method.SAMPLED, seed=3)
    everything = run_race(Race(GUESTS["retag"], "match", method=Method.EXHAUSTIVE))

    first, second = run_race(race), run_race(race)

    assert first.outcomes == second.outcomes
    assert sum(first.outcomes.values()) == 500
    assert first.exploration.found.keys() <= everything.exploration.found.keys()
    for outcome, count in first.outcomes.items():
        share = everything.outcomes[outcome] / everything.exploration.interleavings
        assert abs(count / 500 - share) < 0.08


def test_schedule_of_each_outcome_leads_to_it() -> None:
    code = strategy_code("match", Order.TAGS_FIRST, TagCheckMode.SYNC)
    world = World(GUESTS["retag"], code)
    start = world.save()

    def look(at: World) -> Reading:
        return strategy_reading("match", Order.TAGS_FIRST, at)

    found = explore(world, look).found
    assert found.keys() == set(Outcome)
    for outcome, one in found.items():
        world.restore(start)
        contents = {world.content()}
        faults = []
        for letter in one.schedule:
            faults.append(world.step(Side(letter)))
            contents.add(world.content())
        assert faults[:-1] == [None] * (len(faults) - 1)
        assert faults[-1] == one.end.fault
        if outcome is not Outcome.FAULT:
            assert judge(look(world), frozenset(contents), world.content()) is outcome
    world.close()


def test_shortest_interleaving_changes_sides_as_little_as_it_can() -> None:
    with own([a64.addg(0, 0, 0, 1), a64.stg(0, 0)], [*LOOK, LOAD_MATCHING]) as race:
        found = explore(race.world, race.look).found

    assert found[Outcome.FAULT].schedule == "vvggv"
    assert found[Outcome.RIGHT].schedule == "vvv"


def test_dozen_a_side_is_explored_exhaustively_whatever_it_takes() -> None:
    guest = [a64.addg(0, 0, 0, 1), a64.stg(0, 0), a64.str_(1, 0)] * 4
    vmm = [*LOOK, *[LOAD_PLAIN, a64.ldg(4, 0)] * 5]

    with own(guest, vmm) as race:
        found = explore(race.world, race.look)

    assert found.lengths == (12, 12)
    assert found.method is Method.EXHAUSTIVE
    assert found.reason == "at most a dozen instructions per side"
    assert found.interleavings == comb(24, 12)


def test_beyond_the_limit_of_states_the_reduction_is_tried_and_then_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tagalong.studies.race.explore.SAMPLES", 20)
    methods = []
    for limit in (1_000, 400, 10):
        monkeypatch.setattr("tagalong.studies.race.explore.STATES_MAX", limit)
        explored = run_race(Race(GUESTS["retag"], "match")).exploration
        methods.append((explored.method, explored.reason))

    assert methods == [
        (Method.EXHAUSTIVE, "6 and 27 instructions, within 1,000 states"),
        (Method.REDUCED, "6 and 27 instructions, within 400 states"),
        (Method.SAMPLED, "6 and 27 instructions have more than 10 states"),
    ]


def test_plain_load_that_always_faults_is_an_outcome() -> None:
    with own([a64.hint(0)] * 2, [a64.ldr(2, 0)]) as race:
        explored = explore(race.world, race.look)

    assert explored.found.keys() == {Outcome.FAULT}
    assert explored.interleavings == 3


@pytest.mark.parametrize("method", [Method.EXHAUSTIVE, Method.SAMPLED])
def test_vmm_that_waits_for_ever_in_some_interleavings_is_given_up_there(method: Method) -> None:
    # Once the guest has changed the tag, the VMM waits for one that never comes.
    vmm = [*LOOK, a64.tbz(4, 57, 0, nonzero=1), LOAD_PLAIN]
    with own([a64.addg(0, 0, 0, 1), a64.stg(0, 0)], vmm) as race:
        explored = explore(race.world, race.look, method=method)

    assert explored.unfinished > 0
    assert Outcome.RIGHT in explored.found


@pytest.mark.parametrize(
    ("guest", "vmm", "message"),
    [
        ([a64.b(0)], [LOAD_PLAIN], "the guest's code does not end within 20,000 instructions"),
        ([], [a64.b(0)], "the VMM's code does not end within 20,000 instructions"),
        ([], [a64.ldr(2, 6)], r"pc 0x\w+ took SEGV_MAPERR at 0x0, ESR 0x92"),
        ([], [a64.udf(1)], r"took signal 4 code 1 at 0x\w+, ESR 0x2000000"),
    ],
)
def test_code_that_cannot_be_explored_is_refused(
    guest: list[int], vmm: list[int], message: str
) -> None:
    with own(guest, vmm) as race, pytest.raises(MachineError, match=message):
        explore(race.world, race.look)


def test_guest_that_faults_stops_and_the_look_goes_on() -> None:
    # The guest changes its tag and stores through the old pointer.
    guest = [a64.mov(6, 0), a64.addg(0, 0, 0, 1), a64.stg(0, 0), a64.str_(1, 6)]
    with own(guest, [*LOOK, LOAD_PLAIN]) as race:
        explored = explore(race.world, race.look)

    assert explored.lengths[0] == 4
    assert {end.end.reading[0].data for end in explored.found.values() if end.end.reading} == {
        bytes([1]) * 16
    }


OLD, NEW = Granule(1, b"old"), Granule(2, b"new")


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        ((NEW,), Outcome.RIGHT),
        ((OLD,), Outcome.STALE),
        ((Granule(1, b"new"),), Outcome.TORN),
        ((Granule(2, b"ne"),), Outcome.RIGHT),
    ],
)
def test_judge_one_granule(seen: Reading, outcome: Outcome) -> None:
    assert judge(seen, frozenset({(OLD,), (NEW,)}), (NEW,)) is outcome


def test_judge_several_granules_counts_the_worst() -> None:
    contents = frozenset({(OLD, OLD), (NEW, NEW)})

    assert judge((NEW, OLD), contents, (NEW, NEW)) is Outcome.STALE
    assert judge((Granule(1, b"new"), OLD), contents, (NEW, NEW)) is Outcome.TORN


def test_guest_code_that_is_too_long_is_refused() -> None:
    from tagalong.errors import UsageError  # noqa: PLC0415

    with pytest.raises(
        UsageError, match="cannot race long: it has 257 instructions; the limit is 256"
    ):
        GuestCode("long", (a64.hint(0),) * 257)
    with pytest.raises(UsageError, match="the VMM's code 'none' is empty"):
        VmmCode("none", ())
    assert VmmCall("x", 0, (), TagCheckMode.NONE).end_va is None
