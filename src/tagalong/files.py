"""The one writer of files: a file gets its name when it is complete.

`NewFile` writes beside the final name and renames. `examine_output` looks at the final name
first, so that a name that cannot be written is rejected before anything moves:

    nothing, a regular file    it is replaced in one step
    a symbolic link            what it leads to is replaced; the link stays
    a FIFO, a character device `open_stream` writes to it, for what is written front to back
    anything else              rejected: a directory, a socket, a block device
    /dev/stdout, /dev/fd/N     rejected, whatever the descriptor leads to; see
                               `refuse_descriptor_name`

A replaced name is why this matters: rename(2) replaces a device, a FIFO or a link as readily
as a file, and a program that runs as root would replace /dev/null itself.

The temporary file has no name at all where the file system supports that (O_TMPFILE), so that
a writer that is killed leaves nothing. Elsewhere it is the hidden file `.NAME.RANDOM.partial`,
which no two writers share and no other user can prepare: O_EXCL and O_NOFOLLOW. In both
cases it is readable for its owner only, since it holds a guest's memory.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tagalong.errors import HostError

_SECTOR_BYTES = 512
_OWNER_ONLY = 0o600
_NAME_BYTES = 100
_DESCRIPTORS = Path("/proc/self/fd")
_MOUNTS = Path("/proc/self/mountinfo")
_MAX_LINKS = 40  # as the kernel follows
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)

_STREAMS = {stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a character device"}
_OTHERS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
}


@dataclass(frozen=True)
class OutputName:
    """What a name leads to when something is to be written under it.

    `path`: the name as it was given. `target`: the file that is replaced or created, with all
    links followed. `stream`: "a FIFO" or "a character device" if it is one, which can only be
    written to; else None.
    """

    path: Path
    target: Path
    stream: str | None


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written: its size, and what of it is no hole (as the host counts it)."""

    path: Path
    size_bytes: int
    disk_bytes: int


def examine_output(path: Path) -> OutputName:
    """Return what a name to write to leads to; nothing is created or opened.

    Raises HostError for a directory, a socket, a block device, a loop of links, and for a
    name that `refuse_descriptor_name` rejects.
    """
    refuse_descriptor_name(path)
    try:
        found = _stat(path)
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
    except (OSError, ValueError) as error:
        raise _failure("open", path, error) from error
    kind = stat.S_IFMT(found.st_mode) if found else stat.S_IFREG
    if kind in _OTHERS or not target.name:
        raise HostError(
            f"cannot open {path}: it is {_OTHERS.get(kind, 'a directory')}; give a file name"
        )
    return OutputName(path, target, _STREAMS.get(kind))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def refuse_descriptor_name(path: Path) -> None:
    """Reject the name of an open descriptor, /dev/stdout, /dev/fd/N, /proc/PID/fd/N, and its kin.

    Such a name means something else in each process: a VM that writes for its operator would
    write to its own standard output. And what it leads to is open already, often to append to,
    as after a shell's `>>`: a rename would take that file away. So the name is rejected even if
    it leads to a pipe. Other names through /proc (/proc/self/cwd/vm.core) are rejected for the
    first reason. Raises HostError for such a name, or if a folder on the way cannot be examined.
    """
    try:
        proc = _proc_devices()
        through = [each for each in _folders_on_the_way(path) if _device(each) in proc]
    except (OSError, ValueError) as error:
        raise _failure("open", path, error) from error
    if any(os.path.basename(each) == "fd" for each in through):
        raise HostError(
            f"cannot open {path}: it names a descriptor of this process; give a file name"
        )
    if through:
        raise HostError(
            f"cannot open {path}: a name through {through[0]} means something else in each "
            "process; give the file's own name"
        )


def _folders_on_the_way(path: Path) -> Iterator[str]:
    """Yield each folder in which the kernel looks up a part of the name, without links.

    A loop of links ends this: the kernel rejects it.
    """
    folder, links = "/", 0
    left = list(reversed(path.absolute().parts))
    while left:
        part = left.pop()
        if part in ("/", "//", ".."):
            folder = os.path.dirname(folder) if part == ".." else "/"
            continue
        yield folder
        name = os.path.join(folder, part)
        if not os.path.islink(name):
            folder = name
        elif links < _MAX_LINKS:
            links += 1
            left.extend(reversed(Path(os.readlink(name)).parts))
        else:
            return


def _proc_devices() -> frozenset[int]:
    """Return the device number of each proc file system that is mounted; it has many places."""
    with suppress(FileNotFoundError):
        lines = [line.split() for line in os.fsdecode(_MOUNTS.read_bytes()).splitlines()]
        # proc(5): the third field is major:minor; the file system's type follows the "-".
        numbers = [line[2].split(":") for line in lines if line[line.index("-") + 1] == "proc"]
        return frozenset(os.makedev(int(major), int(minor)) for major, minor in numbers)
    return frozenset()


def _device(folder: str) -> int | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.stat(folder).st_dev
    return None


def require_file_name(path: Path) -> OutputName:
    """Return what a name leads to if a NewFile can be made there, as far as the name says.

    Raises HostError as `examine_output`, and for a FIFO or a character device.
    """
    output = examine_output(path)
    if output.stream:
        raise HostError(f"cannot open {path}: it is {output.stream}; give a file name")
    return output


def open_stream(output: OutputName) -> int:
    """Return a descriptor to write to a FIFO or a character device, close-on-exec.

    It does not block; the caller closes it. Raises HostError if the name is no FIFO or
    character device any more, if nothing reads from the FIFO, or if it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(output.path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO and output.stream == _STREAMS[stat.S_IFIFO]:
            raise HostError(
                f"cannot open {output.path}: nothing reads from this FIFO; start the reader first"
            ) from None  # ENXIO speaks of a device
        raise _failure("open", output.path, error) from error
    if stat.S_IFMT(os.fstat(descriptor).st_mode) not in _STREAMS:
        os.close(descriptor)
        raise HostError(f"cannot open {output.path}: it is no longer {output.stream}; try again")
    return descriptor


class NewFile:
    """A file in the making; nothing is under its name before `publish`.

    `path`: the final name, see the module. With `overwrite` false an existing file is never
    replaced, not even one that appears in the meantime. `fd` can be read and written, and is
    open until `close`.

    Everything raises HostError if the host cannot; the constructor also for a name that
    `require_file_name` rejects.
    """

    def __init__(self, path: Path, *, overwrite: bool = True) -> None:
        output = require_file_name(path)
        if not overwrite and os.path.lexists(path):
            raise _failure("create", path, OSError(errno.EEXIST, os.strerror(errno.EEXIST)))
        self.is_closed = False
        self._path = path
        self._name = output.target.name
        self._overwrite = overwrite
        self._hidden = _hidden_name(self._name)
        try:
            self._folder = os.open(
                output.target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            )
        except OSError as error:
            raise _failure("create", path, error) from error
        try:
            self.fd, self._is_hidden = self._open()
        except OSError as error:
            os.close(self._folder)
            raise _failure("create", path, error) from error

    def _open(self) -> tuple[int, bool]:
        """Return the descriptor, and whether the file has its hidden name already."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if _DESCRIPTORS.exists():
            try:
                unnamed = os.open(".", flags | os.O_TMPFILE, _OWNER_ONLY, dir_fd=self._folder)
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
            else:
                return unnamed, False
        flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(self._hidden, flags, _OWNER_ONLY, dir_fd=self._folder), True

    def write(self, offset: int, content: bytes) -> None:
        """Write all of `content` at byte `offset`."""
        done = 0
        while done < len(content):
            try:
                done += os.pwrite(self.fd, content[done:], offset + done)
            except OSError as error:
                raise _failure("write", self._path, error) from error

    def set_size(self, size_bytes: int) -> None:
        """Let the file end at `size_bytes`, in a hole if nothing was written there."""
        try:
            os.ftruncate(self.fd, size_bytes)
        except OSError as error:
            raise _failure("write", self._path, error) from error

    def sync(self) -> None:
        """Bring what was written to the disk. `publish` does that too."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            raise _failure("write", self._path, error) from error

    def publish(self) -> WrittenFile:
        """Bring the file to the disk, give it its name and close it.

        After an error nothing of it is under that name. What was there before is there as it
        was, unless only the folder could not be brought to the disk.
        """
        try:
            os.fsync(self.fd)
            status = os.fstat(self.fd)
            self._show()
            self._give_name()
            self._sync_folder()
        except OSError as error:
            raise _failure("finish", self._path, error) from error
        finally:
            self.close()
        return WrittenFile(self._path, status.st_size, status.st_blocks * _SECTOR_BYTES)

    def _show(self) -> None:
        """Give a file without a name the hidden one."""
        if not self._is_hidden:
            # With a folder's descriptor the os module follows the link to the file itself.
            os.link(
                _DESCRIPTORS / str(self.fd), self._hidden, dst_dir_fd=self._folder,
                follow_symlinks=True,
            )  # fmt: skip
            self._is_hidden = True

    def _give_name(self) -> None:
        folder = self._folder
        if not self._overwrite:
            # This fails if the name is taken, in one step.
            os.link(self._hidden, self._name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        # Time has passed since the name was examined.
        with suppress(FileNotFoundError):
            mode = os.stat(self._name, dir_fd=folder, follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode):
                raise FileExistsError(errno.EEXIST, "it is no regular file any more")
        os.replace(self._hidden, self._name, src_dir_fd=folder, dst_dir_fd=folder)
        self._is_hidden = False

    def _sync_folder(self) -> None:
        try:
            os.fsync(self._folder)
        except OSError:
            # An error means that there is no file: a caller may have promised just that.
            os.unlink(self._name, dir_fd=self._folder)
            raise

    def close(self) -> None:
        """Give up a file that was not published; it leaves nothing. Safe to call twice."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._is_hidden:
            with suppress(OSError):
                os.unlink(self._hidden, dir_fd=self._folder)
        os.close(self.fd)
        os.close(self._folder)


def _hidden_name(name: str) -> str:
    """Return a name that no other writer has, short enough for any file system."""
    start = os.fsencode(name)[:_NAME_BYTES].decode("utf-8", "ignore")
    return f".{start}.{os.urandom(8).hex()}.partial"


def _failure(verb: str, path: Path, error: OSError | ValueError) -> HostError:
    return name_failure(f"cannot {verb}", path, error)


def name_failure(what: str, path: str | Path, error: OSError | ValueError) -> HostError:
    """Return the error that says `what` of a name, and why.

    A ValueError is about the name itself: it has a NUL, or characters that no encoding has. It
    is quoted then, so that the message can be printed.
    """
    if isinstance(error, OSError):
        return HostError(f"{what} {path}: {error.strerror}")
    return HostError(f"{what} {str(path)!a}: this is not a name that a file can have ({error})")
