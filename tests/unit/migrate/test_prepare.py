"""A destination that makes memory ready while it waits."""

import numpy as np

from tagalong.memory.reserve import take_reserved
from tagalong.migrate.prepare import Preparation
from tests.support.fake_machine import FakeMachine, contents, describe
from tests.support.migration import Migration

SIZE = 0x40_0000


def test_machine_that_arrives_gets_what_was_made_ready() -> None:
    source = FakeMachine(describe(SIZE))
    region = source.memory.regions[0]
    region.raw_data[: SIZE // 2] = np.random.default_rng(1).integers(0, 256, SIZE // 2, np.uint8)
    region.raw_data[0x3000:0x5000] = 0
    preparation = Preparation([SIZE])
    preparation._thread.join()

    outcome = Migration(source, build=preparation.before(FakeMachine)).run().raise_if_failed()

    preparation.close()
    assert outcome.destination.memory.regions[0].was_reserved
    assert contents(outcome.destination) == contents(source)
    outcome.close()


def test_preparation_for_another_machine_releases_what_no_machine_uses() -> None:
    preparation = Preparation([SIZE])

    machine = preparation.before(FakeMachine)(describe(SIZE // 2))
    preparation.close()

    assert not machine.memory.regions[0].was_reserved
    assert take_reserved(SIZE) is None
    machine.close()


def test_preparation_that_is_not_possible_is_no_failure_of_the_migration() -> None:
    preparation = Preparation([1 << 62])
    built: list[object] = []

    preparation.before(lambda it: built.append(it) or FakeMachine(it))(describe(SIZE)).close()  # type: ignore[func-returns-value]
    preparation.close()

    assert "cannot reserve" in str(preparation.failure)
    assert len(built) == 1
