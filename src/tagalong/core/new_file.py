"""A file that gets its name when it is complete.

It is written beside its final name and renamed. Where the file system can make files without
a name (O_TMPFILE), a writer that is killed leaves nothing at all, elsewhere a hidden file
`.NAME.RANDOM.partial`.
"""

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from tagalong.errors import HostError

_SECTOR_BYTES = 512
_OWNER_ONLY = 0o600
_NAME_BYTES = 100
_DESCRIPTORS = Path("/proc/self/fd")
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


@dataclass(frozen=True)
class CoreReport:
    """What was written: the file's size, and what of it is no hole (as the host counts it)."""

    path: Path
    size_bytes: int
    disk_bytes: int


class NewFile:
    """A file in the making; nothing is under its name before `publish`.

    With `overwrite` false an existing file is never replaced, not even one that appears in
    the meantime. Everything raises HostError if the host cannot; `fd` is open until `close`.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        if path.is_dir() or not path.name:
            raise HostError(f"cannot create the core {path}: it is a folder")
        if path.exists() and not path.is_file():
            raise HostError(f"cannot create the core {path}: a device or a socket has this name")
        self._path = path
        self._overwrite = overwrite
        self._hidden = path.with_name(f".{path.name[:_NAME_BYTES]}.{token_hex(8)}.partial")
        if not overwrite and os.path.lexists(path):
            raise self._failure("create", OSError(errno.EEXIST, os.strerror(errno.EEXIST)))
        try:
            self._folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._failure("create", error) from error
        try:
            self.fd, self._is_hidden = self._open()
        except OSError as error:
            os.close(self._folder)
            raise self._failure("create", error) from error
        self.is_closed = False

    def _open(self) -> tuple[int, bool]:
        """Return the descriptor, and whether the file has its hidden name already."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if _DESCRIPTORS.exists():
            try:
                return os.open(self._path.parent, flags | os.O_TMPFILE, _OWNER_ONLY), False
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
        return os.open(self._hidden, flags | os.O_CREAT | os.O_EXCL, _OWNER_ONLY), True

    def write(self, offset: int, content: bytes) -> None:
        """Write all of `content` at byte `offset`."""
        done = 0
        while done < len(content):
            try:
                done += os.pwrite(self.fd, content[done:], offset + done)
            except OSError as error:
                raise self._failure("write", error) from error

    def set_size(self, size_bytes: int) -> None:
        """Let the file end at `size_bytes`, in a hole if nothing was written there."""
        try:
            os.ftruncate(self.fd, size_bytes)
        except OSError as error:
            raise self._failure("write", error) from error

    def publish(self) -> CoreReport:
        """Bring the file to the disk, give it its name and close it.

        After an error nothing has changed under that name.
        """
        try:
            os.fsync(self.fd)
            stat = os.fstat(self.fd)
            self._show()
            self._name()
            os.fsync(self._folder)
        except OSError as error:
            raise self._failure("finish", error) from error
        finally:
            self.close()
        return CoreReport(self._path, stat.st_size, stat.st_blocks * _SECTOR_BYTES)

    def _show(self) -> None:
        """Give a file without a name the hidden one."""
        if not self._is_hidden:
            # With a folder's descriptor the os module follows the link to the file itself.
            os.link(
                _DESCRIPTORS / str(self.fd), self._hidden.name, dst_dir_fd=self._folder,
                follow_symlinks=True,
            )  # fmt: skip
            self._is_hidden = True

    def _name(self) -> None:
        if self._overwrite:
            os.replace(self._hidden, self._path)
            self._is_hidden = False
        else:
            os.link(self._hidden, self._path)  # fails if the name is taken, in one step

    def close(self) -> None:
        """Give up a file that was not published; it leaves nothing. Safe to call twice."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._is_hidden:
            with suppress(OSError):
                os.unlink(self._hidden)
        os.close(self.fd)
        os.close(self._folder)

    def _failure(self, verb: str, error: OSError) -> HostError:
        return HostError(f"cannot {verb} the core {self._path}: {error}")
