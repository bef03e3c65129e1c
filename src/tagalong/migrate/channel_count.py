"""How many connections are right for a migration whose operator names no number.

More connections help as long as both ends have processors for them, and until they fill the link.
Each costs a thread at both ends and an exchange of records in set-up, which a small guest does not
earn back. So the source asks for as many as its processors, the link and the guest are good for,
and the destination grants as many of them as it has processors (docs/formats/stream.md, section 6,
`AUTO_CHANNELS`).

    guest     one per 128 MiB in use
    processors of both ends: one each, at most 8
    link      no limit within a host; else one per 10 Gbit/s, and at least 2: what is lost on
              one connection does not stop the other; 4 if the speed is not known
"""

import contextlib
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

from tagalong.errors import TagalongError
from tagalong.machine import Machine
from tagalong.memory import Region

_MOST: Final = 8
_BYTES_EACH: Final = 128 << 20

_MBIT_EACH: Final = 10_000
_LEAST_ON_A_LINK: Final = 2
_ON_AN_UNKNOWN_LINK: Final = 4

_INTERFACES: Final = Path("/sys/class/net")
_IPV6_ADDRESSES: Final = Path("/proc/net/if_inet6")
_BLOCK_BYTES: Final = 512  # of st_blocks, stat(2)

# Linux, include/uapi/linux/sockios.h and if.h: struct ifreq is a name and, here, a sockaddr_in.
_SIOCGIFADDR: Final = 0x8915
_IFREQ: Final = struct.Struct("=16s4x4s16x")


def usable_cpus() -> int:
    """Return how many processors this thread may use."""
    return len(os.sched_getaffinity(0))


def take_all_cpus(channels: int) -> bool:
    """Return whether so many connections within a host keep all of its processors busy.

    Then each receiver runs where its sender does (native/cpus.c); both ends decide by this.
    """
    return channels >= usable_cpus()


def count_to_ask_for(machine: Machine, sock: socket.socket) -> int:
    """Return how many connections a source should ask for; `sock` is the first of them.

    Tags alone are little: they go over one.
    """
    if not machine.description.has_data:
        return 1
    used_bytes = sum(_used_bytes(region) for region in machine.memory.regions)
    return max(1, min(count_to_grant(), _count_for_link(sock), used_bytes // _BYTES_EACH))


def count_to_grant() -> int:
    """Return how many connections an end is good for, whatever the other end and the guest are."""
    return min(_MOST, usable_cpus())


def _used_bytes(region: Region) -> int:
    """Return how much memory a region has in use, at most, without a look at its pages."""
    with contextlib.suppress(TagalongError):  # no file backs it
        return min(region.size_bytes, os.fstat(region.data_fd).st_blocks * _BLOCK_BYTES)
    return region.size_bytes


def _count_for_link(sock: socket.socket) -> int:
    if sock.family == socket.AF_UNIX:
        return _MOST
    try:
        here, there = sock.getsockname()[0], (sock.getpeername() or ("",))[0]
    except OSError:  # it is gone, which whoever uses it next will say
        return 1
    if here == there:
        return _MOST
    speed = link_speed_mbit(here)
    if speed is None:
        return _ON_AN_UNKNOWN_LINK
    return max(_LEAST_ON_A_LINK, -(-speed // _MBIT_EACH))


def link_speed_mbit(address: str) -> int | None:
    """Return the speed of the interface that has `address`, an IPv4 or IPv6 one, in Mbit/s.

    None if no interface has it, or its driver does not tell the speed, as those of most virtual
    ones do not.
    """
    for name in _names_of(address):
        with contextlib.suppress(OSError, ValueError):
            speed = int((_INTERFACES / name / "speed").read_text())
            if speed > 0:
                return speed
    return None


def _names_of(address: str) -> list[str]:
    """Return the names of the interfaces that have an address."""
    try:
        wanted = socket.inet_pton(socket.AF_INET, address)
    except OSError:
        return _names_of_ipv6(address)
    names = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no IPv4 address
                request = _IFREQ.pack(name.encode(), bytes(4))
                answer = fcntl.ioctl(sock, _SIOCGIFADDR, request)
                if _IFREQ.unpack(answer)[1] == wanted:
                    names.append(name)
    return names


def _names_of_ipv6(address: str) -> list[str]:
    """Return the names that /proc/net/if_inet6 has for an address, which may name a zone."""
    try:
        wanted = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]).hex()
        lines = _IPV6_ADDRESSES.read_text().splitlines()
    except OSError:  # no address, or a host without IPv6
        return []
    fields = [line.split() for line in lines]
    return [each[-1] for each in fields if each[0] == wanted]
