"""Reports of rejected peers, summed up: any stray connection makes one, and there may be many."""

import time
from collections.abc import Callable
from typing import Final

from tagalong.errors import HostError

_AT_ONCE: Final = 3
_PERIOD_S: Final = 10.0

Refused = Callable[[HostError], None]
"""Called with the reason for a rejected peer, or for many that were rejected since."""


class RefusalReports:
    """Passes the first refusals of a period to `report`, and the number of all others at its end.

    A period begins with a refusal. Belongs to one thread.
    """

    def __init__(self, report: Refused) -> None:
        self._report = report
        self._ends = 0.0
        self._passed = 0
        self._withheld = 0
        self._last: HostError | None = None

    def add(self, error: HostError) -> None:
        """Report a refusal, at once or later."""
        self.flush()
        if self._passed == self._withheld == 0:
            self._ends = time.monotonic() + _PERIOD_S
        if self._passed < _AT_ONCE:
            self._passed += 1
            self._report(error)
        else:
            self._withheld += 1
            self._last = error

    def flush(self, *, at_end: bool = False) -> None:
        """Report what was withheld if the period is over, or `at_end`."""
        if not at_end and time.monotonic() < self._ends:
            return
        withheld, last = self._withheld, self._last
        self._passed = self._withheld = 0
        if withheld:
            self._report(
                HostError(f"{withheld} more connections in {_PERIOD_S:.0f} s, the last one: {last}")
            )
