"""A deadline for what has none: a package that waits for a server which says nothing."""

import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def within(timeout_s: float, action: Callable[[], _Result]) -> _Result:
    """Return what an action returns; raises what it raises, TimeoutError if it takes too long.

    Its thread is left behind then, and ends with the process: no package can be told to give up.
    """
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:  # noqa: BLE001 (raised in the thread that waits)
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
