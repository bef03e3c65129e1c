"""What stands between two ends of a migration: a listener, sockets, threads, and their end."""

import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self


class Relay(ABC):
    """Takes connections from `listener` in a thread; all has ended after a `with` statement.

    Whoever derives from it is complete before it calls this constructor, for the thread begins
    there.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @abstractmethod
    def _accept(self) -> None:
        """Take connections until the listener fails."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        shut(self._listener)
        self._listener.close()
        self._cut()
        for thread in self._threads:
            thread.join(60)
        for sock in self._sockets:
            sock.close()

    def _start(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _cut(self) -> None:
        for sock in self._sockets:
            shut(sock)


def shut(sock: socket.socket) -> None:
    """End both directions of a socket, if there is anything left to end."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
