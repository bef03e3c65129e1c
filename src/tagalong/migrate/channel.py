"""Blocking byte channels over TCP and Unix sockets, in which no wait is without an end.

A channel waits only in `_wait`: at most until a deadline, and looking up every tenth of a
second whether somebody wants it to stop. Everything that goes wrong is a HostError that
names the channel, with the system's error as its cause.
"""

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tagalong.errors import HostError
from tagalong.migrate.address import Address, TcpAddress, UnixAddress

Buffers = Sequence[bytes | bytearray | memoryview]
Interrupt = Callable[[], None]
"""Called while a channel waits; it ends the wait by raising."""

_LOOK_UP_S = 0.1
_UNIX_BUFFER_BYTES = 4 << 20
_SINK_BYTES = 256 << 10
_OWNER_ONLY = 0o600


def _never() -> None:
    pass


def _wait(sock: socket.socket, event: int, deadline: float, interrupt: Interrupt) -> bool:
    """Wait for a poll event; return whether it came before the deadline (monotonic)."""
    poller = select.poll()
    poller.register(sock, event)
    while True:
        interrupt()
        left = deadline - time.monotonic()
        if poller.poll(max(0.0, min(left, _LOOK_UP_S)) * 1000):
            return True
        if left <= 0:
            return False


class Channel:
    """A connected stream socket; closed by `close`, or at the end of a `with` statement.

    `name` is for people. `idle_s` is how long the peer may let us wait for one byte.
    `interrupt` is called during waits and may be replaced at any time. `is_mid_record`
    tells whether the last `send` failed after some of its bytes had left.
    """

    def __init__(self, sock: socket.socket, name: str, *, idle_s: float) -> None:
        sock.setblocking(False)
        self.name = name
        self.idle_s = idle_s
        self.interrupt: Interrupt = _never
        self.is_mid_record = False
        self._sock = sock

    def send(self, buffers: Buffers, *, deadline: float = float("inf")) -> None:
        """Send all bytes of all buffers, in order.

        `deadline`: of time.monotonic(). Raises HostError if the peer takes nothing for
        `idle_s`, if the deadline passes, or if the connection is gone. After an error the
        kernel has not taken the last byte.
        """
        left = [memoryview(buffer) for buffer in buffers if len(buffer)]
        while left:
            count = self._send_some(left)
            if count:
                self.is_mid_record = True
                _drop(left, count)
            elif left:
                self._wait_for(select.POLLOUT, deadline, "took")
        self.is_mid_record = False

    def _send_some(self, buffers: list[memoryview]) -> int:
        try:
            return self._sock.sendmsg(buffers)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise HostError(f"{self.name}: cannot send: {error}") from error

    def receive_into(self, target: memoryview, *, deadline: float = float("inf")) -> int:
        """Receive at least one byte into `target`; return how many, 0 at the peer's end.

        Raises HostError if no byte comes for `idle_s` or until the deadline, or if the
        connection is gone.
        """
        while True:
            try:
                return self._sock.recv_into(target)
            except BlockingIOError:
                self._wait_for(select.POLLIN, deadline, "sent")
            except OSError as error:
                raise HostError(f"{self.name}: cannot receive: {error}") from error

    def is_readable(self) -> bool:
        """Return whether bytes, or the peer's end, can be received without waiting."""
        return _wait(self._sock, select.POLLIN, 0.0, _never)

    def finish(self, deadline: float) -> None:
        """Say that nothing more will be sent, and let the peer hear all of it.

        A socket that is closed with unread bytes resets the connection, and the peer might
        lose what was sent last. So everything that still comes is thrown away until the
        peer closes, or the deadline. Raises nothing.
        """
        with contextlib.suppress(OSError, HostError):
            self._sock.shutdown(socket.SHUT_WR)
            sink = memoryview(bytearray(_SINK_BYTES))
            while self.receive_into(sink, deadline=deadline):
                pass

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
        if _wait(self._sock, event, min(deadline, began + self.idle_s), self.interrupt):
            return
        waited = time.monotonic() - began
        raise HostError(
            f"{self.name}: the peer {what} nothing for {waited:.1f} s: is it overloaded, or the "
            "network broken?"
        )


def _drop(buffers: list[memoryview], count: int) -> None:
    """Remove the first `count` bytes."""
    while buffers and count >= len(buffers[0]):
        count -= len(buffers.pop(0))
    if count:
        buffers[0] = buffers[0][count:]


def connect(
    address: Address, *, timeout_s: float, idle_s: float, interrupt: Interrupt = _never
) -> Channel:
    """Connect to a listener and return the channel.

    Raises HostError if nobody listens there or no answer comes in `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    failure: OSError | None = None
    for family, where in _resolve(address):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            _connect(sock, where, deadline, interrupt)
            _tune(sock)
            return Channel(sock, str(address), idle_s=idle_s)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise HostError(
        f"{address}: cannot connect: {failure}; does a destination wait there?"
    ) from failure


def _resolve(address: Address) -> list[tuple[int, object]]:
    if isinstance(address, UnixAddress):
        return [(socket.AF_UNIX, str(address.path))]
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise HostError(f"{address}: cannot find the host: {error}") from error
    return [(family, where) for family, _, _, _, where in found]


def _connect(sock: socket.socket, where: object, deadline: float, interrupt: Interrupt) -> None:
    sock.setblocking(False)
    try:
        sock.connect(where)  # type: ignore[arg-type]
    except BlockingIOError:
        if not _wait(sock, select.POLLOUT, deadline, interrupt):
            raise TimeoutError("no answer in time") from None
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None


def _tune(sock: socket.socket) -> None:
    if sock.family == socket.AF_UNIX:
        # By default it holds a fifth of a batch. TCP's buffers grow by themselves, and a
        # size that is asked for would end that.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNIX_BUFFER_BYTES)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Listener:
    """Waits for one peer at a time; closed by `close`, or at the end of a `with` statement.

    `address` is the real one: where port 0 was asked for, the port that was given. A Unix
    socket is open to its owner only and is removed again by `close`.
    """

    def __init__(self, sock: socket.socket, address: Address) -> None:
        self.address = address
        self._sock = sock
        sock.setblocking(False)

    def accept(
        self, *, idle_s: float, timeout_s: float = float("inf"), interrupt: Interrupt = _never
    ) -> Channel:
        """Wait for a peer and return the channel to it.

        Raises HostError if none comes in `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while _wait(self._sock, select.POLLIN, deadline, interrupt):
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:  # it was there, and has gone again
                continue
            except OSError as error:
                raise HostError(f"{self.address}: cannot accept: {error}") from error
            _tune(sock)
            return Channel(sock, str(self.address), idle_s=idle_s)
        raise HostError(f"{self.address}: nobody connected in {timeout_s:.1f} s")

    def close(self) -> None:
        """Stop listening. Safe to call twice."""
        if self._sock.fileno() >= 0:
            self._sock.close()
            if isinstance(self.address, UnixAddress):
                self.address.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


def listen(address: Address) -> Listener:
    """Listen at `address`. Raises HostError if that is not possible, as when it is in use."""
    family, where = _resolve(address)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(address, TcpAddress):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)  # type: ignore[arg-type]
        if isinstance(address, UnixAddress):
            # Nobody can connect before listen(), so there is no moment of open access.
            Path(address.path).chmod(_OWNER_ONLY)
        sock.listen(1)
    except OSError as error:
        sock.close()
        raise HostError(f"{address}: cannot listen: {error}") from error
    if isinstance(address, TcpAddress):
        address = TcpAddress(address.host, sock.getsockname()[1])
    return Listener(sock, address)
