"""The floor under the interpreter's speed."""

import pytest

from bench.interpreter import million_instructions_per_second

FLOOR = 50.0


@pytest.mark.parametrize(("mode", "floor"), [("", FLOOR), ("mode=stg", FLOOR / 2)])
def test_speed_guest_runs_above_the_floor(mode: str, floor: float) -> None:
    rates = [million_instructions_per_second(mode, iterations=2_000_000) for _ in range(3)]

    assert max(rates) > floor
