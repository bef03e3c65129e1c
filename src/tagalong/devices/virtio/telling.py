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
        # When each was told, and how often it came since.
        self._told: dict[Hashable, tuple[float, int]] = {}

    def due(self, what: Hashable = None) -> str | None:
        """Return what to say behind the message about `what`, which counts as told then.

        That is how often it came untold since the last message, "" if it did not. None if that
        message is less than a second old: say nothing.
        """
        with self._lock:
            now = time.monotonic()
            told_at, untold = self._told.get(what, (None, 0))
            if told_at is not None and now - told_at < _REPEAT_S:
                self._told[what] = (told_at, untold + 1)
                return None
            self._told[what] = (now, 0)
            return f" (and {untold} times since the last message)" if untold else ""
