"""Hundreds of migrations in which something goes wrong: the VM is at exactly one end, intact."""

import itertools
import random
from dataclasses import replace
from functools import partial

import pytest

from tagalong.soft import SoftMachine
from tagalong.wire import Role
from tests.support.fake_machine import FakeMachine
from tests.support.fault_proxy import Fault, Kind
from tests.support.fault_run import (
    OPTIONS,
    PATIENT_OPTIONS,
    Case,
    Tally,
    at_boundaries,
    run_all,
    shape,
)
from tests.support.kill_child import make_source
from tests.support.running_guest import Listener, RunningGuest

KINDS = [kind for kind in Kind if kind is not Kind.KILL]
RANDOM_PLACES = 30

_seeds = itertools.count()


# Bytes that only come later must not fail on a busy host either.
UNHURRIED = replace(OPTIONS, timeouts=PATIENT_OPTIONS.timeouts)


def fake(fault: Fault | None = None) -> Case:
    is_harmless = fault is not None and fault.kind is Kind.DELAY
    return Case(make_source(), FakeMachine, fault, UNHURRIED if is_harmless else OPTIONS)


def at_random(kind: Kind, sizes: dict[Role, list[int]], count: int, seed: int) -> list[Fault]:
    draw = random.Random(f"{kind.value}{seed}")
    faults = []
    for _ in range(count):
        role = draw.choice(list(Role))
        number = draw.randrange(-1, len(sizes[role]))
        place = draw.randrange(sizes[role][number] if number >= 0 else 16)
        faults.append(Fault(kind, role, number, place, draw.randrange(1 << 16)))
    return faults


def assert_never_lost(tally: Tally) -> None:
    assert not tally.wrong, "\n".join(tally.wrong)


@pytest.fixture(scope="module")
def fake_sizes() -> dict[Role, list[int]]:
    return shape(fake)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_fault_at_every_record_boundary_and_at_random_bytes_never_loses_the_vm(
    kind: Kind, fake_sizes: dict[Role, list[int]]
) -> None:
    faults = at_boundaries(kind, fake_sizes)
    faults += at_random(kind, fake_sizes, 4 if kind is Kind.STALL else RANDOM_PLACES, seed=1)

    tally = run_all(fake, faults)

    assert_never_lost(tally)
    assert tally.struck >= 0.9 * len(faults)
    assert tally.stayed or kind is Kind.DELAY
    assert tally.moved == len(faults) or kind is not Kind.DELAY, tally.reasons


# Several connections, and a source that comes back, have more to get wrong.
WAYS = {
    "two channels": replace(OPTIONS, channels=2),
    "reconnecting": replace(OPTIONS, reconnect_s=2),
    "both": replace(OPTIONS, channels=2, reconnect_s=2),
}
BROKEN = (Kind.CUT, Kind.DROP, Kind.FLIP)


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.value)
@pytest.mark.parametrize("way", WAYS)
def test_fault_with_more_connections_never_loses_the_vm(way: str, kind: Kind) -> None:
    def make(fault: Fault | None = None) -> Case:
        return replace(fake(fault), options=WAYS[way])

    faults = at_boundaries(kind, shape(make))
    if (WAYS[way].channels or 1) > 1:
        faults += [
            Fault(kind, role, number, seed=number, connection=1)
            for role in Role
            for number in range(-1, 4)
        ]
    tally = run_all(make, faults)

    assert_never_lost(tally)
    if kind is Kind.CUT and WAYS[way].reconnect_s:
        assert tally.moved >= 5  # what breaks in pre-copy is taken up again


def test_faults_are_at_least_five_hundred(fake_sizes: dict[Role, list[int]]) -> None:
    boundaries = len(at_boundaries(Kind.CUT, fake_sizes))
    on_fake = len(KINDS) * (boundaries + RANDOM_PLACES) - (RANDOM_PLACES - 4)

    on_soft = len(KINDS) * boundaries
    with_more = len(WAYS) * len(BROKEN) * boundaries
    assert on_fake + on_soft + with_more >= 500


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_fault_while_a_real_guest_works_never_loses_it(kind: Kind) -> None:
    consoles = no_consoles()
    make = partial(churn, consoles)
    tally = run_all(make, at_boundaries(kind, shape(make)))

    assert_never_lost(tally)
    assert not [line for console in consoles for line in console.lines_with("FAIL")]


def no_consoles() -> list[Listener]:
    """Return where `churn` puts what its guests say."""
    return []


def churn(consoles: list[Listener], fault: Fault | None = None) -> Case:
    """Return a migration of a guest that verifies its memory and tags as it goes."""
    guest = RunningGuest(
        SoftMachine.create,
        "churn",
        "working-set=128K report=64 write-rate=5",
        ram_bytes=4 << 20,
        seed=next(_seeds),
    )
    there = Listener()
    consoles += [guest, there]
    guest.machine.resume()
    build = partial(SoftMachine.from_description, console=there.hear)
    return Case(guest.machine, build, fault, OPTIONS)
