"""What several tests of migrations need."""

from collections.abc import Iterator

import pytest

from tests.support.migration import Outcome


@pytest.fixture
def outcomes() -> Iterator[list[Outcome]]:
    """Return a list for the migrations of a test; their machines are closed in the end."""
    collected: list[Outcome] = []
    yield collected
    for outcome in collected:
        outcome.close()
