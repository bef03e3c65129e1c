"""The run states and the moves between them."""

import re

import pytest

from tagalong.errors import RunStateError
from tagalong.vmm import states
from tagalong.vmm.states import TRANSITIONS, VmState, check_transition
from tests.support.cases import check_each

ALL_PAIRS = [(a, b) for a in VmState for b in VmState]


def table_in_docstring() -> dict[VmState, frozenset[VmState]]:
    lines = re.findall(r"^    ([a-z-]+) +->(.*)$", states.__doc__ or "", re.MULTILINE)
    return {
        VmState(name): frozenset(VmState(word) for word in rest.replace(",", " ").split())
        for name, rest in lines
    }


def test_transitions_docstring_shows_the_table() -> None:
    assert table_in_docstring() == dict(TRANSITIONS)


def test_transitions_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(VmState)


@pytest.mark.parametrize("state", [VmState.SHUTDOWN, VmState.INTERNAL_ERROR])
def test_transitions_final_state_leads_nowhere(state: VmState) -> None:
    assert TRANSITIONS[state] == frozenset()


def test_check_transition_allows_exactly_the_table() -> None:
    check_each(ALL_PAIRS, check_pair)


def check_pair(pair: tuple[VmState, VmState]) -> None:
    current, wanted = pair
    if wanted in TRANSITIONS[current]:
        check_transition(current, wanted)
        return
    message = f"^a VM that is {current.value} cannot become {wanted.value}$"
    with pytest.raises(RunStateError, match=message):
        check_transition(current, wanted)
