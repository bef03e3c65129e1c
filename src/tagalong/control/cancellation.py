"""What a client's task does about the work that it began when the task is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")


async def follow_or_cancel(
    beginning: Awaitable[object],
    follow: Callable[[], Awaitable[_T]],
    cancel: Callable[[], Awaitable[_T]],
) -> _T:
    """Begin work and return what `follow` does, or `cancel` if this task is cancelled.

    `cancel` is called when the work has begun for certain. Raises what they raise.
    """
    begun = asyncio.ensure_future(beginning)
    try:
        await asyncio.shield(begun)
        return await follow()
    except asyncio.CancelledError:
        cancellation_is_dealt_with()
        await begun  # a command that is on its way cannot be called back
        return await cancel()


def cancellation_is_dealt_with() -> None:
    """Clear the running task's cancellation: it cleans up and waits for the end of that."""
    # While a task counts as being cancelled, asyncio.timeout takes its own time-out for that
    # cancellation (before Python 3.11.4), and the wait for the end would break off.
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
