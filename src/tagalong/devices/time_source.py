"""What a real-time clock counts by, and how it is told that a moment has come.

A machine has one source. That of KVM is the host's clock; the embedded machine's is the guest's own
time, or the host's clock where the guest's time follows that (soft/time_source.py).
"""

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

NS_PER_S: Final = 1_000_000_000

_LOOK_AGAIN_S: Final = 1.0
"""The host's clock may be set: whoever waits for a time of day looks at it this often."""


class Alarm(Protocol):
    """Calls one function when the time of its source has come to where it was set."""

    def set(self, at_ns: int | None) -> None:
        """Replace what was set before; None: nothing. It may be called early, never late.

        Called within an access, or while the machine's vCPUs are stopped.
        """
        ...

    def close(self) -> None:
        """Call nothing any more. Safe to call twice."""
        ...


class TimeSource(Protocol):
    """A time that goes on while the machine runs."""

    @property
    def is_utc(self) -> bool:
        """Return whether it is UTC, the same on all hosts, or some time of this machine's."""
        ...

    def now_ns(self) -> int:
        """Return the time in nanoseconds; since the epoch if it is UTC."""
        ...

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """Return a new alarm, which is not set. `ring` is called without locks of the machine."""
        ...


class HostTime:
    """The host's clock, whose alarms have a thread each; implements TimeSource."""

    is_utc = True

    def now_ns(self) -> int:
        """Return the time in nanoseconds since the epoch."""
        return time.time_ns()

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """Return a new alarm; its thread begins when it is first set."""
        return _ThreadAlarm(ring)


class _ThreadAlarm:
    """Implements Alarm."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._changed = threading.Condition()
        self._at_ns: int | None = None
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def set(self, at_ns: int | None) -> None:
        """As Alarm.set. From any thread."""
        with self._changed:
            self._at_ns = at_ns
            self._changed.notify_all()
            if at_ns is not None and self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="rtc", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """As Alarm.close; its thread has ended then, unless it is the caller's."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while self._wait():
            self._ring()

    def _wait(self) -> bool:
        """Wait until the alarm is due, which unsets it; False when it is closed."""
        with self._changed:
            while not self._is_closed:
                if self._at_ns is None:
                    self._changed.wait()
                    continue
                left_s = (self._at_ns - time.time_ns()) / NS_PER_S
                if left_s <= 0:
                    self._at_ns = None
                    return True
                self._changed.wait(min(left_s, _LOOK_AGAIN_S))
            return False
