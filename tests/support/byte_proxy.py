"""Forwards TCP connections and calls back at one byte of one direction, whatever the bytes say."""

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from tagalong.wire import Role
from tests.support.relay import Relay

_CHUNK_BYTES = 1 << 14


class ByteProxy(Relay):
    """Listens on a free port and forwards to `port`; calls `reached` at byte `place` of `role`.

    The bytes behind the place wait until `reached` returns. Only the first connection counts.
    """

    def __init__(self, port: int, role: Role, place: int, reached: Callable[[], None]) -> None:
        self._target = port
        self._role = role
        self._left = place
        self._reached: Callable[[], None] | None = reached
        listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        super().__init__(listener)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                source, _ = self._listener.accept()
                destination = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [source, destination]
                self._start(partial(self._pump, source, destination, Role.SOURCE))
                self._start(partial(self._pump, destination, source, Role.DESTINATION))

    def _pump(self, incoming: socket.socket, outgoing: socket.socket, role: Role) -> None:
        with suppress(OSError):
            while data := incoming.recv(_CHUNK_BYTES):
                rest = self._strike(outgoing, data) if role is self._role else data
                outgoing.sendall(rest)
        with suppress(OSError):
            outgoing.shutdown(socket.SHUT_WR)

    def _strike(self, outgoing: socket.socket, data: bytes) -> bytes:
        """Forward `data` up to the place and call back there; return the rest."""
        if self._reached is None or self._left >= len(data):
            self._left -= len(data)
            return data
        outgoing.sendall(data[: self._left])
        rest = data[self._left :]
        reached, self._reached = self._reached, None
        reached()
        return rest
