"""The file behind a disk: opened with care, locked as QEMU locks it, read and written in place."""

import ctypes
import errno
import os
import stat
from functools import cache
from pathlib import Path
from typing import Final

from tagalong.devices.virtio.chain import Buffers
from tagalong.devices.virtio.image_lock import ImageLock
from tagalong.errors import HostError, UsageError

SECTOR_BYTES: Final = 512

_ZEROES: Final = bytes(1 << 16)
_PUNCH_HOLE: Final = 0x03  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_ZERO_RANGE: Final = 0x11  # FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE
_CANNOT: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


class Image:
    """An open raw image: a regular file or a block device. `name`: of the disk, for errors.

    It is not locked before `activate`. Raises UsageError for what cannot be a disk, HostError if it
    cannot be opened. `read`, `write` and their kin raise OSError, which the guest is told of.
    """

    def __init__(self, path: Path, name: str, *, read_only: bool) -> None:
        self.path = path
        self.is_read_only = read_only
        self._what = f"image {path} of disk {name!r}"
        self._flush_failure: OSError | None = None
        self._descriptor = self._open(path)
        try:
            self.size_bytes = self._checked_size()
            self._lock = ImageLock(self._descriptor, self._what, read_only=read_only)
        except BaseException:
            os.close(self._descriptor)
            raise

    # --- its life ---

    @property
    def is_active(self) -> bool:
        """Return whether the lock is held."""
        return self._lock.is_held

    def activate(self) -> None:
        """Take the lock, and forget what the host has cached from before.

        Raises HostError: it is in use, cannot be locked, or no longer has its size.
        """
        self._lock.take()
        try:
            if (size := self._checked_size()) != self.size_bytes:
                raise HostError(
                    f"{self._what} has {size} bytes now, it had {self.size_bytes} when it was "
                    "opened: nothing else may change it"
                )
        except BaseException:
            self._lock.release()
            raise
        # Only a hint: clean pages of a file on a network may be older than its content.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def flush_all(self) -> None:
        """Bring all that was written to the disk. Raises HostError."""
        try:
            self.flush()
        except OSError as error:
            raise HostError(f"cannot bring {self._what} to the disk: {error.strerror}") from error

    def inactivate(self) -> None:
        """Give the lock up. Does nothing without one."""
        if self._lock.is_held:
            self._lock.release()

    def close(self) -> None:
        """Close it, which gives up the lock. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # --- its content ---

    def read(self, target: Buffers, offset: int) -> None:
        """Fill `target` with what is at `offset`. Raises OSError, also at the end of the file."""
        target.read_file(self._descriptor, offset)

    def write(self, source: Buffers, offset: int) -> None:
        """Write `source` at `offset`. Raises OSError; some of it may be written then."""
        source.write_file(self._descriptor, offset)

    def flush(self) -> None:
        """Bring what was written to the disk. Raises OSError, and for ever once it has."""
        if self.is_read_only:
            return
        if self._flush_failure is not None:
            failure = self._flush_failure
            raise OSError(failure.errno, f"{failure.strerror}, when it was flushed before")
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            # Linux tells of it once, and takes what was not written for written from then on.
            self._flush_failure = error
            raise

    def discard(self, offset: int, length_bytes: int) -> None:
        """Give the space of a range back, if the host can. Raises OSError."""
        self._allocate(_PUNCH_HOLE, offset, length_bytes)

    def write_zeroes(self, offset: int, length_bytes: int, *, may_unmap: bool) -> None:
        """Make a range read as zero, and give its space back if `may_unmap`. Raises OSError."""
        if may_unmap and self._allocate(_PUNCH_HOLE, offset, length_bytes):
            return
        if self._allocate(_ZERO_RANGE, offset, length_bytes):
            return
        end = offset + length_bytes
        while offset < end:
            zeroes = memoryview(_ZEROES)[: end - offset]
            offset += os.pwrite(self._descriptor, zeroes, offset)

    # --- small help ---

    def _open(self, path: Path) -> int:
        flags = os.O_RDONLY if self.is_read_only else os.O_RDWR
        try:
            self._refuse_kind(os.stat(path).st_mode)
            # Should it be replaced by a pipe in this moment, the open must not wait for a peer.
            descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            advice = ""
            if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM) and not self.is_read_only:
                advice = "; a disk that is only read is given as FILE,readonly"
            raise HostError(f"cannot open {self._what}: {error.strerror}{advice}") from error
        try:
            self._refuse_kind(os.fstat(descriptor).st_mode)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _refuse_kind(self, mode: int) -> None:
        kind = stat.S_IFMT(mode)
        if kind not in (stat.S_IFREG, stat.S_IFBLK):
            raise UsageError(
                f"{self._what} is {_KINDS.get(kind, 'no file')}: give a file or a block device"
            )

    def _checked_size(self) -> int:
        size = os.lseek(self._descriptor, 0, os.SEEK_END)
        if size == 0 or size % SECTOR_BYTES:
            raise UsageError(
                f"{self._what} has {size} bytes: a disk has whole sectors of {SECTOR_BYTES} bytes, "
                f"at least one (truncate -s %{SECTOR_BYTES} rounds a file up)"
            )
        return size

    def _allocate(self, mode: int, offset: int, length_bytes: int) -> bool:
        """Do fallocate(2); return whether the host can. Raises OSError if it fails otherwise."""
        length = ctypes.c_int64(length_bytes)
        if not _libc().fallocate(self._descriptor, mode, ctypes.c_int64(offset), length):
            return True
        failure = ctypes.get_errno()
        if failure not in _CANNOT:
            raise OSError(failure, os.strerror(failure))
        return False


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
