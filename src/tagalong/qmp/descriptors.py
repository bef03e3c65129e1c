"""Receives descriptors that a client sends along with a command (SCM_RIGHTS, unix(7)).

QMP's getfd takes a descriptor that came with its own bytes. A descriptor is a resource of the
receiving process from the moment of recvmsg(2), whoever sent it, so every one of them has an owner
here at every time: they arrive close-on-exec and at most 16 at once (the kernel closes the rest);
those that came with a message which does not take them are closed when it was answered; and a
client that goes away takes what is left with it.

asyncio reads with recv(2), which discards descriptors. It reads from the socket object that it is
given, so the object's own `recv` collects them on the way.
"""

import array
import os
import socket
from typing import Any, Final, Protocol

MAX_RECEIVED: Final = 16

_INT: Final = array.array("i").itemsize


class DescriptorSource(Protocol):
    """Descriptors that came with a command and wait to be taken."""

    def take(self) -> int | None:
        """Return the first one, which is the caller's from now on; None if there is none."""
        ...

    def drop(self) -> None:
        """Close those that are left."""
        ...


class NoDescriptors:
    """The descriptors of a client that can send none."""

    def take(self) -> int | None:
        """Return None."""
        return None

    def drop(self) -> None:
        """Do nothing."""


class DescriptorSocket(socket.socket):
    """A connection that collects the descriptors which come with what is read from it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._received: list[int] = []

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Read bytes, and add the descriptors that come along to those that can be taken."""
        space = socket.CMSG_SPACE(MAX_RECEIVED * _INT)
        data, ancillary, _, _ = self.recvmsg(size, space, flags | socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._received += array.array("i", content[: len(content) // _INT * _INT])
        return data

    def take(self) -> int | None:
        """As DescriptorSource.take."""
        return self._received.pop(0) if self._received else None

    def drop(self) -> None:
        """As DescriptorSource.drop."""
        while (descriptor := self.take()) is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Close the connection, and what came over it and was not taken."""
        self.drop()
        super().close()
