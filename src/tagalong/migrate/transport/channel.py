"""Blocking byte channels over sockets; every wait ends.

A channel waits only in `wait_ready`: at most until a deadline, and every tenth of a second it
calls `interrupt`, which ends the wait by raising. Every failure is a HostError that names the
channel, with the system's error as its cause.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from tagalong.errors import HostError

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from tagalong.write_behind import PageDigest

Buffers = Sequence[bytes | bytearray | memoryview]
Interrupt = Callable[[], None]
"""Called while a channel waits; it ends the wait by raising."""

_LOOK_UP_S = 0.1
_SINK_BYTES = 256 << 10
MAX_BUFFERS = 1024
"""How many buffers one system call takes: IOV_MAX of Linux."""


class Blocked(Exception):  # noqa: N818 (no error: it never leaves a channel)
    """No byte can move before poll reports `event` for the channel's descriptor."""

    def __init__(self, event: int) -> None:
        self.event = event


@dataclass(frozen=True)
class NativePath:
    """How native code moves a channel's bytes: over `descriptor`, through `tls` if that is not 0.

    `tls`: the address of a `struct ta_tls` (native/tagalong.h). `lock` is to be held meanwhile.
    """

    descriptor: int
    tls: int = 0
    lock: AbstractContextManager[object] = field(default_factory=contextlib.nullcontext)


def never() -> None:
    """End no wait."""


def shares_host(sock: socket.socket) -> bool:
    """Return whether a connected TCP socket's peer has the same address: it is on this host.

    Raises OSError if the connection is gone.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    here, there = sock.getsockname(), sock.getpeername()
    # A socket of TLS whose peer is gone has none (tls.py).
    return there is not None and bool(here[0] == there[0])


def wait_ready(descriptor: int, event: int, deadline: float, interrupt: Interrupt) -> bool:
    """Wait for a poll event; return whether it came before the deadline (monotonic)."""
    poller = select.poll()
    poller.register(descriptor, event)
    while True:
        interrupt()
        left = deadline - time.monotonic()
        if poller.poll(max(0.0, min(left, _LOOK_UP_S)) * 1000):
            return True
        if left <= 0:
            return False


class Channel:
    """A connected stream socket; closed by `close`, or at the end of a `with` statement.

    `name` is for people. `idle_s`: how long the peer may keep us waiting for one byte.
    `interrupt` is called during waits and may be replaced at any time. `is_mid_record`: the last
    `send` failed after some of its bytes had left. `is_one_way`: what is sent is kept, and no
    machine takes it. `follows_packets`: native code that receives runs where packets are processed
    (native/cpus.c).
    """

    is_one_way = False

    def __init__(self, sock: socket.socket, name: str, *, idle_s: float) -> None:
        sock.setblocking(False)
        self.name = name
        self.idle_s = idle_s
        self.interrupt: Interrupt = never
        self.is_mid_record = False
        self.follows_packets = False
        self._sock = sock

    @property
    def sock(self) -> socket.socket:
        """Return the socket, to poll and to tune. Only the channel moves bytes over it."""
        return self._sock

    @property
    def shares_host(self) -> bool:
        """Return whether the peer is on this host, over TCP."""
        with contextlib.suppress(OSError):
            return shares_host(self._sock)
        return False

    @property
    def end_cause(self) -> HostError | None:
        """Return why the peer has closed its end, if this process knows better than the stream."""
        return None

    @property
    def outgoing_path(self) -> NativePath | None:
        """Return how native code may send, None if all bytes must go through `send`."""
        return NativePath(self._sock.fileno())

    @property
    def incoming_path(self) -> NativePath | None:
        """Return how native code may receive, None if all must come through `receive_into`."""
        return NativePath(self._sock.fileno())

    @property
    def sends_pages(self) -> bool:
        """Return whether pages of a batch can leave from where they are (pages/pump.py)."""
        return self.outgoing_path is not None

    @property
    def receives_pages(self) -> bool:
        """Return whether pages of a batch can be received to where they belong."""
        return self.incoming_path is not None

    def native_error(self, code: int) -> HostError:
        """Return the error for the errno with which native code failed."""
        return HostError(f"{self.name}: cannot move pages: {os.strerror(code)}")

    def send(self, buffers: Buffers, *, deadline: float = float("inf")) -> None:
        """Send all bytes of all buffers, in order.

        `deadline`: of time.monotonic(). Raises HostError if the peer takes nothing for
        `idle_s`, if the deadline passes, or if the connection is gone. After an error the
        peer cannot get the last byte.
        """
        left = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        while left:
            try:
                count = self._send_some(left)
            except Blocked as blocked:
                self._wait_for(blocked.event, deadline, "took")
            except OSError as error:
                raise HostError(f"{self.name}: cannot send: {error}") from error
            else:
                self.is_mid_record = True
                drop(left, count)
        self.is_mid_record = False

    def receive_into(self, target: memoryview, *, deadline: float = float("inf")) -> int:
        """Receive at least one byte into `target`; return how many, 0 at the peer's end.

        Raises HostError if no byte comes for `idle_s` or until the deadline, or if the
        connection is gone.
        """
        while True:
            try:
                return self._receive_some(target)
            except Blocked as blocked:
                self._wait_for(blocked.event, deadline, "sent")
            except OSError as error:
                raise HostError(f"{self.name}: cannot receive: {error}") from error

    def is_readable(self) -> bool:
        """Return whether bytes, or the peer's end, can be received without waiting."""
        return wait_ready(self._sock.fileno(), select.POLLIN, 0.0, never)

    def finish(self, deadline: float) -> None:
        """End our side of the stream so that the peer receives all of it.

        A socket that is closed with unread bytes resets the connection, and the peer might
        lose what was sent last. So everything that still arrives is thrown away until the
        peer closes, or the deadline. Raises nothing.
        """
        with contextlib.suppress(OSError, HostError):
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
            sink = memoryview(bytearray(_SINK_BYTES))
            while self.receive_into(sink, deadline=deadline) and time.monotonic() < deadline:
                pass

    def break_off(self) -> None:
        """Break the connection, from any thread: its users get the error of a broken one.

        Raises nothing.
        """
        with contextlib.suppress(OSError):
            # Socket's own method: that of SSLSocket would let plain bytes out meanwhile.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    @property
    def is_closed(self) -> bool:
        """Return whether `close` was called."""
        return self._sock.fileno() < 0

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait_for(self, event: int, deadline: float, what: str) -> None:
        began = time.monotonic()
        until = min(deadline, began + self.idle_s)
        if wait_ready(self._sock.fileno(), event, until, self._interrupt_now):
            return
        if deadline < began + self.idle_s:
            raise HostError(f"{self.name}: the peer {what} too little, and its time is up")
        waited = time.monotonic() - began
        raise HostError(
            f"{self.name}: the peer {what} nothing for {waited:.1f} s; see whether it is "
            "overloaded, or the network broken"
        )

    def _interrupt_now(self) -> None:
        # Read at each call: it may be replaced during the wait.
        self.interrupt()

    def _send_some(self, buffers: list[memoryview]) -> int:
        """Move at least one byte out; return how many. Raises Blocked, OSError."""
        return self._send_plain(buffers)

    def _send_plain(self, buffers: list[memoryview]) -> int:
        try:
            # Socket's own method: SSLSocket has none.
            return socket.socket.sendmsg(self._sock, buffers[:MAX_BUFFERS])
        except BlockingIOError:
            raise Blocked(select.POLLOUT) from None

    def _receive_some(self, target: memoryview) -> int:
        """Move at least one byte in; return how many, 0 at the end. Raises Blocked, OSError."""
        try:
            return self._sock.recv_into(target)
        except BlockingIOError:
            raise Blocked(select.POLLIN) from None


class PageChannel(Channel):
    """A channel that moves the pages of a batch by itself, between memory and a file."""

    sends_pages = receives_pages = True

    @property
    def outgoing_path(self) -> None:
        """Return None: the bytes must come through here."""
        return

    @property
    def incoming_path(self) -> None:
        """Return None, as `outgoing_path`."""
        return

    def move_pages(
        self, pieces: Sequence[memoryview], page_bytes: int, digest: PageDigest
    ) -> list[NDArray[np.uint64]]:
        """Send all pieces, or fill them, and return the digests of their pages in order.

        Each piece has whole pages. Raises HostError; EOFError if the stream ends before that.
        """
        raise NotImplementedError


def drop(buffers: list[memoryview], count: int) -> None:
    """Remove the first `count` bytes."""
    while buffers and count >= len(buffers[0]):
        count -= len(buffers.pop(0))
    if count:
        buffers[0] = buffers[0][count:]
