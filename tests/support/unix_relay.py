"""Forwards connections to a unix socket as they are, until they are cut."""

import socket
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.support.relay import Relay, shut

_CHUNK_BYTES = 1 << 16


class UnixRelay(Relay):
    """Listens at the unix socket `name` in `folder`, as `uri`, and forwards to the URI `target`."""

    def __init__(self, name: str, target: str, folder: Path) -> None:
        path = folder / name
        self.uri = f"unix:{path}"
        self._target = target.removeprefix("unix:")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(8)
        super().__init__(listener)

    def cut(self) -> None:
        """End all connections, and accept no more."""
        shut(self._listener)
        self._cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                source, _ = self._listener.accept()
                destination = socket.socket(socket.AF_UNIX)
                self._sockets += [source, destination]
                destination.connect(self._target)
                self._start(partial(_pump, source, destination))
                self._start(partial(_pump, destination, source))


def _pump(incoming: socket.socket, outgoing: socket.socket) -> None:
    try:
        while data := incoming.recv(_CHUNK_BYTES):
            outgoing.sendall(data)
        outgoing.shutdown(socket.SHUT_WR)
    except OSError:
        shut(incoming)
        shut(outgoing)
