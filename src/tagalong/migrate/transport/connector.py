"""Connects to a destination: the source's end of every kind of connection."""

import os
import select
import socket
import time

from tagalong.errors import AuthenticationError, HostError, UsageError
from tagalong.migrate.transport.address import (
    Address,
    FdAddress,
    TcpAddress,
    UnixAddress,
)
from tagalong.migrate.transport.channel import (
    Channel,
    Interrupt,
    never,
    shares_host,
    wait_ready,
)
from tagalong.migrate.transport.inherited import connected_socket, is_socket
from tagalong.migrate.transport.resolver import resolve_in_time
from tagalong.migrate.transport.tls import Handshake, TlsCredentials, TlsRole

_UNIX_BUFFER_BYTES = 4 << 20
_WINDOW_BYTES = 3 << 20
_LOCAL_BUFFER_BYTES = 512 << 10


def is_one_way(address: Address) -> bool:
    """Return whether the address is a file, a command or a pipe, where no peer answers."""
    if isinstance(address, FdAddress):
        return not is_socket(address)
    return not isinstance(address, TcpAddress | UnixAddress)


def connect(
    address: Address,
    *,
    timeout_s: float,
    idle_s: float,
    interrupt: Interrupt = never,
    tls: TlsCredentials | None = None,
) -> Channel:
    """Connect to a destination that answers, and return the channel.

    Raises HostError if nothing listens there or no answer comes in `timeout_s`,
    AuthenticationError if the peer does not prove what `tls` asks of it, UsageError for TLS
    without a host name to prove. Nothing is left open then.
    """
    deadline = time.monotonic() + timeout_s
    sock = _connected(address, deadline, interrupt)
    if tls is None:
        return Channel(sock, str(address), idle_s=idle_s)
    return _secured(sock, address, tls, deadline, interrupt).channel(idle_s=idle_s)


def _connected(address: Address, deadline: float, interrupt: Interrupt) -> socket.socket:
    if isinstance(address, FdAddress):
        return connected_socket(address)
    assert isinstance(address, TcpAddress | UnixAddress)  # noqa: S101 (all others go one way)
    failure: OSError | None = None
    for family, where in resolve_in_time(address, deadline, interrupt):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            _connect(sock, where, deadline, interrupt)
            tune(sock)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    reason = getattr(failure, "strerror", None) or failure
    raise HostError(
        f"{address}: cannot connect: {reason}; see whether a destination waits there"
    ) from failure


def _connect(sock: socket.socket, where: object, deadline: float, interrupt: Interrupt) -> None:
    sock.setblocking(False)
    try:
        sock.connect(where)  # type: ignore[arg-type]
    except BlockingIOError:
        if not wait_ready(sock.fileno(), select.POLLOUT, deadline, interrupt):
            raise TimeoutError("no answer in time") from None
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None


def tune(sock: socket.socket) -> None:
    """Set what a migration's socket needs."""
    if sock.family == socket.AF_UNIX:
        # By default it holds a fifth of a batch. TCP's buffers grow by themselves, unless a
        # size is set.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNIX_BUFFER_BYTES)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel makes the receive window as large as what a reader waits for, and leaves it.
        # Without this it would fit the small portions that are awaited later, and both ends would
        # take turns instead of working side by side.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _WINDOW_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        if shares_host(sock):
            # What is under way stays in the processor's cache. A way through a network must hold
            # more, which the kernel finds out by itself.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LOCAL_BUFFER_BYTES)


def _secured(
    sock: socket.socket,
    address: Address,
    tls: TlsCredentials,
    deadline: float,
    interrupt: Interrupt,
) -> Handshake:
    expected = tls.hostname or (address.host if isinstance(address, TcpAddress) else None)
    try:
        if expected is None:
            raise UsageError(
                f"{address}: TLS needs the name of the host that must answer there (--tls-hostname)"
            )
        context = tls.context(TlsRole.CLIENT)
    except BaseException:
        sock.close()
        raise
    handshake = Handshake(sock, tls, context, server_name=expected, name=str(address))
    try:
        while (event := handshake.step()) is not None:
            if not wait_ready(handshake.fileno(), event, deadline, interrupt):
                raise HostError(f"{address}: the TLS handshake took too long")
        if (objection := handshake.objection()) is not None:
            raise AuthenticationError(objection)
    except BaseException:
        handshake.close()
        raise
    return handshake
