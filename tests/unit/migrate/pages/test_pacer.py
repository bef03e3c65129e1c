"""Pre-copy stays below the bandwidth that it was given."""

import time

import pytest

from tagalong.errors import MigrationCancelledError
from tagalong.machine import RunState
from tagalong.migrate import MigrationOptions
from tagalong.migrate.pages.pacer import Pacer
from tests.support.fake_machine import FakeMachine, describe
from tests.support.migration import PATIENT, Migration


def test_pacer_without_a_limit_never_waits() -> None:
    pacer = Pacer(None)

    pacer.wait(1 << 10, pytest.fail)

    assert pacer.waited_s == 0


def test_pacer_waits_until_the_bytes_may_be_sent() -> None:
    pacer, ticks, began = Pacer(1_000_000.0), [], time.monotonic()

    for total in range(0, 400_001, 50_000):
        pacer.wait(total, lambda: ticks.append(1))

    took_s = time.monotonic() - began
    assert 0.29 <= took_s < 10  # a tenth of a second is credit
    assert pacer.waited_s == pytest.approx(took_s, abs=0.1)
    assert len(ticks) >= 4


def test_pacer_gives_no_more_credit_for_a_pause_than_for_none() -> None:
    pacer = Pacer(1_000_000.0)
    pacer.wait(100_000, lambda: None)
    time.sleep(0.4)
    began = time.monotonic()

    pacer.wait(400_000, lambda: None)

    assert time.monotonic() - began >= 0.19


def test_pacer_stops_waiting_when_its_tick_raises() -> None:
    def tick() -> None:
        raise MigrationCancelledError("enough")

    with pytest.raises(MigrationCancelledError):
        Pacer(1.0).wait(1_000_000, tick)


def test_pacer_follows_a_rate_that_is_set_while_it_waits() -> None:
    pacer = Pacer(1.0)

    def tick() -> None:
        pacer.bytes_per_s = 1_000_000.0

    pacer.wait(1_000_000, tick)  # at the first rate twelve days
    began = time.monotonic()
    pacer.wait(1_300_000, lambda: None)

    assert 0.19 <= time.monotonic() - began < 10


def test_pacer_does_not_ask_for_what_was_sent_without_a_limit() -> None:
    pacer = Pacer(None)
    pacer.wait(1 << 40, pytest.fail)
    pacer.bytes_per_s = 1_000_000.0
    began = time.monotonic()

    pacer.wait((1 << 40) + 1000, lambda: None)

    assert time.monotonic() - began < 10


def test_migration_with_a_bandwidth_takes_as_long_as_it_must() -> None:
    source = FakeMachine(describe(0x40_0000))
    source.memory.regions[0].raw_data[:] = 0x5A
    source.resume()
    options = MigrationOptions(max_bandwidth=2 * 0x40_0000, timeouts=PATIENT)

    outcome = Migration(source, options).run().raise_if_failed()

    assert outcome.report is not None
    assert 0.39 <= outcome.report.rounds[0].duration_s < 10  # a tenth of a second is credit
    assert outcome.destination.run_state is RunState.RUNNING
    outcome.close()
