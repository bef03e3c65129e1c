"""Simulated crashes of known cause, a short run (`make explain` has the long one)."""

import pytest

from tests.support.crash_model import RULES, answers, simulate
from tests.support.measure import decidable, share

COUNT = 100


def test_simulated_causes_are_found_as_often_as_they_are_claimed() -> None:
    found = [*answers(COUNT)]

    sure = [each for each in found if each.probability >= 0.9]
    assert share(each.is_right for each in decidable(found)) >= 0.8
    assert share(each.is_right for each in sure) >= 0.85
    assert share(e.is_right for e in found) > share(e.debuggerd_is_right for e in found) + 0.1


@pytest.mark.parametrize("number", range(len(RULES)), ids=[rules.name for rules in RULES])
def test_simulated_heap_has_the_crash_that_it_says(number: int) -> None:
    mishap, crash = simulate(number)

    met = crash.tag_at(crash.fault.address or 0)

    assert mishap.cause
    assert met is not None
    assert met != crash.fault.pointer_tag
