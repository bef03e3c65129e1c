"""Finds the guest program that a command names, and reads it."""

import os
import stat
from pathlib import Path
from typing import Final

from tagalong.boot import guest_image_path
from tagalong.errors import GuestImageError, HostError

MAX_IMAGE_BYTES: Final = 256 << 20
"""The largest guest program that is read: a kernel with its initial RAM disk is far smaller."""


def read_guest(name: str) -> bytes:
    """Return the image of a built-in guest, or of a file if `name` looks like a path.

    A path has a slash in it or ends in .elf. Only a regular file of at most MAX_IMAGE_BYTES is
    read: a device or a FIFO has no end, or none that comes by itself. Raises GuestImageError if
    it cannot be read, HostError if the host has no memory for it.
    """
    path = Path(name) if "/" in name or name.endswith(".elf") else guest_image_path(name)
    try:
        # O_NONBLOCK: opening a FIFO would wait for a writer. Files know no such wait.
        with open(path, "rb", opener=_open_nonblocking) as file:
            return file.read(_size_bytes(path, os.fstat(file.fileno())))
    except OSError as error:
        raise GuestImageError(f"cannot read the guest program {path}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise GuestImageError(f"cannot read the guest program {name!r}: {error}") from error
    except MemoryError as error:
        raise HostError(f"cannot read the guest program {path}: no memory for it") from error


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _size_bytes(path: Path, status: os.stat_result) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise GuestImageError(
            f"cannot read the guest program {path}: it is not a regular file; give an ELF file"
        )
    if status.st_size > MAX_IMAGE_BYTES:
        raise GuestImageError(
            f"cannot read the guest program {path}: it has {status.st_size:#x} bytes, at most "
            f"{MAX_IMAGE_BYTES:#x} are read"
        )
    return status.st_size
