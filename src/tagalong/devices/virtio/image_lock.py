"""Who may open a disk image: the byte locks that QEMU takes (block/file-posix.c).

Each use of an image is a byte that its user locks for reading, and each use that it does not share
with others is another. Who opens the image locks its own bytes first, then asks whether a lock for
writing would be possible on the bytes that contradict them. Two that open it at the same time see
each other, so at least one of them turns away. The locks belong to the open file (F_OFD_SETLK), and
end with it, also when its process is killed.
"""

import errno
import fcntl
import os
import struct
from enum import IntEnum
from typing import Final

from tagalong.errors import HostError

_USED_AT: Final = 100
_NOT_SHARED_AT: Final = 200
# struct flock: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK: Final = struct.Struct("@hhqqi4x")
_WITHOUT_LOCKS: Final = frozenset({errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


class _Use(IntEnum):
    """What an image is used for: QEMU's BLK_PERM_* by their bit numbers."""

    CONSISTENT_READ = 0
    WRITE = 1
    WRITE_UNCHANGED = 2
    RESIZE = 3


_NOT_SHARED: Final = (_Use.WRITE, _Use.RESIZE)


class ImageInUseError(HostError):
    """Another process has the image open in a way that contradicts ours."""


class ImageLock:
    """The lock on an open image; `what` names it in errors."""

    def __init__(self, descriptor: int, what: str, *, read_only: bool) -> None:
        self._descriptor = descriptor
        self._what = what
        self._uses = [_Use.CONSISTENT_READ] if read_only else [_Use.CONSISTENT_READ, _Use.WRITE]
        self.is_held = False

    def take(self) -> None:
        """Take the lock. Raises ImageInUseError, or HostError if the file cannot be locked.

        Nothing is locked then.
        """
        try:
            self._take()
        except BaseException:
            self.release()
            raise
        self.is_held = True

    def release(self) -> None:
        """Give the lock up. Does nothing without one."""
        self.is_held = False
        self._set(fcntl.F_UNLCK, _USED_AT, 2 * _USED_AT)

    def _take(self) -> None:
        for byte in self._own_bytes():
            self._set(fcntl.F_RDLCK, byte, 1)
        for byte in self._contradicting_bytes():
            if self._is_locked(byte):
                raise ImageInUseError(
                    f"{self._what} is in use by another process, which does not share it (lock on "
                    f"byte {byte}): end what uses it, or give another file"
                )

    def _own_bytes(self) -> list[int]:
        used = [_USED_AT + use for use in self._uses]
        return used + [_NOT_SHARED_AT + use for use in _NOT_SHARED]

    def _contradicting_bytes(self) -> list[int]:
        refused = [_NOT_SHARED_AT + use for use in self._uses]
        return refused + [_USED_AT + use for use in _NOT_SHARED]

    def _set(self, kind: int, start: int, length: int) -> None:
        self._call(fcntl.F_OFD_SETLK, kind, start, length)

    def _is_locked(self, byte: int) -> bool:
        found = self._call(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, byte, 1)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def _call(self, operation: int, kind: int, start: int, length: int) -> bytes:
        request = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        try:
            return fcntl.fcntl(self._descriptor, operation, request)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise ImageInUseError(f"{self._what} is locked by another process") from error
            if error.errno in _WITHOUT_LOCKS:
                raise HostError(
                    f"cannot lock {self._what}: its file system has no locks of open files "
                    f"({error.strerror}); put the image on one that has"
                ) from error
            raise HostError(f"cannot lock {self._what}: {error.strerror}") from error
