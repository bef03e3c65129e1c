"""When the guest may be stopped, from what was measured."""

import pytest

from tagalong.errors import ConvergenceError
from tagalong.migrate.convergence import Estimate

MIB = 1 << 20


def test_estimate_of_nothing_measured_has_not_converged() -> None:
    estimate = Estimate(4096)

    assert estimate.downtime_s(1) is None
    assert not estimate.has_converged(1, 1000.0)


def test_estimate_with_nothing_left_has_converged_always() -> None:
    assert Estimate(4096).has_converged(0, 0.0)


def test_estimate_counts_a_page_with_its_tags() -> None:
    estimate = Estimate(4096)
    estimate.sent(wire_bytes=100 * MIB, busy_s=1.0, ram_bytes=100 * MIB, duration_s=1.0)

    assert estimate.unit_bytes == 4096 + 128
    assert estimate.downtime_s(1000) == pytest.approx(1000 * 4224 / (100 * MIB))
    assert estimate.has_converged(1000, 0.0403)
    assert not estimate.has_converged(1000, 0.0402)


def test_estimate_is_not_fooled_by_zero_pages() -> None:
    estimate = Estimate(4096)
    estimate.sent(wire_bytes=10 * MIB, busy_s=0.1, ram_bytes=1000 * MIB, duration_s=0.2)

    assert estimate.rate == pytest.approx(100 * MIB)


def test_estimate_of_zero_pages_alone_takes_what_there_is() -> None:
    estimate = Estimate(4096)
    estimate.sent(wire_bytes=0, busy_s=0.0, ram_bytes=100 * MIB, duration_s=0.1)
    assert estimate.rate == pytest.approx(1000 * MIB)

    estimate.sent(wire_bytes=2 * MIB, busy_s=0.1, ram_bytes=2 * MIB, duration_s=0.1)
    assert estimate.rate == pytest.approx(20 * MIB)


def test_estimate_keeps_its_rate_through_a_short_round() -> None:
    estimate = Estimate(4096)
    estimate.sent(wire_bytes=100 * MIB, busy_s=1.0, ram_bytes=100 * MIB, duration_s=1.0)
    estimate.sent(wire_bytes=4096, busy_s=0.01, ram_bytes=4096, duration_s=0.01)

    assert estimate.rate == pytest.approx(100 * MIB)


def test_estimate_that_gives_up_says_the_figures_and_what_helps() -> None:
    estimate = Estimate(4096)
    estimate.sent(wire_bytes=100_000_000, busy_s=1.0, ram_bytes=100_000_000, duration_s=1.0)
    estimate.dirtied(pages=100_000, period_s=2.0)

    error = estimate.give_up(rounds=40, pages=100_000, max_downtime_s=0.3)

    assert isinstance(error, ConvergenceError)
    assert str(error) == (
        "after 40 rounds 0x186a0 pages are left to send: the guest dirties 204.8 MB/s, the channel "
        "carries 100.0 MB/s, so the downtime would be 4224 ms where 300 ms are allowed; allow more "
        "(--max-downtime 4224 or above), use a faster link, or let the guest do less"
    )
