"""Requests of a driver: chains of buffers in guest RAM, which native code has checked.

The walk over descriptors, and what it refuses of a hostile driver, is native/virtio/queue.c. Its
buffers stay an array of native structs here: nothing is done once per buffer in Python.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from tagalong._native import Buffer, VirtqChain, library
from tagalong.devices.virtio.ram import GuestRam, RingError, address_of

_BUFFER_BYTES = ctypes.sizeof(Buffer)


@cache
def _array_of(kind: Any, count: int) -> Any:
    """Return the type of an array; ctypes would make it anew each time."""
    return kind * count


class Buffers:
    """The readable or the writable buffers of a chain as one row of bytes.

    They are `count` `struct ta_buffer` at `address`, which are in `owner`.
    """

    def __init__(
        self, ram: GuestRam, owner: object, address: int, count: int, size_bytes: int
    ) -> None:
        self.size_bytes = size_bytes
        self.count = count
        self.address = address
        self._ram = ram
        self._owner = owner

    def part(self, start: int, length_bytes: int) -> "Buffers":
        """Return a part of them. Raises RingError if they are shorter."""
        self._require(start + length_bytes)
        owner = bytearray(_BUFFER_BYTES * self.count)
        address = address_of(owner)
        count = library().ta_buffers_part(self.address, self.count, start, length_bytes, address)
        return Buffers(self._ram, owner, address, count, length_bytes)

    def read(self, start: int = 0, length_bytes: int | None = None) -> bytes:
        """Return a copy of a part, all by default; the caller has bounded the size.

        Raises RingError if they are shorter.
        """
        size = self.size_bytes - start if length_bytes is None else length_bytes
        self._require(start + size)
        copy = bytearray(size)
        library().ta_buffers_read(self.address, self.count, start, size, address_of(copy))
        return bytes(copy)

    def write(self, data: bytes) -> None:
        """Store `data` at the start. Raises RingError if it does not fit."""
        self._require(len(data))
        target = self if len(data) == self.size_bytes else self.part(0, len(data))
        with target.storing():
            library().ta_buffers_write(target.address, target.count, data, len(data))

    def read_file(self, descriptor: int, position: int) -> None:
        """Fill them with what is at `position` of a file. Raises OSError, also at its end."""
        with self.storing():
            self._transfer(descriptor, position, is_write=False)

    def write_file(self, descriptor: int, position: int) -> None:
        """Write them to `position` of a file. Raises OSError; a part may be written then."""
        self._transfer(descriptor, position, is_write=True)

    def storing(self) -> AbstractContextManager[None]:
        """Mark their pages in the dirty log before and after the block stores to them."""
        return self._ram.storing(self.address, self.count)

    def _transfer(self, descriptor: int, position: int, *, is_write: bool) -> None:
        result = library().ta_buffers_transfer(
            descriptor, self.address, self.count, position, is_write
        )
        if result == -errno.ENODATA:
            raise OSError(errno.EIO, "the file ends before the disk")
        if result:
            raise OSError(-result, os.strerror(-result))

    def _require(self, size_bytes: int) -> None:
        if size_bytes > self.size_bytes:
            raise RingError(
                f"a request needs {size_bytes} bytes, its buffers have {self.size_bytes}"
            )


class Chain:
    """A request: `head` names it in the used ring; `readable` comes from the driver."""

    def __init__(self, head: int, readable: Buffers, writable: Buffers) -> None:
        self.head = head
        self.readable = readable
        self.writable = writable


class RequestBatch:
    """Requests that were taken at once, at most `most`, with `room` for their buffers.

    `written` takes how many bytes the device stored to each. `is_all`: there are no further ones.
    """

    def __init__(self, ram: GuestRam, most: int, room: int) -> None:
        self.ram = ram
        self.count = 0
        self.is_all = False
        self.chains = _array_of(VirtqChain, most)()
        self.buffers = _array_of(Buffer, room)()
        self.written = _array_of(ctypes.c_uint32, most)()

    def __getitem__(self, number: int) -> Chain:
        """Return a request; the first has number 0."""
        if not 0 <= number < self.count:
            raise IndexError(number)
        found = self.chains[number]
        owner, count = self.buffers, found.readable
        readable = ctypes.addressof(owner) + found.first * _BUFFER_BYTES
        writable = readable + count * _BUFFER_BYTES
        return Chain(
            found.head,
            Buffers(self.ram, owner, readable, count, found.readable_bytes),
            Buffers(self.ram, owner, writable, found.writable, found.writable_bytes),
        )

    def __iter__(self) -> Iterator[Chain]:
        """Yield all requests in their order."""
        return (self[number] for number in range(self.count))
