"""Waits for sources: the destination's end of every kind of address.

With TLS the handshakes of all that connect proceed side by side, each with its own time
limit, so that none who connects and stays silent holds up the one who is awaited. Who
fails the handshake is refused, and the wait goes on: it never reaches the parser.
"""

import select
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tagalong.errors import AuthenticationError, HostError, UsageError
from tagalong.migrate.transport.address import (
    Address,
    FdAddress,
    SocketAddress,
    TcpAddress,
    UnixAddress,
)
from tagalong.migrate.transport.channel import Buffers, Channel, Interrupt, never
from tagalong.migrate.transport.connector import is_one_way, resolve, tune
from tagalong.migrate.transport.inherited import connected_socket
from tagalong.migrate.transport.replay import replay
from tagalong.migrate.transport.tls import Handshake, TlsCredentials, TlsRole

_OWNER_ONLY: Final = 0o600
_BACKLOG: Final = 128
_HANDSHAKE_S: Final = 10.0

LOOK_UP_S: Final = 0.1
"""How long a wait may go on before somebody has to look up."""

MAX_PENDING: Final = 16
"""How many who have not shown yet that they are the source are heard at once."""

FAREWELL_S: Final = 1.0
"""How long the connection of somebody who was turned away stays open.

Closed at once with bytes unread it would be reset, and the reason lost.
"""

LEAST_S: Final = 0.5
"""When all places are taken: after this time the oldest has to give its place to who comes.

Until then newcomers wait in the kernel's queue. A source shows at once what it is.
"""

Refused = Callable[[HostError], None]


Farewell = Callable[[HostError], Buffers]
"""Returns what tells an authenticated peer, in the caller's protocol, why it is rejected.

TLS has no words for a name that is not admitted.
"""


def ignore(_: HostError) -> None:
    """Tell nobody about a rejected peer."""


def _say_nothing(_: HostError) -> Buffers:
    return ()


class Listener(ABC):
    """Waits for one peer at a time; closed by `close`, or at the end of a `with` statement.

    `address` is the real one: where port 0 was asked for, the port that was given.
    """

    address: Address

    @abstractmethod
    def accept(
        self, *, idle_s: float, timeout_s: float = float("inf"), interrupt: Interrupt = never
    ) -> Channel:
        """Wait for a peer and return the channel to it.

        Raises HostError if none comes in `timeout_s`.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop listening. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


class SocketListener(Listener):
    """Listens on a socket. A Unix socket is open to its owner only and removed by `close`.

    `refused` is called with the reason for each peer that is turned away.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: SocketAddress,
        tls: TlsCredentials | None = None,
        refused: Refused = ignore,
        farewell: Farewell = _say_nothing,
    ) -> None:
        self.address = address
        self._farewell = farewell
        self._sock = sock
        self._tls = tls
        self._context = tls.context(TlsRole.SERVER) if tls is not None else None
        self.refused = refused
        self._pending: dict[int, _Pending] = {}  # by the time at which they came
        self._leaving: deque[_Pending] = deque()
        sock.setblocking(False)

    def accept(
        self, *, idle_s: float, timeout_s: float = float("inf"), interrupt: Interrupt = never
    ) -> Channel:
        """As Listener."""
        deadline = time.monotonic() + timeout_s
        while True:
            interrupt()
            left_s = max(0.0, deadline - time.monotonic())
            if channel := self.look_up(min(LOOK_UP_S, left_s), idle_s=idle_s):
                tune(channel.sock)
                return channel
            if time.monotonic() >= deadline:
                raise HostError(f"{self.address}: nobody connected in {timeout_s:.1f} s")

    def look_up(
        self,
        wait_s: float,
        *,
        idle_s: float,
        others: Sequence[int] = (),
        has_room: bool = True,
    ) -> Channel | None:
        """Return the channel to a peer, None if nobody comes in `wait_s`.

        None also as soon as one of the descriptors `others` can be read. Without `has_room`
        only those are let in who have begun a handshake. Raises HostError.
        """
        self._see_off(MAX_PENDING)
        ready = self._poll(wait_s, others, has_room=has_room)
        if self._sock.fileno() in ready and (channel := self._greet(idle_s)):
            return channel
        return self._shake_hands(ready, idle_s)

    def move_to(self, address: SocketAddress) -> None:
        """Listen at another address from now on; from any thread.

        Raises HostError if that is not possible; it goes on at the one before then.
        """
        sock = _bound(address)
        sock.setblocking(False)
        before, self._sock = (self._sock, self.address), sock
        self.address = _real(address, sock)
        before[0].close()
        if isinstance(before[1], UnixAddress):
            before[1].path.unlink(missing_ok=True)

    def _poll(self, timeout_s: float, others: Sequence[int], *, has_room: bool) -> set[int]:
        poller = select.poll()
        if has_room and (len(self._pending) < MAX_PENDING or self._oldest().may_be_replaced):
            poller.register(self._sock.fileno(), select.POLLIN)
        for descriptor, pending in self._pending.items():
            poller.register(descriptor, pending.event)
        for descriptor in others:
            poller.register(descriptor, select.POLLIN)
        return {descriptor for descriptor, _ in poller.poll(timeout_s * 1000)}

    def _greet(self, idle_s: float) -> Channel | None:
        """Let one in: at once without TLS, else to its handshake."""
        try:
            sock, peer = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it was there, and has gone again
            return None
        except OSError as error:
            raise HostError(f"{self.address}: cannot accept: {error}") from error
        name = _name(self.address, peer)
        if self._tls is None or self._context is None:
            return Channel(sock, name, idle_s=idle_s)
        if len(self._pending) >= MAX_PENDING:
            self._replace_oldest()
        shake = Handshake(sock, self._tls, self._context, server_name=None, name=name)
        self._pending[shake.fileno()] = _Pending(shake, time.monotonic())
        return None

    def _oldest(self) -> "_Pending":
        return next(iter(self._pending.values()))

    def _replace_oldest(self) -> None:
        oldest = self._oldest()
        self._drop(oldest, HostError(f"{oldest.shake.name}: too many connect without TLS"))

    def _drop(self, pending: "_Pending", error: HostError) -> None:
        """Turn somebody away; what TLS has to say about it may be heard for a moment."""
        del self._pending[pending.shake.fileno()]
        pending.shake.hang_up()
        self._leaving.append(_Pending(pending.shake, time.monotonic()))
        self._see_off(MAX_PENDING)
        self.refused(error)

    def _see_off(self, most: int) -> None:
        """Close who was turned away a while ago, and the first of more than `most`."""
        while self._leaving and (self._leaving[0].age_s > FAREWELL_S or len(self._leaving) > most):
            self._leaving.popleft().shake.close()

    def _shake_hands(self, ready: set[int], idle_s: float) -> Channel | None:
        """Let the handshakes go on; return the channel of the first that succeeds."""
        for descriptor, pending in list(self._pending.items()):
            shake = pending.shake
            try:
                if descriptor in ready:
                    event = shake.step()
                    if event is None:
                        del self._pending[descriptor]
                        return self._admit(shake, idle_s)
                    pending.event = event
                elif pending.age_s > _HANDSHAKE_S:
                    raise HostError(f"{shake.name}: a peer did not finish its TLS handshake")
            except HostError as error:
                self._drop(pending, error)
        return None

    def _admit(self, shake: Handshake, idle_s: float) -> Channel | None:
        channel = shake.channel(idle_s=idle_s)
        objection = shake.objection()
        if objection is None:
            return channel
        error = AuthenticationError(objection)
        with channel, suppress(HostError):
            # It fits into the socket's buffer, or the peer does not want to know.
            channel.send(self._farewell(error), deadline=time.monotonic())
        self.refused(error)
        return None

    def close(self) -> None:
        """As Listener."""
        for pending in self._pending.values():
            pending.shake.close()
        self._pending.clear()
        self._see_off(0)
        if self._sock.fileno() >= 0:
            self._sock.close()
            if isinstance(self.address, UnixAddress):
                self.address.path.unlink(missing_ok=True)


@dataclass
class _Pending:
    """A handshake under way since a time (monotonic), and the poll event it waits for."""

    shake: Handshake
    since: float
    event: int = select.POLLIN

    @property
    def age_s(self) -> float:
        """Return for how long it has been under way."""
        return time.monotonic() - self.since

    @property
    def may_be_replaced(self) -> bool:
        """Return whether a newcomer has a better right to the place."""
        return self.age_s > LEAST_S


def _name(address: Address, peer: object) -> str:
    """Return the name of a connection: where it was accepted, and whence it came."""
    if isinstance(address, TcpAddress) and isinstance(peer, tuple):
        return f"{address} (from {TcpAddress(*peer[:2])})".replace("from tcp:", "from ")
    return str(address)


class ReadyListener(Listener):
    """A stream that is here already, or comes from a file or a command: one, then no more."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._is_taken = False

    def accept(
        self, *, idle_s: float, timeout_s: float = float("inf"), interrupt: Interrupt = never
    ) -> Channel:
        """As Listener."""
        interrupt()
        if self._is_taken:
            raise HostError(f"{self.address}: there is one stream, and it was taken")
        del timeout_s
        self._is_taken = True
        if isinstance(self.address, FdAddress) and not is_one_way(self.address):
            return Channel(connected_socket(self.address), str(self.address), idle_s=idle_s)
        return replay(self.address, idle_s=idle_s)

    def close(self) -> None:
        """As Listener."""


def listen(
    address: Address,
    *,
    tls: TlsCredentials | None = None,
    refused: Refused = ignore,
    farewell: Farewell = _say_nothing,
) -> Listener:
    """Listen at `address`.

    Raises HostError if that is not possible, as when it is in use, UsageError where TLS has
    no meaning. `refused` hears of each peer that is turned away.
    """
    if not isinstance(address, TcpAddress | UnixAddress):
        if tls is not None:
            raise UsageError(f"{address}: TLS needs a listener: tcp:HOST:PORT or unix:PATH")
        return ReadyListener(address)
    sock = _bound(address)
    try:
        return SocketListener(sock, _real(address, sock), tls, refused, farewell)
    except BaseException:
        sock.close()
        if isinstance(address, UnixAddress):
            Path(address.path).unlink(missing_ok=True)
        raise


def _real(address: SocketAddress, sock: socket.socket) -> SocketAddress:
    """Return the address with the port that was given."""
    if isinstance(address, TcpAddress):
        return TcpAddress(address.host, sock.getsockname()[1])
    return address


def _bound(address: SocketAddress) -> socket.socket:
    family, where = resolve(address)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(address, TcpAddress):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)  # type: ignore[arg-type]
        if isinstance(address, UnixAddress):
            # Nobody can connect before listen(), so there is no moment of open access.
            Path(address.path).chmod(_OWNER_ONLY)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise HostError(f"{address}: cannot listen: {error}") from error
    return sock
