"""Writes cpio archives in the "newc" format, which the kernel unpacks as its initial root.

Needs no root: owner, mode and device numbers are fields of the format. Archives may be
concatenated; a file in a later one replaces the file of the same path in an earlier one.

Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import stat
from pathlib import PurePosixPath
from typing import BinaryIO

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_ALIGNMENT = 4
_FOLDER_MODE = stat.S_IFDIR | 0o755
_PERMISSIONS = 0o7777
_FIELD_LIMIT = 1 << 32


class CpioWriter:
    r"""Writes one archive to `out`, from its current position; root owns every entry.

    Parent folders are added automatically. `close` ends the archive and leaves `out` open.

    >>> with open("root.cpio", "wb") as out:
    ...     writer = CpioWriter(out)
    ...     writer.add_file("etc/hostname", b"lab\n")
    ...     writer.close()
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._entries = 0
        self._folders = {"."}

    def add_file(
        self, path: str, data: bytes, *, permissions: int = 0o644, mtime_s: int = 0
    ) -> None:
        """Add a regular file. Raises ValueError if a field does not fit in 32 bits."""
        self._add_parents(path)
        mode = stat.S_IFREG | permissions & _PERMISSIONS
        self._add(path, mode, data=data, mtime_s=mtime_s)

    def add_symlink(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add_parents(path)
        self._add(path, stat.S_IFLNK | 0o777, data=target.encode())

    def add_folder(self, path: str) -> None:
        """Add a folder, unless it is there already."""
        name = _normal(path)
        if name in self._folders:
            return
        self._add_parents(path)
        self._folders.add(name)
        self._add(path, _FOLDER_MODE)

    def add_character_device(
        self, path: str, major: int, minor: int, *, permissions: int = 0o600
    ) -> None:
        """Add a character device."""
        self._add_parents(path)
        self._add(path, stat.S_IFCHR | permissions, device=(major, minor))

    def close(self) -> None:
        """Write the trailer."""
        self._add(_TRAILER, 0)

    def _add_parents(self, path: str) -> None:
        for parent in reversed(PurePosixPath(_normal(path)).parents):
            self.add_folder(str(parent))

    def _add(
        self,
        path: str,
        mode: int,
        *,
        data: bytes = b"",
        mtime_s: int = 0,
        device: tuple[int, int] = (0, 0),
    ) -> None:
        name = _normal(path).encode() + b"\0"
        self._entries += 1
        # ino, mode, uid, gid, nlink, mtime, filesize, dev major and minor, rdev major and
        # minor, namesize, check. Each entry has its own ino: equal ones would be hard links.
        fields = (
            self._entries, mode, 0, 0, 1, mtime_s, len(data), 0, 0, *device, len(name), 0,
        )  # fmt: skip
        if not all(0 <= field < _FIELD_LIMIT for field in fields):
            raise ValueError(
                f"{path}: {len(data):#x} bytes, time {mtime_s}: does not fit in 32 bits"
            )
        head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
        for part in (head, data):
            self._out.write(part)
            self._out.write(bytes(-len(part) % _ALIGNMENT))


def _normal(path: str) -> str:
    """Return `path` in the form that archives use: relative, no slash or "." at either end."""
    return str(PurePosixPath("/", path).relative_to("/"))
