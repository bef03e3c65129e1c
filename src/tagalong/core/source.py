"""The bytes of a core file, wherever they are: `FileSource` maps a plain file.

(`compressed.SeekableSource` reads the compressed form.)
"""

from __future__ import annotations

import mmap
import os
import stat
from typing import TYPE_CHECKING, Final, Protocol

from tagalong._lazy import module_when_used
from tagalong.errors import HostError, RunStateError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
else:
    np = module_when_used("numpy")

ZSTD_MAGIC: Final = 0xFD2F_B528
SKIPPABLE_MAGIC: Final = 0x184D_2A5E
_MAGIC_BYTES: Final = 4
_SKIPPABLE_MASK: Final = 0xFFFF_FFF0


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

    def raw(self, offset: int, length: int) -> memoryview:
        """Return bytes that lie inside the source, read-only.

        Raises RunStateError after close().
        """
        ...

    def view(self, offset: int, length: int) -> NDArray[np.uint8]:
        """Return bytes as `raw` does, as an array of shape (length,)."""
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

    def raw(self, offset: int, length: int) -> memoryview:
        """Return bytes of the file without a copy. Raises RunStateError after close()."""
        if self._fd < 0:
            raise RunStateError("this core is closed")
        return self._bytes[offset : offset + length]

    def view(self, offset: int, length: int) -> NDArray[np.uint8]:
        """Return bytes as `raw` does, as an array of shape (length,)."""
        return np.frombuffer(self.raw(offset, length), np.uint8)

    def close(self) -> None:
        """Close the descriptor; the mapping goes with the last array that looks into it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._bytes = memoryview(b"")


def is_compressed(file: FileSource) -> bool:
    """Return whether a file starts as a zstd frame or a skippable frame does."""
    if file.size < _MAGIC_BYTES:
        return False
    magic = int.from_bytes(file.raw(0, _MAGIC_BYTES), "little")
    return magic == ZSTD_MAGIC or magic & _SKIPPABLE_MASK == SKIPPABLE_MAGIC & _SKIPPABLE_MASK


def allocate(size_bytes: int) -> NDArray[np.uint8]:
    """Return new memory, not cleared. Raises HostError if the host lacks it."""
    try:
        return np.empty(size_bytes, np.uint8)
    except (MemoryError, ValueError) as error:
        raise HostError(
            f"the host has no {size_bytes:#x} bytes of memory for a part of a core: read less"
        ) from error


def _mapped(fd: int, size: int) -> memoryview:
    if not size:  # what mmap refuses, and is a file like any other to a parser
        return memoryview(b"")
    return memoryview(mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ))
