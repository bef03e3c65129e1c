"""The time that a real-time clock of the embedded machine counts by."""

import time
from collections.abc import Callable
from typing import Final

from tagalong.devices.time_source import NS_PER_S, Alarm
from tagalong.soft.native import COUNTER_HZ, NO_DEADLINE, NativeMachine

_NS_PER_TICK: Final = NS_PER_S // COUNTER_HZ


class SoftTime:
    """The guest's own time, or the host's clock once `is_utc` is set; implements TimeSource.

    The guest's own time is its counter: an alarm comes at an exact instruction.
    """

    def __init__(self, native: NativeMachine) -> None:
        self._native = native
        self._alarms: dict[int, int] = {}  # number: when
        self._rings: list[Callable[[], None]] = []
        self.is_utc = False

    def now_ns(self) -> int:
        """Return the time in nanoseconds: since the counter was 0, or since the epoch."""
        return time.time_ns() if self.is_utc else self._native.counter() * _NS_PER_TICK

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """Return a new alarm, which the interpreter keeps: it leaves for it (`ring_due`)."""
        self._rings.append(ring)
        return _SoftAlarm(self, len(self._rings) - 1)

    def set_alarm(self, number: int, at_ns: int | None) -> None:
        """Set or unset an alarm."""
        if at_ns is None:
            self._alarms.pop(number, None)
        else:
            self._alarms[number] = at_ns
        self._tell_interpreter()

    def ring_due(self) -> None:
        """Call those that are due; the interpreter has left for one of them."""
        now_ns = self.now_ns()
        for number in [each for each, at_ns in self._alarms.items() if at_ns <= now_ns]:
            self._alarms.pop(number, None)
            self._rings[number]()
        self._tell_interpreter()

    def _tell_interpreter(self) -> None:
        if not self._alarms:
            self._native.set_alarm(NO_DEADLINE)
            return
        left_ns = max(0, min(self._alarms.values()) - self.now_ns())
        if self.is_utc:  # which may be set: look again after a second
            left_ns = min(left_ns, NS_PER_S)
        self._native.set_alarm(self._native.counter() + -(-left_ns // _NS_PER_TICK))


class _SoftAlarm:
    """Implements Alarm."""

    def __init__(self, source: SoftTime, number: int) -> None:
        self._source = source
        self._number = number

    def set(self, at_ns: int | None) -> None:
        """As Alarm.set. Not while the interpreter runs."""
        self._source.set_alarm(self._number, at_ns)

    def close(self) -> None:
        """Do nothing: the interpreter does not run any more."""
