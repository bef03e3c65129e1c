"""SIGKILL of either process, at every record boundary and at random bytes."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tagalong.wire import Role
from tests.support.fake_machine import FakeMachine
from tests.support.fault_proxy import Fault, Kind
from tests.support.fault_run import Case, at_boundaries, digest, shape
from tests.support.kill_child import make_source
from tests.support.kill_run import Killing, fork_server, judge_killing, kill_at

AT_ONCE = 4
RANDOM_PLACES = 24


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with fork_server() as path:
        yield path


@pytest.fixture(scope="module")
def sizes() -> dict[Role, list[int]]:
    return shape(lambda: Case(make_source(), FakeMachine))


@pytest.fixture(scope="module")
def moved() -> str:
    """Return the digest of the machine as it arrives."""
    case = Case(make_source(), FakeMachine)
    case.run()
    found = digest(case.source).hex()
    case.close()
    return found


@pytest.mark.parametrize("victim", list(Role), ids=lambda role: role.name.lower())
def test_sigkill_anywhere_leaves_at_most_one_end_with_the_vm(
    victim: Role, server: str, sizes: dict[Role, list[int]], moved: str
) -> None:
    faults = at_boundaries(Kind.KILL, sizes) + at_random(sizes, victim)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        killings = list(pool.map(lambda fault: kill_at(server, fault, victim), faults))

    wrong = [
        f"{killing.what}: {verdict}"
        for killing in killings
        if (verdict := judge_killing(killing, sizes, moved))
    ]
    assert not wrong, "\n".join(wrong)
    assert sum(killing.has_struck for killing in killings) >= 0.9 * len(killings)
    assert outcomes(killings, victim.peer) >= EXPECTED[victim]


# What the survivor must have seen among all moments to die.
EXPECTED = {Role.SOURCE: {"nothing", "arrived"}, Role.DESTINATION: {"stayed", "uncertain"}}


def outcomes(killings: list[Killing], survivor: Role) -> set[object]:
    told = [
        killing.source if survivor is Role.SOURCE else killing.destination for killing in killings
    ]
    return {answer["outcome"] for answer in told if answer is not None}


def at_random(sizes: dict[Role, list[int]], victim: Role) -> list[Fault]:
    draw = random.Random(victim.value)
    places = [
        (role, number, size) for role, all_sizes in sizes.items()
        for number, size in enumerate(all_sizes)
    ]  # fmt: skip
    return [
        Fault(Kind.KILL, role, number, draw.randrange(size))
        for role, number, size in draw.choices(places, k=RANDOM_PLACES)
    ]
