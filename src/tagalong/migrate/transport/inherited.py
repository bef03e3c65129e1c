"""Descriptors that a process was started with (fd:NUMBER): what they are, and taking them."""

import os
import socket
import stat

from tagalong.errors import HostError
from tagalong.migrate.transport.address import FdAddress


def is_socket(address: FdAddress) -> bool:
    """Return whether the descriptor is a socket. Raises HostError if there is none."""
    return stat.S_ISSOCK(_mode(address))


def connected_socket(address: FdAddress) -> socket.socket:
    """Take a connected stream socket over; it is closed with what is returned.

    Raises HostError if it is none; the descriptor stays open then.
    """
    sock = socket.socket(fileno=address.number)
    try:
        sock.getpeername()
        kind = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    except OSError as error:
        sock.detach()
        raise HostError(f"{address}: is not connected: {error.strerror}") from error
    if kind != socket.SOCK_STREAM:
        sock.detach()
        raise HostError(f"{address}: is no stream socket")
    return sock


def take(address: FdAddress) -> int:
    """Take a pipe, a file or a terminal over; return the descriptor. Raises HostError."""
    _mode(address)
    return address.number


def _mode(address: FdAddress) -> int:
    try:
        return os.fstat(address.number).st_mode
    except OSError as error:
        raise HostError(
            f"{address}: this process has no such descriptor ({error.strerror}): it must be "
            "inherited by the process that runs the VM"
        ) from error
