"""How fast a VMM copies while we drive it, and when it may stop its guest: with few tags left.

    COPYING   its first pass; slow while the tags of much RAM are due
    CATCHING  that is over: slow, while rounds of tags catch up with the guest
    DRAINING  at full speed, so that the VMM's own rest is small, too; one more round of tags
    STOPPING  until little is left; no round begins: one under way when the guest stops would add to
              the downtime
    URGENT    the guest changes too much to be stopped like that: it may be stopped for as long as
              the operator allows, and rounds keep few tags due

QEMU stops its guest once what is left is less than `downtime-limit` times the bandwidth that it
expects: `avail-switchover-bandwidth`, which QEMU has since 8.2, else what it has measured. At 0
bytes it stops the guest in any case. (migration/migration.c: migration_update_counters,
migration_iteration_run.)
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from tagalong.beside.monitor import VmmMonitor
from tagalong.beside.vmm_settings import DOWNTIME_LIMIT, MAX_BANDWIDTH, SWITCHOVER_BANDWIDTH

# What is left when the guest is stopped, by a limit of 1 ms: nothing before STOPPING. (At a limit
# of 0 QEMU would not look at its dirty log again before.) A VMM that expects what it has measured
# may stop it before, if its passes are so short: then more tags are left.
_LIMIT_MS: Final = 1
_NOTHING_LEFT: Final = 1 * 1000
_LITTLE_LEFT: Final = (256 << 10) * 1000

# While tags of so much RAM are due, the VMM copies slowly: else it could be done before they are,
# and its guest, which stops then, would wait for them. It makes pages due a GiB at a time.
_MANY_DUE_BYTES: Final = 16 << 20
_SLOWLY_BYTES_PER_S: Final = 1 << 20

# The VMM looks at its dirty log at the start and after each pass.
_SYNCS_AFTER_FIRST_PASS: Final = 2

# Rounds have caught up when a harvest takes so little, or not much less than the one before. The
# first takes all that the guest has changed since the VMM's CLEAR: that one is sent in any case.
_LITTLE_DUE_BYTES: Final = 256 << 10
_MUCH_LESS: Final = 0.7
_LEAST_ROUNDS: Final = 2

_COPYING_EVERY_S: Final = 1.0
_SLOW_EVERY_S: Final = 0.2
_QUIET_S: Final = 1.0
_URGENT_EVERY_S: Final = 0.05


class _Phase(Enum):
    COPYING = auto()
    CATCHING = auto()
    DRAINING = auto()
    STOPPING = auto()
    URGENT = auto()


class Pace:
    """The pace of one migration; used by its thread. Methods raise as VmmMonitor's.

    `before`: the VMM's own parameters. `limit_ms`: the downtime that the operator allows.
    """

    def __init__(self, monitor: VmmMonitor, before: Mapping[str, int], limit_ms: int) -> None:
        self._monitor = monitor
        self._before = before
        self._limit_ms = limit_ms
        self._phase = _Phase.COPYING
        self._is_slow = False
        self._due_bytes = self._due_before = 0
        self._rounds = 0  # since the VMM's first pass

    def begin(self) -> None:
        """Slow the VMM down: no tags were sent yet."""
        self._set({DOWNTIME_LIMIT: _LIMIT_MS, SWITCHOVER_BANDWIDTH: _NOTHING_LEFT})
        self._go_slowly(True)

    @property
    def is_near_end(self) -> bool:
        """Return whether the VMM's first pass is over."""
        return self._phase is not _Phase.COPYING

    @property
    def next_round_s(self) -> float:
        """Return how long after the last round the next one is to begin."""
        if self._phase is _Phase.COPYING:
            # At full speed rarely: the end of the first pass is not to find a round under way.
            return _SLOW_EVERY_S if self._is_slow else _COPYING_EVERY_S
        waits = {_Phase.STOPPING: _QUIET_S, _Phase.URGENT: _URGENT_EVERY_S}
        return waits.get(self._phase, 0.0)

    def note_syncs(self, count: int) -> None:
        """Note how often the VMM has looked at its dirty log."""
        if self._phase is _Phase.COPYING and count >= _SYNCS_AFTER_FIRST_PASS:
            self._phase = _Phase.CATCHING
            self._go_slowly(True)

    def note_due(self, ram_bytes: int) -> None:
        """Note that the tags of so much guest RAM are to be sent now."""
        self._due_before, self._due_bytes = self._due_bytes, ram_bytes
        if ram_bytes > _MANY_DUE_BYTES:
            self._go_slowly(True)

    def note_round(self) -> None:
        """Note that a round was sent, and that the guest could be stopped for what is left."""
        if self._phase is _Phase.CATCHING:
            self._rounds += 1
            if not self._has_caught_up:
                return
            self._phase = _Phase.DRAINING
        elif self._phase is _Phase.DRAINING:
            self._phase = _Phase.STOPPING
            self._set({SWITCHOVER_BANDWIDTH: _LITTLE_LEFT})
        elif self._phase is _Phase.STOPPING:
            self._phase = _Phase.URGENT
            expected = self._before.get(SWITCHOVER_BANDWIDTH, 0)
            self._set({DOWNTIME_LIMIT: self._limit_ms, SWITCHOVER_BANDWIDTH: expected})
        self._go_slowly(False)

    @property
    def _has_caught_up(self) -> bool:
        is_little = self._due_bytes <= _LITTLE_DUE_BYTES
        is_much_less = self._due_bytes < self._due_before * _MUCH_LESS
        return self._rounds >= _LEAST_ROUNDS and (is_little or not is_much_less)

    def _go_slowly(self, is_slow: bool) -> None:
        if is_slow is self._is_slow:
            return
        self._is_slow = is_slow
        full = self._before.get(MAX_BANDWIDTH, 0)
        rate = min(full or _SLOWLY_BYTES_PER_S, _SLOWLY_BYTES_PER_S) if is_slow else full
        self._set({MAX_BANDWIDTH: rate})

    def _set(self, wanted: Mapping[str, int]) -> None:
        """Set those parameters that the VMM has."""
        known = {name: value for name, value in wanted.items() if name in self._before}
        if known:
            self._monitor.ask("migrate-set-parameters", known)
