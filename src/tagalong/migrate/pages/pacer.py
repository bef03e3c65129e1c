"""Keeps pre-copy below a bandwidth, so that other traffic on the link has room."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_LOOK_UP_S = 0.05
_LEAST_BYTES = 64 << 10

# At most so much time may be made up for after a stall: else a burst would follow it.
_CREDIT_S = 0.1


@dataclass
class Pacer:
    """Waits so that at most `bytes_per_s` leave; None is no limit.

    `waited_s` is the time spent waiting so far. Any number of threads may wait, and any thread may
    set another rate meanwhile.
    """

    bytes_per_s: float | None
    waited_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _due: float = field(default=0.0, init=False)
    _total: int = field(default=0, init=False)

    def portion_bytes(self, most: int) -> int:
        """Return how much to send at once, at most `most` and at least 64 KiB."""
        if self.bytes_per_s is None:
            return most
        return max(_LEAST_BYTES, min(most, int(self.bytes_per_s * _LOOK_UP_S)))

    def wait(self, total_bytes: int, tick: Callable[[], None]) -> None:
        """Wait until `total_bytes`, counted from the start, may have been sent.

        `tick` is called meanwhile and may raise.
        """
        rate = self.bytes_per_s
        if rate is None:
            self._total = max(self._total, total_bytes)
            return
        began = time.monotonic()
        with self._lock:
            self._due = max(self._due, began - _CREDIT_S)
            self._due += max(0, total_bytes - self._total) / rate
            self._total = max(self._total, total_bytes)
            due = self._due
        while (left := due - time.monotonic()) > 0 and self.bytes_per_s == rate:
            tick()
            time.sleep(min(left, _LOOK_UP_S))
        with self._lock:
            if self.bytes_per_s != rate:  # the old rate's debt does not bind the new one
                self._due = time.monotonic()
            self.waited_s += time.monotonic() - began
