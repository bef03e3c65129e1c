"""When to stop the guest: from how fast the channel is, and how fast the guest changes memory.

The duration of a round ends with the destination's answer, so it measures what the channel carried
and not what its buffers took. A hand-over costs time even with nothing left to send: `FixedCosts`.
If a guest changes memory faster than the channel carries it, rounds never get shorter:
auto-converge then slows the guest down in steps, as QEMU's does (migration/ram.c,
mig_throttle_guest_down). If that is off, or does not help either, the migration fails with the
figures and what would help.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

from tagalong.errors import ConvergenceError, UsageError
from tagalong.machine import MAX_THROTTLE_PERCENT
from tagalong.mte import PACKED_RATIO

# A shorter round is mostly waiting for answers: it says little about the channel. Of tags alone,
# which take a thirty-second of their pages, hardly a round has as much.
_SIGNIFICANT_BYTES = 1 << 20
_SIGNIFICANT_TAG_BYTES = _SIGNIFICANT_BYTES // PACKED_RATIO

# A page is expected to take as much as in the worst of so many rounds, with a margin, and never
# less than this share of its size: a guest may stop clearing or retagging pages, and fill them.
_RECENT_ROUNDS = 3
_MARGIN = 1.1
_LEAST_SHARE = 0.25

# QEMU's: a round counts as too fast if it leaves more than this share of what it sent, and
# the second such round in a row asks for a step.
_TRIGGER_SHARE = 0.5
_TRIGGER_ROUNDS = 2

# After so many rounds in which the expected downtime did not fall by a tenth, and with no step of
# throttling left, the guest does not converge.
_STALLED_ROUNDS = 12
_NEARER = 0.9


@dataclass(frozen=True)
class AutoConverge:
    """How to slow down a guest that is too fast, in percent of the time that its vCPUs are paused.

    Names and defaults are those of QEMU's cpu-throttle-initial, cpu-throttle-increment and
    max-cpu-throttle. Raises UsageError for percentages that are not possible.
    """

    initial_percent: int = 20
    increment_percent: int = 10
    max_percent: int = MAX_THROTTLE_PERCENT

    def __post_init__(self) -> None:
        steps = (self.initial_percent, self.increment_percent, self.max_percent)
        if not all(1 <= percent <= MAX_THROTTLE_PERCENT for percent in steps):
            raise UsageError(
                f"throttling from {self.initial_percent} % in steps of {self.increment_percent} % "
                f"to {self.max_percent} % is not possible: each must be 1 to "
                f"{MAX_THROTTLE_PERCENT}"
            )


@dataclass(frozen=True)
class Limits:
    """When to stop the guest, and when to fail; an operator may change them under way.

    `max_downtime_s`: stop the guest when what remains is expected to take no longer.
    `max_rounds`: fail if that is not so after this many rounds. `max_bandwidth`: bytes per
    second that pre-copy may send. `switchover_bandwidth`: bytes per second to expect of the channel
    for the last pages, where the operator knows better than what was measured under
    `max_bandwidth`. `auto_converge`: slow a guest down that changes memory too fast.
    """

    max_downtime_s: float = 0.3
    max_rounds: int = 40
    max_bandwidth: float | None = None
    switchover_bandwidth: float | None = None
    auto_converge: AutoConverge | None = None


@dataclass
class FixedCosts:
    """What a hand-over takes with no page left to send, in seconds, as measured so far.

    stop_s: to pause the guest and learn its last changes. state_s: to save and send registers and
    devices. answer_s: the shortest time in which the destination answered; a hand-over waits for
    two answers.
    """

    stop_s: float = 0.0
    state_s: float = 0.0
    answer_s: float | None = None

    @property
    def total_s(self) -> float:
        """Return the sum."""
        return self.stop_s + self.state_s + 2 * (self.answer_s or 0.0)

    def note_answer(self, after_s: float) -> None:
        """Note how long an answer of the destination took."""
        self.answer_s = after_s if self.answer_s is None else min(self.answer_s, after_s)


@dataclass
class Estimate:
    """What was measured of the channel and of the guest.

    `rate`: bytes per second of pages with their tags. `dirty_rate`: bytes per second that the guest
    changes, counted in whole pages. A changed page takes less than its size if only its tags were
    changed, if it is zero now, or if data are compressed. How much less is measured in every round
    but the first, which also sends pages that the guest never changes. `has_data`: False if only
    tags are sent.
    """

    page_size_bytes: int
    has_data: bool = field(default=True, kw_only=True)
    rate: float | None = None
    dirty_rate: float | None = None
    fixed: FixedCosts = field(default_factory=FixedCosts)
    switchover_rate: float | None = None
    _rounds: int = field(default=0, init=False)
    _taken_bytes: deque[float] = field(
        default_factory=lambda: deque(maxlen=_RECENT_ROUNDS), init=False
    )

    @property
    def changed_page_bytes(self) -> float:
        """Return the bytes that a page which the guest has changed is expected to take."""
        if not self._taken_bytes:
            return self.unit_bytes
        likely = max(self._taken_bytes) * _MARGIN
        return min(max(likely, self.unit_bytes * _LEAST_SHARE), self.unit_bytes)

    @property
    def unit_bytes(self) -> int:
        """Return the size of a page with its tags, or of its tags if only those are sent."""
        tag_bytes = self.page_size_bytes // PACKED_RATIO
        return tag_bytes + self.page_size_bytes * self.has_data

    def note_round(self, wire_bytes: int, busy_s: float, ram_bytes: int, duration_s: float) -> None:
        """Note a round: its bytes on the wire and the time spent on them.

        Pages that are all zero take almost no time, and must not make the channel seem faster than
        it is: only a round with nothing else is measured by `ram_bytes` in `duration_s`. Of tags
        alone a short round counts if it was faster: the first ones have next to nothing to send.
        """
        self._rounds += 1
        if self._rounds > 1 and ram_bytes:
            self._taken_bytes.append(wire_bytes * self.page_size_bytes / ram_bytes)
        measured = wire_bytes / max(busy_s, 1e-6)
        significant_bytes = _SIGNIFICANT_BYTES if self.has_data else _SIGNIFICANT_TAG_BYTES
        is_faster = not self.has_data and measured > (self.rate or 0.0)
        if wire_bytes >= significant_bytes or (self.rate is None and wire_bytes) or is_faster:
            self.rate = measured
        elif self.rate is None and ram_bytes:
            self.rate = ram_bytes / max(duration_s, 1e-6)

    def note_dirtied(self, pages: int, period_s: float) -> None:
        """Note how many pages the guest changed in a period."""
        self.dirty_rate = pages * self.page_size_bytes / max(period_s, 1e-6)

    def downtime_s(self, pages: int) -> float | None:
        """Return how long the guest would be paused with `pages` left, None if that is unknown.

        Includes what the guest still changes while it is being stopped.
        """
        rate = self.switchover_rate or self.rate
        if not pages:
            return self.fixed.total_s
        if not rate:
            return None
        late_bytes = (self.dirty_rate or 0.0) * self.fixed.stop_s
        return self.fixed.total_s + (pages * self.changed_page_bytes + late_bytes) / rate

    def has_converged(self, pages: int, max_downtime_s: float) -> bool:
        """Return whether the guest can be stopped with so many pages left to send.

        With none left it can be stopped whatever is expected: no later moment would be better.
        """
        expected = self.downtime_s(pages)
        return not pages or (expected is not None and expected <= max_downtime_s)


class Convergence:
    """Decides after each round: stop the guest, send another round, or fail.

    `limits` is called after each round, because an operator may change them. `throttle` slows the
    guest down to a percentage; `throttle_percent` is the present one.
    """

    def __init__(
        self, limits: Callable[[], Limits], estimate: Estimate, throttle: Callable[[int], None]
    ) -> None:
        self.throttle_percent = 0
        self._ask_limits = limits
        self._limits = limits()
        self._estimate = estimate
        self._throttle = throttle
        self._rounds = 0
        self._fast_rounds = 0
        self._best_s = float("inf")
        self._best_round = 0
        estimate.switchover_rate = self._limits.switchover_bandwidth

    def may_stop(self, pages_sent: int, pages_left: int) -> bool:
        """Note a round and return whether the guest can be stopped now.

        Raises ConvergenceError if that is not to be expected any more.
        """
        self._rounds += 1
        self._limits = self._ask_limits()
        self._estimate.switchover_rate = self._limits.switchover_bandwidth
        if self._estimate.has_converged(pages_left, self._limits.max_downtime_s):
            return True
        self._compare(pages_left)
        self._slow_down(pages_sent, pages_left)
        if self._rounds >= self._limits.max_rounds or self._is_hopeless():
            raise self._give_up(pages_left)
        return False

    def _compare(self, pages_left: int) -> None:
        expected = self._estimate.downtime_s(pages_left)
        if expected is not None and expected < self._best_s * _NEARER:
            self._best_s, self._best_round = expected, self._rounds

    def _slow_down(self, pages_sent: int, pages_left: int) -> None:
        auto = self._limits.auto_converge
        if auto is None or self.throttle_percent >= auto.max_percent:
            return
        if pages_left <= pages_sent * _TRIGGER_SHARE:
            self._fast_rounds = 0
            return
        self._fast_rounds += 1
        if self._fast_rounds < _TRIGGER_ROUNDS:
            return
        step = auto.increment_percent if self.throttle_percent else auto.initial_percent
        self.throttle_percent = min(self.throttle_percent + step, auto.max_percent)
        self._throttle(self.throttle_percent)
        # What a slower guest can reach is open again, so the count of stalled rounds restarts.
        self._fast_rounds, self._best_round = 0, self._rounds

    def _is_hopeless(self) -> bool:
        return self._rounds - self._best_round >= _STALLED_ROUNDS

    def _give_up(self, pages_left: int) -> ConvergenceError:
        """Return the error for a guest that is too fast, with the figures and what would help."""
        estimate, allowed_s = self._estimate, self._limits.max_downtime_s
        left_bytes = pages_left * estimate.page_size_bytes
        expected_s = estimate.downtime_s(pages_left) or 0.0
        slowed = f" although slowed down by {self.throttle_percent} %" * (self.throttle_percent > 0)
        return ConvergenceError(
            f"after {self._rounds} rounds {left_bytes / (1 << 20):.1f} MiB are left to send: the "
            f"guest dirties {(estimate.dirty_rate or 0.0) / 1e6:.1f} MB/s{slowed}, the channel "
            f"carries {(estimate.rate or 0.0) / 1e6:.1f} MB/s, so the downtime would be "
            f"{expected_s * 1e3:.0f} ms ({estimate.fixed.total_s * 1e3:.0f} ms of it independent "
            f"of the pages), and {allowed_s * 1e3:.0f} ms are allowed; "
            f"{self._remedies(expected_s)}"
        )

    def _remedies(self, expected_s: float) -> str:
        remedies = [f"allow more (--max-downtime {ceil(round(expected_s * 1e3, 3))} or above)"]
        if self._limits.auto_converge is None:
            remedies.append("slow the guest down (--auto-converge)")
        return ", ".join([*remedies, "use a faster link, or reduce the guest's load"])
