"""A source that gives up at once, to end a destination that waits for one."""

import socket
from contextlib import suppress

from tagalong import wire
from tagalong.migrate import Address, TcpAddress, UnixAddress


def greeting() -> bytes:
    """Return a source's stream up to its HELLO."""
    return said(wire.Hello(wire.Role.SOURCE, bytes(16)))


def said(*records: wire.Record, joining: wire.Joining | None = None) -> bytes:
    """Return the stream of a source that says these records."""
    connection = wire.Connection(wire.Role.SOURCE, joining=joining)
    return b"".join(bytes(part) for record in records for part in connection.send(record))


def ring_off(address: Address) -> None:
    """Let the destination at `address` end, if it is still waiting for a source.

    One that is further does not notice. Whoever broke a connection before its HELLO was whole
    has to do this: the destination has turned that away and waits for another.
    """
    abort = wire.Abort(wire.AbortReason.CANCELLED, "no source will come")
    with suppress(OSError), call(address) as sock:
        sock.sendall(said(wire.Hello(wire.Role.SOURCE, bytes(16)), abort))
        sock.shutdown(socket.SHUT_WR)


def call(address: Address, timeout_s: float = 5.0) -> socket.socket:
    """Return a socket that is connected to a listener. Raises OSError."""
    if isinstance(address, TcpAddress):
        return socket.create_connection((address.host, address.port), timeout=timeout_s)
    assert isinstance(address, UnixAddress)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout_s)
        sock.connect(str(address.path))
    except OSError:
        sock.close()
        raise
    return sock
