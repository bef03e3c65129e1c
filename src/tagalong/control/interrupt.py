"""Lets a command that a signal interrupts clean up before it ends."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import TypeVar

from tagalong.control.interrupted import Interrupted
from tagalong.errors import TagalongError

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_interruptible(work: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run `work()` in an event loop and return its result.

    At SIGINT, SIGTERM or SIGHUP it gets asyncio.CancelledError and may take its time to
    tidy up; further signals do not disturb it. If it ends with an error after that,
    Interrupted is raised with the error's text and notes; if it returns a result, that counts.
    """
    received: list[int] = []

    async def run() -> T:
        task = asyncio.ensure_future(work())

        def interrupt(number: int) -> None:
            received.append(number)
            if len(received) == 1:
                task.cancel()

        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, interrupt, number)
        return await task

    try:
        return asyncio.run(run())
    except (asyncio.CancelledError, TagalongError) as error:
        if not received:
            raise
        interruption = Interrupted(received[0], str(error))
        for note in getattr(error, "__notes__", ()):
            interruption.add_note(note)
        raise interruption from error
