"""Descriptors that a migration may use: fd:NUMBER from the parent process, fd:NAME from QMP.

A process has many descriptors, and a number says nothing about them. A stream that is written to
the wrong one overwrites guest RAM (its memfd), speaks into a control connection, or closes
standard output, whose number the next socket then takes: the guest's console would write into
that socket. So a VM's process takes over at its start what it inherited (`take_over_inherited`),
under numbers of its own, and from then on fd: means these, and what `getfd` brought, and nothing
else. Standard input, output and error are never among them.

A program that uses this package as a library passes its own descriptors, and knows them: until
`take_over_inherited`, fd:NUMBER is any descriptor of the process but those three.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tagalong._lazy import module_when_used
from tagalong.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tagalong.migrate.transport import address as addresses
    from tagalong.migrate.transport.address import FdAddress
else:
    addresses = module_when_used("tagalong.migrate.transport.address")

_DESCRIPTORS: Final = Path("/proc/self/fd")
_MAX_HELD: Final = 64
_STANDARD: Final = {0: "standard input", 1: "standard output", 2: "standard error"}


class DescriptorStore:
    """Open descriptors by name, each for one migration. From any thread."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._is_restricted = False
        self._lock = threading.Lock()

    def take_over_inherited(self) -> None:
        """Move every inherited descriptor but 0 to 2 to a number of our own, close-on-exec.

        To be called at the start of a process, before it opens anything without close-on-exec:
        what it opens itself (Python sets that flag) is then told from what it inherited. fd:NUMBER
        still means the number that the parent process gave. Raises HostError without /proc, or
        if the process has no numbers left.
        """
        try:
            for number in _inheritable():
                self._held[str(number)] = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
                os.close(number)
        except OSError as error:
            raise HostError(f"cannot take inherited descriptors over: {error.strerror}") from error
        self._is_restricted = True

    def add(self, name: str, descriptor: int) -> None:
        """Hold a descriptor under a name, as QMP's getfd does; one that had it is closed.

        It is the store's from now on. Raises UsageError for a name that is a number or no name,
        HostError if there are too many; the descriptor is the caller's then.
        """
        addresses.FdAddress.check_name(name)
        os.set_inheritable(descriptor, False)
        with self._lock:
            before = self._held.get(name)
            if before is None and len(self._held) >= _MAX_HELD:
                raise HostError(f"{_MAX_HELD} descriptors are held already: close one (closefd)")
            self._held[name] = descriptor
        if before is not None:
            os.close(before)

    def close(self, name: str) -> None:
        """Close a descriptor, as QMP's closefd does. Raises UsageError if none has the name."""
        with self._lock:
            descriptor = self._held.pop(name, None)
        if descriptor is None:
            raise UsageError(f"no descriptor is called {name}: see getfd")
        os.close(descriptor)

    def mode(self, address: FdAddress) -> int:
        """Return st_mode of a descriptor. Raises HostError if a migration must not use it."""
        return os.fstat(self._find(address)).st_mode

    def duplicate(self, address: FdAddress) -> int:
        """Return a duplicate, to look at. Raises HostError if a migration must not use it."""
        return os.dup(self._find(address))

    def take(self, address: FdAddress) -> int:
        """Return the descriptor, which is the caller's from now on, close-on-exec.

        It cannot be used a second time. Raises HostError if a migration must not use it.
        """
        with self._lock:
            descriptor = self._find(address)
            self._held.pop(address.name, None)
        os.set_inheritable(descriptor, False)
        return descriptor

    def _find(self, address: FdAddress) -> int:
        held = self._held.get(address.name)
        if held is not None:
            return held
        number = address.number
        if number is None:
            raise HostError(f"{address}: no descriptor has this name; pass one with getfd first")
        if number in _STANDARD:
            raise HostError(
                f"{address}: this is {_STANDARD[number]} of the process; let it inherit another "
                "descriptor, 3 or more"
            )
        if self._is_restricted or not _is_open(number):
            raise HostError(
                f"{address}: this process has inherited no such descriptor, or has used it; let "
                f"the parent process leave it open, as a shell does with {number}<>FILE"
            )
        return number


def _inheritable() -> Iterator[int]:
    """Yield the numbers of all descriptors but 0 to 2 that were not opened by this process."""
    numbers = sorted(int(name) for name in os.listdir(_DESCRIPTORS))
    for number in numbers:
        # The descriptor by which the folder was listed is among them, and closed by now.
        if number not in _STANDARD and _is_open(number) and os.get_inheritable(number):
            yield number


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


DESCRIPTORS: Final = DescriptorStore()
"""The descriptors of this process."""


def is_socket(address: FdAddress) -> bool:
    """Return whether the descriptor is a socket. Raises HostError as DescriptorStore.mode."""
    return stat.S_ISSOCK(DESCRIPTORS.mode(address))


def connected_socket(address: FdAddress) -> socket.socket:
    """Take a connected stream socket over; it is closed with what is returned.

    Raises HostError if it is not one, or as DescriptorStore.take; it can still be used then.
    """
    with socket.socket(fileno=DESCRIPTORS.duplicate(address)) as probe:
        try:
            probe.getpeername()
            kind = probe.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        except OSError as error:
            raise HostError(f"{address}: is not connected: {error.strerror}") from error
    if kind != socket.SOCK_STREAM:
        raise HostError(f"{address}: is not a stream socket")
    return socket.socket(fileno=DESCRIPTORS.take(address))


def take(address: FdAddress) -> int:
    """Take a pipe, a file or a terminal over; return the descriptor. Raises HostError."""
    return DESCRIPTORS.take(address)
