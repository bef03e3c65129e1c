"""Interrupt lines as values: a device sets a line's level, a sink follows it.

A level is no state of its own: a device's state says what its line's level is, and load() sets
it again. So nothing about lines has to be saved.
"""

import threading
from collections.abc import Callable

Sink = Callable[[int, bool], None]
"""Called with INTID and level whenever the level of a line changes; from any thread.

It must not wait for the machine's lifecycle (pause, peek_state): a device's worker that drives its
line is waited for by those.
"""


class IrqLine:
    """One level-triggered line, low at first."""

    def __init__(self, intid: int, sink: Sink) -> None:
        self.intid = intid
        self._sink = sink
        self._level = False
        self._lock = threading.Lock()

    @property
    def level(self) -> bool:
        """Return whether the line is asserted."""
        return self._level

    def set(self, level: bool) -> None:
        """Set the level; the sink is told if it changed. Raises what the sink raises."""
        with self._lock:
            if level != self._level:
                self._level = level
                self._sink(self.intid, level)

    def __repr__(self) -> str:
        return f"<IrqLine {self.intid} {'high' if self._level else 'low'}>"


class SharedInput:
    """A sink that joins lines on one input of a CPU: high while any of them is.

    What a machine without an interrupt controller has: software reads its devices to know which
    of them asks.
    """

    def __init__(self, set_input: Callable[[bool], None]) -> None:
        self._set_input = set_input
        self._high: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, intid: int, level: bool) -> None:
        """Follow one line."""
        with self._lock:
            was_high = bool(self._high)
            (self._high.add if level else self._high.discard)(intid)
            if bool(self._high) != was_high:
                self._set_input(level)
