"""Replays a kept stream: a channel to a peer that sends what a file, a command or a pipe has.

The peer is a thread that moves bytes; what it hears is thrown away.
"""

import os
import select
import socket
import threading
from typing import Final

from tagalong.errors import HostError
from tagalong.migrate.transport.address import Address
from tagalong.migrate.transport.channel import Channel
from tagalong.migrate.transport.sink import Child, open_source

_BUFFER_BYTES: Final = 4 << 20
_CHUNK_BYTES: Final = 1 << 20

# How long a command may take to end after its output has.
_END_S: Final = 1.0


def stream_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets, each with room for much of a batch."""
    pair = socket.socketpair()
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return pair


class LocalChannel(Channel):
    """A channel to a peer that is a thread of this process."""

    def __init__(self, sock: socket.socket, name: str, *, idle_s: float) -> None:
        super().__init__(sock, name, idle_s=idle_s)
        self._end_cause: HostError | None = None

    def explain_end(self, cause: HostError) -> None:
        """Say why the peer is about to close its end; the first cause counts."""
        self._end_cause = self._end_cause or cause

    @property
    def end_cause(self) -> HostError | None:
        """As Channel.end_cause."""
        return self._end_cause


def replay(address: Address, *, idle_s: float) -> Channel:
    """Return a channel to a peer that sends what was kept at `address`.

    Raises HostError if that cannot be opened.
    """
    descriptor, child = open_source(address)
    near, far = stream_pair()
    far.setblocking(False)
    channel = LocalChannel(near, str(address), idle_s=idle_s)
    player = _Player(descriptor, child, far, channel)
    threading.Thread(target=player.run, name="player", daemon=True).start()
    return channel


class _Player:
    """Moves bytes from a descriptor to a socket, and throws away what comes back."""

    def __init__(
        self, descriptor: int, child: Child | None, sock: socket.socket, channel: LocalChannel
    ) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._child = child
        self._sock = sock
        self._channel = channel
        self._left = memoryview(b"")
        self._is_at_end = False

    def run(self) -> None:
        try:
            while self._step():
                pass
        except OSError as error:
            # Too late for a listener that has left.
            self._explain(f"cannot be read: {error.strerror}")
        finally:
            os.close(self._descriptor)
            self._sock.close()
            if self._child is not None:
                self._child.end()

    def _explain(self, why: str) -> None:
        self._channel.explain_end(HostError(f"{self._channel.name}: {why}"))

    def _step(self) -> bool:
        """Wait, then move what can be moved; return False once the listener has left."""
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
            # Before the end can be seen: a command that failed has the reason.
            if self._child is not None and (verdict := self._child.verdict(_END_S)):
                self._explain(verdict)
            self._sock.shutdown(socket.SHUT_WR)
