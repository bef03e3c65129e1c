"""The base of the proxies between two ends of a migration: listener, sockets, threads."""

import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self


class Relay(ABC):
    """Accepts connections from `listener` in a thread; leaving the `with` block ends everything.

    A derived class calls this constructor last: it starts the thread.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @abstractmethod
    def _accept(self) -> None:
        """Accept connections until the listener fails."""

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
    """Shut down both directions of a socket; do nothing if it is closed."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
