"""Opens what a guest is made of: regular files of bounded size, without ever waiting for one."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tagalong.errors import GuestImageError, HostError


class BoundedFile:
    """A regular file that is open for reading, and its size then; `what` names it in errors."""

    def __init__(self, path: Path, what: str, file: BinaryIO) -> None:
        self.size_bytes = os.fstat(file.fileno()).st_size
        self.doing = _doing(path, what)
        self._file = file

    def head(self, most_bytes: int) -> bytes:
        """Return the first bytes. Raises GuestImageError if they cannot be read."""
        with _named(self.doing):
            return os.pread(self._file.fileno(), most_bytes, 0)

    def read_into(self, target: memoryview) -> None:
        """Fill `target`, of `size_bytes`. Raises GuestImageError if the file has fewer."""
        done = 0
        while done < self.size_bytes:
            with _named(self.doing):
                count = os.preadv(self._file.fileno(), [target[done:]], done)
            if not count:
                raise GuestImageError(f"{self.doing}: it was cut short while it was read")
            done += count


@contextmanager
def opened(path: Path, what: str, most_bytes: int) -> Iterator[BoundedFile]:
    """Yield the regular file `path`, of at most `most_bytes`.

    `what` names it in errors, as in "kernel". A device or a FIFO has no end, or none that comes by
    itself. Raises GuestImageError if it cannot be read.
    """
    doing = _doing(path, what)
    with _named(doing):
        # O_NONBLOCK: opening a FIFO would wait for a writer. Files know no such wait.
        file = open(path, "rb", opener=_open_nonblocking)  # noqa: SIM115 (closed below)
    with file:
        _require_bounded(os.fstat(file.fileno()), doing, most_bytes)
        yield BoundedFile(path, what, file)


def read_bounded(path: Path, what: str, most_bytes: int) -> bytes:
    """Return the content of a file. Raises as `opened`, and HostError without memory for it."""
    with opened(path, what, most_bytes) as file:
        return read_all(file)


def read_all(file: BoundedFile) -> bytes:
    """Return the content of an open file. Raises as `read_bounded`."""
    try:
        content = bytearray(file.size_bytes)
        file.read_into(memoryview(content))
        return bytes(content)
    except MemoryError as error:
        raise HostError(f"{file.doing}: no memory for it") from error


@contextmanager
def _named(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GuestImageError(f"{doing}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise GuestImageError(f"{doing}: {error}") from error


def _doing(path: Path, what: str) -> str:
    name = repr(str(path)) if "\0" in str(path) else path
    return f"cannot read the {what} {name}"


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _require_bounded(status: os.stat_result, doing: str, most_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise GuestImageError(f"{doing}: it is not a regular file; give a file")
    if not status.st_size:
        raise GuestImageError(f"{doing}: it is empty")
    if status.st_size > most_bytes:
        raise GuestImageError(
            f"{doing}: it has {status.st_size} bytes, and at most {most_bytes} are read"
        )
