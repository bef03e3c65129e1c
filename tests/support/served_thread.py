"""A served VM in a thread of its own, for tests of commands, which have an event loop too."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.support.served_vm import ServedVm, served_vm

T = TypeVar("T")

START_TIMEOUT_S = 60.0
POLL_S = 0.005


class ServedInThread:
    """A served VM; `call` runs something in its event loop."""

    def __init__(self, served: ServedVm, loop: asyncio.AbstractEventLoop) -> None:
        self.served = served
        self._loop = loop

    def call(self, function: Callable[[], T]) -> T:
        """Return what `function` returns in the VM's event loop."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(START_TIMEOUT_S)


@contextmanager
def served_in_thread(
    path: Path, *, ends_at_quit: bool = False, is_awaited: bool = False
) -> Iterator[ServedInThread]:
    """Serve a VM in prelaunch, or one that is awaited, at `path` for a `with` block.

    `ends_at_quit`: the socket is closed when QMP's quit was executed, as that of a process is.
    """
    ready: Future[ServedInThread] = Future()
    done = threading.Event()

    async def serve() -> None:
        async with served_vm(path, is_awaited=is_awaited) as served:
            ready.set_result(ServedInThread(served, asyncio.get_running_loop()))
            while not (done.is_set() or (ends_at_quit and served.vm.ended.done())):
                await asyncio.sleep(POLL_S)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield ready.result(START_TIMEOUT_S)
    finally:
        done.set()
        thread.join()
