"""Calls to the thread of the event loop, which a new VM does not wait for.

To load asyncio takes longer than to make a machine, and disturbs a guest that has begun. So a new
VM runs before there is an event loop, and what its threads report meanwhile waits here, in order.
A VM that nobody speaks to never has one: `serve` makes these calls, and there is nothing else.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Self

from tagalong._lazy import module_when_used

if TYPE_CHECKING:
    import asyncio
    import logging
    from collections.abc import Callable
else:
    asyncio = module_when_used("asyncio")
    logging = module_when_used("logging")


class LoopCalls:
    """Makes calls in one thread: by `serve`, or in an event loop from `attach` on.

    Until either of them they wait.
    """

    def __init__(self) -> None:
        # Both allow that a handler of signals calls while its own thread is in here.
        self._lock = threading.RLock()
        self._waiting: SimpleQueue[Callable[[], object]] = SimpleQueue()
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
            self._loop = loop
            while not self._waiting.empty():
                loop.call_soon(self._waiting.get())

    def serve(self, is_over: Callable[[], bool]) -> None:
        """Make the calls in this thread, without an event loop, until `is_over`.

        As in an event loop, a call that raises is logged, and does not take the VM with it.
        """
        while not is_over():
            call = self._waiting.get()
            try:
                call()
            except Exception:  # noqa: BLE001 (logged)
                logging.getLogger(__name__).exception("bug in tagalong, please report it")

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call `function` in the loop's thread; from any thread, and from a signal's handler.

        Raises RuntimeError if the loop is closed.
        """
        with self._lock:
            if self._loop is None:
                self._waiting.put(function)
                return
        self._loop.call_soon_threadsafe(function)
