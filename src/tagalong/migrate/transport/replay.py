"""Replays a kept stream: a channel to a peer that sends what a file, a command or a pipe has.

The peer is a thread that moves bytes; what it hears is thrown away.
"""

import contextlib
import os
import select
import socket
import threading
from typing import Final

from tagalong.migrate.transport.address import Address
from tagalong.migrate.transport.channel import Channel
from tagalong.migrate.transport.sink import Child, open_source

_BUFFER_BYTES: Final = 4 << 20
_CHUNK_BYTES: Final = 1 << 20


def stream_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets, each with room for much of a batch."""
    pair = socket.socketpair()
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return pair


def replay(address: Address, *, idle_s: float) -> Channel:
    """Return a channel to a peer that says what was kept at `address`.

    Raises HostError if that cannot be opened.
    """
    descriptor, child = open_source(address)
    near, far = stream_pair()
    far.setblocking(False)
    teller = _Teller(descriptor, child, far)
    threading.Thread(target=teller.run, name="teller", daemon=True).start()
    return Channel(near, str(address), idle_s=idle_s)


class _Teller:
    """Moves bytes from a descriptor to a socket, and throws away what comes back."""

    def __init__(self, descriptor: int, child: Child | None, sock: socket.socket) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._child = child
        self._sock = sock
        self._left = memoryview(b"")
        self._is_at_end = False

    def run(self) -> None:
        try:
            with contextlib.suppress(OSError):
                while self._step():
                    pass
        finally:
            os.close(self._descriptor)
            self._sock.close()
            if self._child is not None:
                self._child.end()

    def _step(self) -> bool:
        """Wait, then move what can be moved; return False once the listener has gone."""
        poller = select.poll()
        poller.register(self._sock, select.POLLIN | (select.POLLOUT if self._left else 0))
        if not self._left and not self._is_at_end:
            poller.register(self._descriptor, select.POLLIN)
        ready = dict(poller.poll())
        events = ready.get(self._sock.fileno(), 0)
        if events & select.POLLIN and not self._sock.recv(_CHUNK_BYTES):
            return False
        if events & (select.POLLHUP | select.POLLERR) and not events & select.POLLIN:
            return False
        if events & select.POLLOUT:
            self._left = self._left[self._sock.send(self._left) :]
        if self._descriptor in ready:
            self._read()
        return True

    def _read(self) -> None:
        data = os.read(self._descriptor, _CHUNK_BYTES)
        self._left = memoryview(data)
        if not data:
            self._is_at_end = True
            self._sock.shutdown(socket.SHUT_WR)
