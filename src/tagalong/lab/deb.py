"""Reads Debian packages, and tar archives in general."""

import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tagalong.errors import LabSetupError
from tagalong.lab.tools import check, complaints_of_a_tool, output_of

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class ArchiveMember:
    """A file or symbolic link of a root file system; `path` does not begin with a slash."""

    path: str
    mode: int
    data: bytes
    mtime_s: int


@dataclass(frozen=True)
class PackedFile:
    """A regular file in a package. `read` it before advancing to the next one."""

    path: str
    _info: tarfile.TarInfo
    _archive: tarfile.TarFile

    def read(self) -> bytes:
        """Return the contents."""
        reader = self._archive.extractfile(self._info)
        return reader.read() if reader else b""


def unpack(deb: Path, folder: Path) -> None:
    """Unpack a Debian package into `folder`. Raises LabSetupError."""
    output_of(["dpkg-deb", "--extract", str(deb), str(folder)], f"unpack {deb.name}")


def files_of(deb: Path) -> Iterator[PackedFile]:
    """Yield the regular files of a Debian package. Raises LabSetupError."""
    with _archive_in(deb) as archive:
        for info in archive:
            if info.isreg():
                yield PackedFile(_normal(info.name), info, archive)


def members_of(deb: Path) -> Iterator[ArchiveMember]:
    """Yield the files and symbolic links of a Debian package. Raises LabSetupError."""
    with _archive_in(deb) as archive:
        yield from members_of_tar(archive)


def members_of_tar(archive: tarfile.TarFile) -> Iterator[ArchiveMember]:
    """Yield the files and symbolic links of a tar archive; a hard link becomes a copy."""
    contents: dict[str, bytes] = {}
    for info in archive:
        path, mtime_s = _normal(info.name), max(int(info.mtime), 0)
        if info.issym():
            yield ArchiveMember(path, stat.S_IFLNK | 0o777, info.linkname.encode(), mtime_s)
            continue
        if info.islnk():
            contents[path] = contents[_normal(info.linkname)]
        elif info.isreg():
            contents[path] = PackedFile(path, info, archive).read()
        else:
            continue
        yield ArchiveMember(path, stat.S_IFREG | info.mode, contents[path], mtime_s)


@contextmanager
def _archive_in(deb: Path) -> Iterator[tarfile.TarFile]:
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with complaints_of_a_tool() as complaints:
        try:
            with (
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints) as child,
                _stream(child.stdout) as stream,
                tarfile.open(fileobj=stream, mode="r|") as archive,
            ):
                yield archive
        except tarfile.TarError as error:
            check(child.returncode, command, f"read {deb.name}", complaints)
            raise LabSetupError(f"cannot read {deb.name}: the package is damaged") from error
        check(child.returncode, command, f"read {deb.name}", complaints)


@contextmanager
def _stream(pipe: IO[bytes] | None) -> Iterator[IO[bytes]]:
    assert pipe is not None  # noqa: S101 (for the type checker: stdout is a pipe)
    yield pipe
    # Read the padding behind the archive: dpkg-deb fails if its pipe is closed early.
    while pipe.read(_CHUNK_BYTES):
        pass


def _normal(path: str) -> str:
    return path.removeprefix("./").strip("/")
