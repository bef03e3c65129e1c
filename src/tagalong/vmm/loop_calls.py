"""Calls to the thread of the event loop, which a new VM does not wait for.

To load asyncio takes longer than to make a machine. So a new VM runs before there is an event
loop, and what its threads report meanwhile waits here, in order.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from tagalong._lazy import module_when_used

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
else:
    asyncio = module_when_used("asyncio")


class LoopCalls:
    """Passes calls on to an event loop, once it has one.

    In the thread of the loop, before it has one, nothing is called: `attach` is the first to.
    """

    def __init__(self) -> None:
        # A handler of signals may call while its own thread is in here.
        self._lock = threading.RLock()
        self._waiting: list[Callable[[], object]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def of_running_loop(cls) -> Self:
        """Return the calls of the loop that runs in this thread."""
        calls = cls()
        calls.attach()
        return calls

    def attach(self) -> None:
        """Pass everything on to the loop that runs in this thread, what waits first."""
        loop = asyncio.get_running_loop()
        with self._lock:
            for function in self._waiting:
                loop.call_soon(function)
            self._waiting.clear()
            self._loop = loop

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call `function` in the loop's thread; from any thread, and from a signal's handler.

        Raises RuntimeError if the loop is closed.
        """
        with self._lock:
            if self._loop is None:
                self._waiting.append(function)
                return
        self._loop.call_soon_threadsafe(function)
