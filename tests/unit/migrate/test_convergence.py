"""When the guest may be stopped, from what was measured."""

import pytest

from tagalong.errors import ConvergenceError, UsageError
from tagalong.migrate.convergence import (
    AutoConverge,
    Convergence,
    Estimate,
    FixedCosts,
    Limits,
)

MIB = 1 << 20


def test_estimate_of_nothing_measured_has_not_converged() -> None:
    estimate = Estimate(4096)

    assert estimate.downtime_s(1) is None
    assert not estimate.has_converged(1, 1000.0)


def test_estimate_with_nothing_left_has_converged_always() -> None:
    assert Estimate(4096).has_converged(0, 0.0)


def test_estimate_counts_a_page_with_its_tags() -> None:
    estimate = Estimate(4096)
    estimate.note_round(wire_bytes=100 * MIB, busy_s=1.0, ram_bytes=100 * MIB, duration_s=1.0)

    assert estimate.unit_bytes == 4096 + 128
    assert estimate.downtime_s(1000) == pytest.approx(1000 * 4224 / (100 * MIB))
    assert estimate.has_converged(1000, 0.0403)
    assert not estimate.has_converged(1000, 0.0402)


def test_estimate_is_not_fooled_by_zero_pages() -> None:
    estimate = Estimate(4096)
    estimate.note_round(wire_bytes=10 * MIB, busy_s=0.1, ram_bytes=1000 * MIB, duration_s=0.2)

    assert estimate.rate == pytest.approx(100 * MIB)


def test_estimate_of_zero_pages_alone_takes_what_there_is() -> None:
    estimate = Estimate(4096)
    estimate.note_round(wire_bytes=0, busy_s=0.0, ram_bytes=100 * MIB, duration_s=0.1)
    assert estimate.rate == pytest.approx(1000 * MIB)

    estimate.note_round(wire_bytes=2 * MIB, busy_s=0.1, ram_bytes=2 * MIB, duration_s=0.1)
    assert estimate.rate == pytest.approx(20 * MIB)


def test_estimate_keeps_its_rate_through_a_short_round() -> None:
    estimate = Estimate(4096)
    estimate.note_round(wire_bytes=100 * MIB, busy_s=1.0, ram_bytes=100 * MIB, duration_s=1.0)
    estimate.note_round(wire_bytes=4096, busy_s=0.01, ram_bytes=4096, duration_s=0.01)

    assert estimate.rate == pytest.approx(100 * MIB)


def test_estimate_of_tags_alone_is_not_held_down_by_its_first_short_round() -> None:
    estimate = Estimate(4096, has_data=False)

    estimate.note_round(wire_bytes=5_000, busy_s=0.05, ram_bytes=1 << 20, duration_s=0.05)
    assert estimate.rate == pytest.approx(1e5)
    estimate.note_round(wire_bytes=20_000, busy_s=0.02, ram_bytes=8 << 20, duration_s=0.02)
    assert estimate.rate == pytest.approx(1e6)
    estimate.note_round(wire_bytes=5_000, busy_s=0.05, ram_bytes=1 << 20, duration_s=0.05)
    assert estimate.rate == pytest.approx(1e6)

    # As many as say something, and the channel is slower now.
    estimate.note_round(wire_bytes=50_000, busy_s=0.5, ram_bytes=16 << 20, duration_s=0.5)
    assert estimate.rate == pytest.approx(1e5)


def test_estimate_counts_a_changed_page_as_rounds_of_changed_pages_say() -> None:
    estimate = Estimate(4096)
    estimate.note_round(wire_bytes=100 * MIB, busy_s=1.0, ram_bytes=200 * MIB, duration_s=1.0)
    assert estimate.changed_page_bytes == 4224  # the first round says nothing about them

    for share in (0.5, 0.3, 0.4):
        wire_bytes = int(100 * MIB * share)
        estimate.note_round(wire_bytes, busy_s=share, ram_bytes=100 * MIB, duration_s=share)
    assert estimate.changed_page_bytes == pytest.approx(4096 * 0.5 * 1.1, rel=1e-3)
    assert estimate.downtime_s(1000) == pytest.approx(1000 * 2253 / (100 * MIB), rel=1e-3)

    estimate.note_round(40 * MIB, busy_s=0.4, ram_bytes=100 * MIB, duration_s=0.4)
    assert estimate.changed_page_bytes == pytest.approx(4096 * 0.4 * 1.1, rel=1e-3)


@pytest.mark.parametrize(("wire_bytes", "expected"), [(0, 1056), (200 * MIB, 4224)])
def test_estimate_of_a_changed_page_stays_between_a_quarter_and_all_of_it(
    wire_bytes: int, expected: int
) -> None:
    estimate = Estimate(4096)
    for _ in range(2):
        estimate.note_round(wire_bytes, busy_s=1.0, ram_bytes=100 * MIB, duration_s=1.0)

    assert estimate.changed_page_bytes == expected


def test_estimate_counts_what_a_hand_over_costs_anyway() -> None:
    estimate = Estimate(4096)
    estimate.note_round(wire_bytes=100 * MIB, busy_s=1.0, ram_bytes=100 * MIB, duration_s=1.0)
    estimate.fixed.stop_s, estimate.fixed.state_s = 0.010, 0.003
    estimate.fixed.note_answer(0.2)
    estimate.fixed.note_answer(0.002)
    estimate.fixed.note_answer(0.5)
    estimate.note_dirtied(pages=25_600, period_s=1.0)  # 100 MiB/s

    assert estimate.fixed.total_s == pytest.approx(0.017)
    assert estimate.downtime_s(0) == pytest.approx(0.017)
    assert estimate.downtime_s(1000) == pytest.approx(0.017 + 0.010 + 1000 * 4224 / (100 * MIB))


def test_estimate_with_nothing_left_has_converged_whatever_a_hand_over_costs() -> None:
    estimate = Estimate(4096, fixed=FixedCosts(stop_s=5.0))

    assert estimate.has_converged(0, 0.0)
    assert not estimate.has_converged(1, 5.0)


def test_estimate_expects_of_the_switchover_what_the_operator_says() -> None:
    estimate = Estimate(4096, switchover_rate=1000.0 * MIB)
    estimate.note_round(wire_bytes=10 * MIB, busy_s=1.0, ram_bytes=10 * MIB, duration_s=1.0)

    assert estimate.downtime_s(1000) == pytest.approx(1000 * 4224 / (1000 * MIB))


class Rig:
    """A convergence with what it did to the guest."""

    def __init__(self, *, auto: AutoConverge | None = None, max_rounds: int = 40) -> None:
        self.throttles: list[int] = []
        self.estimate = Estimate(4096)
        self.estimate.note_round(100_000_000, 1.0, 100_000_000, 1.0)
        self.estimate.note_dirtied(pages=100_000, period_s=2.0)
        self.limits = Limits(0.3, max_rounds, auto_converge=auto)
        self.convergence = Convergence(lambda: self.limits, self.estimate, self.throttles.append)

    def rounds(self, count: int, sent: int, left: int) -> None:
        for _ in range(count):
            assert not self.convergence.may_stop(sent, left)


def test_convergence_stops_when_the_rest_fits() -> None:
    rig = Rig()
    rig.rounds(3, 100_000, 50_000)

    assert rig.convergence.may_stop(100_000, 7000)
    assert not rig.throttles


def test_convergence_follows_limits_that_are_changed() -> None:
    rig = Rig()
    rig.rounds(1, 100_000, 50_000)
    rig.limits = Limits(5.0, 40)

    assert rig.convergence.may_stop(100_000, 50_000)


def test_convergence_error_says_the_figures_and_what_helps() -> None:
    rig = Rig(max_rounds=4)
    rig.estimate.fixed.state_s = 0.001
    rig.rounds(3, 100_000, 100_000)

    with pytest.raises(ConvergenceError) as caught:
        rig.convergence.may_stop(100_000, 100_000)

    assert str(caught.value) == (
        "after 4 rounds 390.6 MiB are left to send: the guest dirties 204.8 MB/s, the "
        "channel carries 100.0 MB/s, so the downtime would be 4225 ms (1 ms of it independent of "
        "the pages), and 300 ms are allowed; allow more (--max-downtime 4225 or above), slow the "
        "guest down (--auto-converge), use a faster link, or reduce the guest's load"
    )


def test_convergence_without_progress_fails_before_all_rounds_are_used() -> None:
    rig = Rig(max_rounds=1000)
    rig.rounds(12, 100_000, 100_000)

    with pytest.raises(ConvergenceError, match="after 13 rounds"):
        rig.convergence.may_stop(100_000, 100_000)


def test_convergence_with_slow_progress_continues() -> None:
    rig = Rig(max_rounds=1000)
    for number in range(100):
        rig.rounds(1, 100_000, int(100_000 * 0.98**number) + 8000)


def test_auto_converge_slows_down_at_every_second_round_that_is_too_fast() -> None:
    rig = Rig(auto=AutoConverge(initial_percent=20, increment_percent=30, max_percent=90))
    seen = []
    for _ in range(10):
        rig.rounds(1, 1000, 100_000)
        seen.append(rig.convergence.throttle_percent)

    assert rig.throttles == [20, 50, 80, 90]
    assert seen == [0, 20, 20, 50, 50, 80, 80, 90, 90, 90]


def test_auto_converge_leaves_a_guest_alone_that_changes_less_than_half() -> None:
    rig = Rig(auto=AutoConverge())
    rig.rounds(1, 100_000, 60_000)
    rig.rounds(1, 100_000, 49_000)
    rig.rounds(1, 100_000, 60_000)

    assert not rig.throttles


def test_auto_converge_that_does_not_help_fails_and_says_so() -> None:
    rig = Rig(auto=AutoConverge(50, 49, 99))
    with pytest.raises(ConvergenceError) as caught:
        rig.rounds(100, 100_000, 100_000)

    assert rig.throttles == [50, 99]
    assert "after 16 rounds" in str(caught.value)
    assert "204.8 MB/s although slowed down by 99 %," in str(caught.value)
    assert "--auto-converge" not in str(caught.value)


@pytest.mark.parametrize("steps", [(0, 10, 99), (20, 0, 99), (20, 10, 100), (20, 10, 0)])
def test_auto_converge_with_impossible_steps_is_refused(steps: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match=r"throttling from .*each must be 1 to 99"):
        AutoConverge(*steps)
