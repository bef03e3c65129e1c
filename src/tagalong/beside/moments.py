"""When the steps of a switch-over were, by the host's clock: shows where the downtime goes."""

import time


class Moments:
    """Steps by name, in seconds since 1970; of a step that comes again the last one counts."""

    def __init__(self) -> None:
        self._at_s: dict[str, float] = {}

    def note(self, step: str) -> None:
        """Note that this step is over now."""
        self._at_s[step] = time.time()

    def all_s(self) -> dict[str, float]:
        """Return the steps so far."""
        return dict(self._at_s)
