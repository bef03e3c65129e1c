"""How often an operator is told of what a guest can cause as often as it likes."""

import threading
import time
from collections.abc import Hashable
from typing import Final

_REPEAT_S: Final = 1.0


class OnceASecond:
    """Says of each thing whether it is due to be told; the caller bounds how many there are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told_at: dict[Hashable, float] = {}

    def is_due(self, what: Hashable = None) -> bool:
        """Return whether `what` was not told for a second; it counts as told then."""
        with self._lock:
            now = time.monotonic()
            if now - self._told_at.get(what, now - _REPEAT_S) < _REPEAT_S:
                return False
            self._told_at[what] = now
            return True
