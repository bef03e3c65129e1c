"""The numbers behind the probabilities, and docs/design/explain.md."""

import math
from pathlib import Path

import pytest

from tagalong.explain import model

DESIGN = Path(__file__).parents[3] / "docs" / "design" / "explain.md"


def test_priors_are_those_of_the_document() -> None:
    lines = DESIGN.read_text("utf-8").split("## Priors", 1)[1].splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| `")]

    named = {row[0].strip(" `"): float(row[1]) for row in rows}

    assert named == {cause.value: prior for cause, prior in model.PRIORS.items()}


def test_priors_add_up_to_one() -> None:
    assert math.fsum(model.PRIORS.values()) == pytest.approx(1)


def test_density_of_jumps_adds_up_to_their_share() -> None:
    total = sum(
        model.overflow_density(granules, is_linear_possible=False)
        for granules in range(model.FURTHEST_GRANULES)
    )

    assert total == pytest.approx(1 - model.LINEAR_SHARE, rel=0.1)


@pytest.mark.parametrize("size", [1, 16, 17, 100, 1024])
def test_density_inside_a_block_adds_up_to_one(size: int) -> None:
    total = sum(model.inside_density(at, size) for at in range(0, size, 16))

    assert total == pytest.approx(1)
