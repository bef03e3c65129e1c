"""Waits for sources: the destination's end of every kind of address.

With TLS the handshakes of all peers proceed side by side, each with its own deadline, so that a
silent peer does not delay the source. A peer that fails its handshake is rejected before it
reaches any parser, and the wait goes on.

Whatever goes wrong with one peer is that peer's: nothing that a peer does, and no error that
belongs to its connection alone, ends the wait. accept(2) on Linux also returns errors of the
network for the connection that it takes; and a host that is out of descriptors or memory for a
moment can accept again a moment later. Only an error of the listening socket itself is raised.
"""

import errno
import select
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
from tagalong.migrate.transport.connector import is_one_way, tune
from tagalong.migrate.transport.inherited import connected_socket
from tagalong.migrate.transport.refusals import RefusalReports, Refused
from tagalong.migrate.transport.replay import replay
from tagalong.migrate.transport.resolver import resolve
from tagalong.migrate.transport.tls import Handshake, TlsCredentials, TlsRole
from tagalong.socket_files import SocketFile

_BACKLOG: Final = 128
_HANDSHAKE_S: Final = 10.0

# The listening socket itself cannot be used any more.
_FATAL: Final = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EFAULT, errno.EOPNOTSUPP)

LOOK_UP_S: Final = 0.1
"""How long a wait lasts before its caller looks at anything else."""

MAX_PENDING: Final = 16
"""How many peers that may be the source are heard at once."""

FAREWELL_S: Final = 1.0
"""How long the connection of a rejected peer stays open.

Closed at once with unread bytes it would be reset, and the reason lost.
"""

LEAST_S: Final = 0.5
"""How long a peer keeps its place when others wait: then the oldest must give way.

Until then new connections wait in the kernel's queue. A source shows at once what it is.
"""

Farewell = Callable[[HostError], Buffers]
"""Returns what tells an authenticated peer, in the caller's protocol, why it is rejected.

TLS has no words for a name that is not admitted.
"""


def ignore(_: HostError) -> None:
    """Report no rejected peer."""


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


@dataclass(frozen=True)
class _Bound:
    """A socket that listens at an address, and its file if it has one."""

    sock: socket.socket
    address: SocketAddress
    file: SocketFile | None

    def close(self) -> None:
        self.sock.close()
        if self.file is not None:
            self.file.remove()


class SocketListener(Listener):
    """Listens on a socket. A Unix socket is open to its owner only and removed by `close`.

    `refused` is called with the reason for each rejected peer, or for many at once;
    `farewell` makes what such a peer is told over TLS. Raises as `listen`.
    """

    def __init__(
        self,
        address: SocketAddress,
        tls: TlsCredentials | None = None,
        refused: Refused = ignore,
        farewell: Farewell = _say_nothing,
    ) -> None:
        self._tls = tls
        self._context = tls.context(TlsRole.SERVER) if tls is not None else None
        if tls is not None:
            tls.revocations()  # a file that is damaged is an error now, not at the first peer
        self._farewell = farewell
        self._refusals = RefusalReports(refused)
        self._pending: dict[int, _Pending] = {}  # oldest first
        self._leaving: deque[_Pending] = deque()
        self._bound = _bind(address)
        self.address = self._bound.address

    def refuse(self, error: HostError) -> None:
        """Report a rejected peer."""
        self._refusals.add(error)

    def report_refusals(self) -> None:
        """Report what was withheld so far."""
        self._refusals.flush(at_end=True)

    def accept(
        self, *, idle_s: float, timeout_s: float = float("inf"), interrupt: Interrupt = never
    ) -> Channel:
        """As Listener."""
        deadline = time.monotonic() + timeout_s
        while True:
            interrupt()
            left_s = max(0.0, deadline - time.monotonic())
            channel = self.look_up(min(LOOK_UP_S, left_s), idle_s=idle_s)
            if channel is not None and self._is_tuned(channel):
                return channel
            if time.monotonic() >= deadline:
                raise HostError(f"{self.address}: no peer connected in {timeout_s:.1f} s")

    def _is_tuned(self, channel: Channel) -> bool:
        """Set what a migration's socket needs; reject a peer whose socket takes it no more."""
        try:
            tune(channel.sock)
        except OSError as error:
            channel.close()
            self.refuse(HostError(f"{channel.name}: {error}"))
            return False
        return True

    def look_up(
        self,
        wait_s: float,
        *,
        idle_s: float,
        others: Sequence[int] = (),
        has_room: bool = True,
    ) -> Channel | None:
        """Return the channel to a peer; None if no peer is ready in `wait_s`.

        None also as soon as one of the descriptors `others` can be read. Without `has_room` only
        peers whose handshake has begun are accepted. Raises HostError if listening is not
        possible any more.
        """
        self._refusals.flush()
        self._close_rejected(MAX_PENDING)
        bound = self._bound
        ready = self._poll(bound, wait_s, others, has_room=has_room)
        if bound.sock.fileno() in ready and (channel := self._accept(bound, idle_s)):
            return channel
        return self._shake_hands(ready, idle_s)

    def move_to(self, address: SocketAddress) -> None:
        """Listen at another address from now on; from any thread.

        Raises HostError if that is not possible; the listener stays at its address then.
        """
        before, self._bound = self._bound, _bind(address)
        self.address = self._bound.address
        before.close()

    def _poll(
        self, bound: _Bound, timeout_s: float, others: Sequence[int], *, has_room: bool
    ) -> set[int]:
        poller = select.poll()
        is_open = bound.sock.fileno() >= 0  # it may just have moved
        has_place = len(self._pending) < MAX_PENDING or self._oldest().may_be_replaced
        if is_open and has_room and has_place:
            poller.register(bound.sock.fileno(), select.POLLIN)
        for descriptor, pending in self._pending.items():
            poller.register(descriptor, pending.event)
        for descriptor in others:
            poller.register(descriptor, select.POLLIN)
        return {descriptor for descriptor, _ in poller.poll(timeout_s * 1000)}

    def _accept(self, bound: _Bound, idle_s: float) -> Channel | None:
        """Accept one peer: at once without TLS, else to its handshake."""
        try:
            sock, peer = bound.sock.accept()
        except BlockingIOError:  # it was there, and has left
            return None
        except OSError as error:
            if bound is not self._bound:
                return None  # the listener has moved
            if error.errno in _FATAL:
                raise HostError(f"{self.address}: cannot accept: {error}") from error
            self.refuse(HostError(f"{self.address}: cannot accept a connection: {error}"))
            time.sleep(LOOK_UP_S)  # out of descriptors or memory: it stays in the queue
            return None
        name = _name(bound.address, peer)
        if self._tls is None or self._context is None:
            return Channel(sock, name, idle_s=idle_s)
        if len(self._pending) >= MAX_PENDING:
            self._replace_oldest()
        try:
            shake = Handshake(sock, self._tls, self._context, server_name=None, name=name)
        except HostError as error:  # the peer has reset the connection already
            self.refuse(error)
            return None
        self._pending[shake.fileno()] = _Pending(shake, time.monotonic())
        return None

    def _oldest(self) -> "_Pending":
        return next(iter(self._pending.values()))

    def _replace_oldest(self) -> None:
        oldest = self._oldest()
        self._drop(oldest, HostError(f"{oldest.shake.name}: too many connect without TLS"))

    def _drop(self, pending: "_Pending", error: HostError) -> None:
        """Reject a peer; what TLS tells it can be read for a moment."""
        del self._pending[pending.shake.fileno()]
        if pending.shake.is_plain:
            # TLS tells such a peer nothing; in its own protocol it learns what it lacks.
            why = HostError(
                "this destination speaks TLS: give the source its certificates (--tls-dir)"
            )
            pending.shake.answer_plainly(self._farewell(why))
        pending.shake.hang_up()
        self._leaving.append(_Pending(pending.shake, time.monotonic()))
        self._close_rejected(MAX_PENDING)
        self.refuse(error)

    def _close_rejected(self, most: int) -> None:
        """Close peers that were rejected a while ago, and the oldest of more than `most`."""
        while self._leaving and (self._leaving[0].age_s > FAREWELL_S or len(self._leaving) > most):
            self._leaving.popleft().shake.close()

    def _shake_hands(self, ready: set[int], idle_s: float) -> Channel | None:
        """Make progress with all handshakes; return the channel of the first that succeeds."""
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
                    raise HostError(f"{shake.name}: the peer did not finish its TLS handshake")
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
        self.refuse(error)
        return None

    def close(self) -> None:
        """As Listener."""
        for pending in self._pending.values():
            pending.shake.close()
        self._pending.clear()
        self._close_rejected(0)
        self.report_refusals()
        self._bound.close()


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
        """Return whether a new peer may take this one's place."""
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
            raise HostError(f"{self.address}: there is one stream, and it was used")
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
    """Listen at `address`; the other parameters as for SocketListener.

    Raises HostError if that is not possible, as when the address is in use, UsageError if TLS has
    no meaning.
    """
    if isinstance(address, TcpAddress | UnixAddress):
        return SocketListener(address, tls, refused, farewell)
    if tls is not None:
        raise UsageError(f"{address}: TLS needs a listener: tcp:HOST:PORT or unix:PATH")
    return ReadyListener(address)


def _bind(address: SocketAddress) -> _Bound:
    """Bind and listen. Raises HostError."""
    if isinstance(address, UnixAddress):
        try:
            file = SocketFile(address.path, "migration socket", _BACKLOG)
        except (HostError, UsageError) as error:
            raise HostError(f"{address}: cannot listen: {error}") from error
        file.socket.setblocking(False)
        return _Bound(file.socket, address, file)
    family, where = resolve(address)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)  # type: ignore[arg-type]
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        port: int = sock.getsockname()[1]
    except OSError as error:
        sock.close()
        raise HostError(f"{address}: cannot listen: {error}") from error
    return _Bound(sock, TcpAddress(address.host, port), None)
