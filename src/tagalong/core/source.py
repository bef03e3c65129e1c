"""The bytes of a core file, wherever they are: `FileSource` maps a plain file.

(`compressed.SeekableSource` reads the compressed form.)
"""

import mmap
import os
import stat
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import HostError, RunStateError


class Source(Protocol):
    """The bytes of a core, from 0 to `size`."""

    @property
    def size(self) -> int:
        """Return the size in bytes, uncompressed."""
        ...

    @property
    def fd(self) -> int | None:
        """Return a descriptor whose offsets are the core's own, None if there is no such file."""
        ...

    def view(self, offset: int, length: int) -> NDArray[np.uint8]:
        """Return bytes that lie inside the source, shape (length,), read-only.

        Raises RunStateError after close().
        """
        ...

    def close(self) -> None:
        """Give the file up. Safe to call twice; arrays taken before stay valid."""
        ...


class FileSource:
    """A file, mapped: arrays look into it without a copy and outlive `close`.

    If the file is cut short while it is mapped, reading there ends the process (SIGBUS), as
    with every mapped file: replace cores, do not change them.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise HostError(f"cannot open {path}: it is no regular file; give a core file")
            self.size = status.st_size
            self._bytes = _mapped(fd, self.size)
        except (OSError, ValueError) as error:
            raise HostError(f"cannot map the core {path}: {error}") from error

    @property
    def fd(self) -> int:
        """Return the file's descriptor."""
        return self._fd

    def view(self, offset: int, length: int) -> NDArray[np.uint8]:
        """Return bytes of the file without a copy. Raises RunStateError after close()."""
        if self._fd < 0:
            raise RunStateError("this core is closed")
        return self._bytes[offset : offset + length]

    def close(self) -> None:
        """Close the descriptor; the mapping goes with the last array that looks into it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._bytes = self._bytes[:0].copy()


def allocate(size_bytes: int) -> NDArray[np.uint8]:
    """Return new memory, not cleared. Raises HostError if the host lacks it."""
    try:
        return np.empty(size_bytes, np.uint8)
    except (MemoryError, ValueError) as error:
        raise HostError(
            f"the host has no {size_bytes:#x} bytes of memory for a part of a core: read less"
        ) from error


def _mapped(fd: int, size: int) -> NDArray[np.uint8]:
    if not size:  # what mmap refuses, and is a file like any other to a parser
        return np.empty(0, np.uint8)
    return np.frombuffer(mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ), np.uint8)
