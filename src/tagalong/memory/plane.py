"""One plane of a region: a memfd mapped shared, with a numpy view of it.

Lifetime rule: close() closes the descriptor and forgets the view. The mapping itself goes
when the last numpy array that looks into it goes, so an array that outlives the plane stays
valid memory, with its pages in use; it never dangles, and close() never fails
because of it. A raw pointer taken from the array does not count as a look into it:
native code that was given one must have stopped using it before close().
"""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from typing import TYPE_CHECKING, Protocol

from tagalong._lazy import module_when_used
from tagalong._native import library
from tagalong.errors import HostError, RunStateError
from tagalong.memory.extents import file_extents
from tagalong.memory.huge_pages import allocate_huge_pages, map_shared
from tagalong.memory.reserve import take_reserved

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
else:
    np = module_when_used("numpy")

# A process that is given the descriptor cannot change the size of the file: a shorter file
# would turn accesses to the mapping into SIGBUS.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


# A store of so much is a system call: what it costs is little beside the page faults that it saves.
_WRITTEN_BYTES = 64 << 10


def _new_memfd(name: str) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


class AnyPlane(Protocol):
    """What a region needs of a plane; `Plane` says what each method promises."""

    was_reserved: bool

    @property
    def is_of_file(self) -> bool:
        """Return whether the plane began as the content of a file."""
        ...

    @property
    def fd(self) -> int:
        """Return the file that backs the plane. Raises HostError if no file does."""
        ...

    @property
    def size_bytes(self) -> int:
        """Return how large it is, also after close()."""
        ...

    @property
    def buffer(self) -> memoryview:
        """Return the whole plane as writable bytes, as `array` does, without loading numpy."""
        ...

    @property
    def array(self) -> NDArray[np.uint8]:
        """Return the whole plane as a writable view."""
        ...

    def write(self, offset: int, data: memoryview) -> None:
        """Copy all of `data`, bytes, to byte `offset`; the caller has checked both."""
        ...

    def expect(self, offset: int, length_bytes: int) -> None:
        """Prepare for a range that is going to be written whole; the caller has checked it."""
        ...

    def read_into(self, target: NDArray[np.uint8], offset: int) -> None:
        """Copy bytes from `offset` on until `target` is full; holes stay holes."""
        ...

    def read_pages_into(
        self, target: NDArray[np.uint8], page_bytes: int, pages: NDArray[np.int64]
    ) -> None:
        """Copy pages of `page_bytes`, given by number, until `target` is full."""
        ...

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield the byte ranges [start, stop) that are not holes, in order."""
        ...

    def used_pages(self, start: int, page_bytes: int, count: int) -> NDArray[np.bool_]:
        """Return, for `count` pages from byte `start` on, whether each is no hole."""
        ...

    def close(self) -> None:
        """Give the plane up. Safe to call twice."""
        ...


class Plane:
    """Shared memory of `size_bytes`, all holes at first, or reserved and all zero.

    Memory of just this size that was reserved (reserve.py) is taken: `was_reserved`.
    `name` is for people: it shows in /proc/PID/maps and in error messages. Raises HostError
    if the host lacks the memory.
    """

    is_of_file = False

    def __init__(self, name: str, size_bytes: int) -> None:
        self._name = name
        self.size_bytes = size_bytes
        try:
            reserved = take_reserved(size_bytes)
            self.was_reserved = reserved is not None
            self._fd, mapping = reserved or (_new_memfd(name), None)
            # close() calls it, or else the garbage collector: no descriptor leaks.
            self._close_fd = weakref.finalize(self, os.close, self._fd)
            os.ftruncate(self._fd, size_bytes)
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)
            buffer = memoryview(mapping) if mapping else map_shared(self._fd, size_bytes)
        except OSError as error:
            raise HostError(
                f"cannot create {size_bytes:#x} bytes of shared memory for {name}: {error}"
            ) from error
        self._buffer: memoryview | None = buffer
        self._array: NDArray[np.uint8] | None = None

    @property
    def fd(self) -> int:
        """Return the memfd, close-on-exec. Raises RunStateError after close()."""
        self._require_open()
        return self._fd

    @property
    def buffer(self) -> memoryview:
        """Return the whole plane as writable bytes. Raises RunStateError after close()."""
        return self._require_open()

    @property
    def array(self) -> NDArray[np.uint8]:
        """Return the whole plane, shape (size_bytes,), as a writable view.

        Reading a hole through it fills the hole. Raises RunStateError after close().
        """
        array = self._array
        if array is None:  # made at its first use: a VM starts without numpy
            array = self._array = np.frombuffer(self._require_open(), np.uint8)
        return array

    def write(self, offset: int, data: memoryview) -> None:
        """Copy all of `data`, bytes, to byte `offset`; the caller has checked both.

        Much is written by the descriptor: the kernel fills pages that are holes without a fault
        per page. Raises RunStateError after close().
        """
        done = 0
        while data.nbytes - done >= _WRITTEN_BYTES:
            try:
                done += os.pwrite(self.fd, data[done:], offset + done)
            except OSError:  # a limit on the size of files, which no mapping knows
                break
        self._require_open()[offset + done : offset + data.nbytes] = data[done:]

    def expect(self, offset: int, length_bytes: int) -> None:
        """Allocate huge pages for a range of holes that is going to be written whole.

        As far as the host has them, and not at all if some of the range is in use. The caller has
        checked the range. Raises RunStateError after close(), HostError if the host cannot tell.
        """
        buffer = self._require_open()
        used = self._seek_data(offset)
        if used is None or used >= offset + length_bytes:
            allocate_huge_pages(self._fd, buffer, offset, offset + length_bytes)

    def read_into(self, target: NDArray[np.uint8], offset: int) -> None:
        """Copy bytes from `offset` on until `target` is full; the caller has checked both.

        Holes read as zero and stay holes, which is the difference to reading `array`.
        Raises RunStateError after close(), HostError if the host cannot read.
        """
        done = self._read_some(target, offset)
        while done < target.size:
            done += self._read_some(target[done:], offset + done)

    def _read_some(self, target: NDArray[np.uint8], offset: int) -> int:
        try:
            return os.preadv(self.fd, [target.data], offset)
        except OSError as error:
            raise HostError(f"preadv of {self._name} at {offset:#x} failed: {error}") from error

    def read_pages_into(
        self, target: NDArray[np.uint8], page_bytes: int, pages: NDArray[np.int64]
    ) -> None:
        """Copy pages of `page_bytes`, given by number, until `target` is full.

        As `read_into`, for pages that may be anywhere in the plane: the caller has checked
        them, and that `target` has room for just them.
        """
        numbers = np.ascontiguousarray(pages, np.int64)
        error = library().ta_read_pages(
            self.fd, page_bytes, numbers.ctypes.data, numbers.size, target.ctypes.data
        )
        if error:
            raise HostError(f"reading pages of {self._name} failed: {os.strerror(-error)}")

    def extents(self) -> Iterator[tuple[int, int]]:
        """Return the byte ranges [start, stop) that are not holes, in order.

        Touches no memory. Every start is a multiple of the host's page size. Raises
        RunStateError after close(), HostError if the host cannot tell.
        """
        return file_extents(self.fd, 0, self.size_bytes, self._name)

    def used_pages(self, start: int, page_bytes: int, count: int) -> NDArray[np.bool_]:
        """Return, for `count` pages from byte `start` on, whether each is no hole.

        For a few pages: the kernel walks to an extent's end to find it, so `extents` costs
        what all pages cost, and this a system call for each page that is used. Touches no
        memory. Raises as `extents` does.
        """
        used = np.zeros(count, np.bool_)
        page = 0
        while page < count:
            found = self._seek_data(start + page * page_bytes)
            if found is None:
                break
            page = (found - start) // page_bytes
            if page < count:
                used[page] = True
            page += 1
        return used

    def _seek_data(self, offset: int) -> int | None:
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return None
            raise HostError(f"lseek of {self._name} at {offset:#x} failed: {error}") from error

    def close(self) -> None:
        """Close the descriptor and forget the view (see the module). Safe to call twice."""
        self._buffer = self._array = None
        self._close_fd()

    def _require_open(self) -> memoryview:
        if self._buffer is None:
            raise RunStateError(f"guest memory {self._name} is closed")
        return self._buffer
