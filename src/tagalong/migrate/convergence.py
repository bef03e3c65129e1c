"""When to stop the guest: how fast the channel is, how fast the guest, and what that means.

A round's duration ends with the destination's answer, so it is what the channel really
carried and not what fitted into its buffers.
"""

from dataclasses import dataclass

from tagalong.errors import ConvergenceError
from tagalong.mte import PACKED_RATIO

# A shorter round is mostly waiting for answers and says little about the channel.
_TELLING_BYTES = 1 << 20


@dataclass
class Estimate:
    """The channel and the guest as far as they were measured.

    `rate`: bytes a second of pages with their tags. `dirty_rate`: bytes a second that the
    guest changes, counted in pages.
    """

    page_size_bytes: int
    rate: float | None = None
    dirty_rate: float | None = None

    @property
    def unit_bytes(self) -> int:
        """Return the size of a page with its tags."""
        return self.page_size_bytes + self.page_size_bytes // PACKED_RATIO

    def sent(self, wire_bytes: int, busy_s: float, ram_bytes: int, duration_s: float) -> None:
        """Take in a round: its bytes on the wire and the time spent on those.

        Pages that are all zero take almost no time and must not make the channel seem
        faster than it is; only if there was nothing else does `ram_bytes` in `duration_s`
        have to do.
        """
        if wire_bytes >= _TELLING_BYTES or (self.rate is None and wire_bytes):
            self.rate = wire_bytes / max(busy_s, 1e-6)
        elif self.rate is None and ram_bytes:
            self.rate = ram_bytes / max(duration_s, 1e-6)

    def dirtied(self, pages: int, period_s: float) -> None:
        """Take in how many pages the guest changed in a period."""
        self.dirty_rate = pages * self.page_size_bytes / max(period_s, 1e-6)

    def downtime_s(self, pages: int) -> float | None:
        """Return how long sending `pages` more would take, None if nobody can tell."""
        if not pages:
            return 0.0
        return pages * self.unit_bytes / self.rate if self.rate else None

    def has_converged(self, pages: int, max_downtime_s: float) -> bool:
        """Return whether the guest can be stopped with so many pages left to send."""
        expected = self.downtime_s(pages)
        return expected is not None and expected <= max_downtime_s

    def give_up(self, rounds: int, pages: int, max_downtime_s: float) -> ConvergenceError:
        """Return the error for a guest that is too fast, with what would help."""
        expected = self.downtime_s(pages) or 0.0
        return ConvergenceError(
            f"after {rounds} rounds {pages:#x} pages are left to send: the guest dirties "
            f"{(self.dirty_rate or 0.0) / 1e6:.1f} MB/s, the channel carries "
            f"{(self.rate or 0.0) / 1e6:.1f} MB/s, so the downtime would be "
            f"{expected * 1e3:.0f} ms where {max_downtime_s * 1e3:.0f} ms are allowed; allow more "
            f"(--max-downtime {expected * 1e3:.0f} or above), use a faster link, or let the "
            "guest do less"
        )
