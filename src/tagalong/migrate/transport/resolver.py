"""Turns the names of addresses into what the system connects to."""

import socket
import threading
import time
from ipaddress import ip_address
from typing import Final

from tagalong.errors import HostError
from tagalong.migrate.transport.address import SocketAddress, TcpAddress, UnixAddress
from tagalong.migrate.transport.channel import Interrupt

_LOOK_UP_S: Final = 0.1

Resolved = list[tuple[int, object]]
"""Families and system addresses to try, in order."""


def resolve(address: SocketAddress) -> Resolved:
    """Look up an address, for as long as the system waits for name servers. Raises HostError."""
    if isinstance(address, UnixAddress):
        return [(socket.AF_UNIX, str(address.path))]
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise HostError(f"{address}: cannot find the host: {error}") from error
    return [(family, where) for family, _, _, _, where in found]


def _is_numeric(address: TcpAddress) -> bool:
    try:
        ip_address(address.host)
    except ValueError:
        return False
    return True


def resolve_in_time(address: SocketAddress, deadline: float, interrupt: Interrupt) -> Resolved:
    """`resolve`, until a deadline (of time.monotonic()); `interrupt` is called meanwhile.

    The system's lookup can be neither limited nor interrupted, so it has a thread of its own, which
    is left alone when this gives up on it. Raises HostError also if the time is up.
    """
    if isinstance(address, UnixAddress) or _is_numeric(address):
        return resolve(address)  # no server is asked
    found: Resolved = []
    failures: list[HostError] = []

    def look_up() -> None:
        try:
            found.extend(resolve(address))
        except HostError as error:
            failures.append(error)

    thread = threading.Thread(target=look_up, name="resolver", daemon=True)
    thread.start()
    while thread.is_alive():
        interrupt()
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise HostError(f"{address}: cannot find the host: no name server has answered in time")
        thread.join(min(left_s, _LOOK_UP_S))
    if failures:
        raise failures[0]
    return found
