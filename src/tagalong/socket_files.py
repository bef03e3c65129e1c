"""Unix sockets in the file system: owner only, never stolen, replaced when their owner died.

A socket file outlives a process that was killed, so a name that is taken may be stale, and must
be replaced; but a name behind which a process listens must never be. Each step is atomic:

1. The socket is bound under a hidden random name, listens, and then gets its name by link(2),
   which fails if the name is taken. So a name that this module gave is never without a listener
   while its process lives, and "connection refused" means that the process is gone.
2. A stale socket is renamed to a hidden name before it is removed, and tried again there: if
   another process was faster, and this is its new socket, it gets its name back.

In the moment of step 2 the name is free, and a third process could take it: two processes would
believe that it is theirs. So processes of one user take turns, by a lock on a file beside the name
that no other user can open: a lock on the folder could be held by any user of /tmp. Where another
user has taken the lock's own name, the steps are as safe as they are without it.
"""

import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tagalong.errors import HostError, UsageError

_OWNER_ONLY: Final = 0o600
_CONNECT_TIMEOUT_S: Final = 1.0
_LOCK_TIMEOUT_S: Final = 10.0
_LOCK_POLL_S: Final = 0.01

# Attempts to take a name that others take and leave at the same time.
_ATTEMPTS: Final = 8

# sizeof(struct sockaddr_un.sun_path) less the terminating NUL, unix(7).
_MAX_PATH_BYTES: Final = 107


class SocketFile:
    """A listening Unix stream socket with mode 0600 at `path`; `what` is for messages.

    `socket` is the caller's to close. Raises UsageError if a process listens there, if something
    else than a socket has the name, or if the path is too long; HostError if the system refuses.
    """

    def __init__(self, path: Path, what: str, backlog: int) -> None:
        self.path = path
        self._what = what
        self._identity = -1
        self._check_length()
        try:
            self._folder = _open_folder(path)
            try:
                with _turn(self._folder, path.name):
                    self.socket = self._listen(backlog)
            finally:
                os.close(self._folder)
        except OSError as error:
            raise HostError(f"cannot create {what} {path}: {error.strerror}") from error

    def remove(self) -> None:
        """Delete the file, unless it is another process's by now. Safe to call twice."""
        if self._identity < 0:
            return
        with suppress(OSError):
            folder = _open_folder(self.path)
            try:
                self._unlink_own(folder)
            finally:
                os.close(folder)
        os.close(self._identity)
        self._identity = -1

    def _unlink_own(self, folder: int) -> None:
        name = self.path.name
        with _turn(folder, name):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if os.path.samestat(found, os.fstat(self._identity)):
                os.unlink(name, dir_fd=folder)

    def _check_length(self) -> None:
        length = len(os.fsencode(self.path))
        if length > _MAX_PATH_BYTES:
            raise UsageError(
                f"{self._what} path has {length} bytes, Unix sockets allow {_MAX_PATH_BYTES}: "
                f"{self.path}"
            )

    def _listen(self, backlog: int) -> socket.socket:
        hidden = f".{os.urandom(8).hex()}.sock"
        listener = socket.socket(socket.AF_UNIX)
        try:
            # The mode of the file that bind(2) makes; the umask can only take bits from it.
            os.fchmod(listener.fileno(), _OWNER_ONLY)
            listener.bind(_in_folder(self._folder, hidden))
            try:
                # Held open, so that no other file can have the same inode number.
                self._identity = os.open(
                    hidden, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder
                )
                listener.listen(backlog)
                self._take_name(hidden)
            finally:
                os.unlink(hidden, dir_fd=self._folder)
        except BaseException:
            listener.close()
            if self._identity >= 0:
                os.close(self._identity)
            raise
        return listener

    def _take_name(self, hidden: str) -> None:
        for _ in range(_ATTEMPTS):
            with suppress(FileExistsError):
                os.link(
                    hidden, self.path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder,
                    follow_symlinks=False,
                )  # fmt: skip
                return
            self._remove_stale()
        raise HostError(f"cannot create {self._what} {self.path}: others create it all the time")

    def _remove_stale(self) -> None:
        """Remove a socket that nothing listens at. Raises UsageError for anything else."""
        name, folder = self.path.name, self._folder
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(_mode(folder, name)):
                raise UsageError(f"{self.path} exists and is not a socket: choose another path")
            self._require_stale(name)
            aside = f".{os.urandom(8).hex()}.stale"
            os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
            try:
                self._require_stale(aside)
            except UsageError:
                with suppress(FileExistsError):
                    os.link(
                        aside, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False
                    )
                raise
            finally:
                os.unlink(aside, dir_fd=folder)

    def _require_stale(self, name: str) -> None:
        if not _is_stale(self._folder, name):
            raise UsageError(
                f"another process listens on {self.path}: end it or choose another path"
            )


def remove_if_stale(path: Path) -> bool:
    """Delete the socket file of a process that has ended; return whether nobody listens there.

    What is no socket stays.
    """
    with suppress(OSError):
        folder = _open_folder(path)
        try:
            with _turn(folder, path.name):
                # Linux says of any other file what it says of a socket that nobody listens at.
                if not stat.S_ISSOCK(_mode(folder, path.name)):
                    return True
                if not _is_stale(folder, path.name):
                    return False
                os.unlink(path.name, dir_fd=folder)
        finally:
            os.close(folder)
    return True


def _is_stale(folder: int, name: str) -> bool:
    """Return whether no process listens at a socket file. Raises OSError if it is not there."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        try:
            probe.connect(_in_folder(folder, name))
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            pass  # its backlog is full: a process is there
    return False


def _mode(folder: int, name: str) -> int:
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode


def _in_folder(folder: int, name: str) -> str:
    """Return a path to `name` that is short whatever the folder's is."""
    return f"/proc/self/fd/{folder}/{name}"


def _open_folder(path: Path) -> int:
    return os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


@contextmanager
def _turn(folder: int, name: str) -> Iterator[None]:
    """Hold the lock of the socket file `name`, if only this user can hold it."""
    lock_name = f".{name}.lock"
    lock = _lock(folder, lock_name)
    try:
        yield
    finally:
        if lock >= 0:
            with suppress(OSError):
                os.unlink(lock_name, dir_fd=folder)
            os.close(lock)


def _lock(folder: int, name: str) -> int:
    """Return the descriptor of the locked file; -1 if another user has it, or time is up."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    while time.monotonic() < deadline:
        try:
            lock = os.open(name, flags, _OWNER_ONLY, dir_fd=folder)
        except OSError:
            return -1
        status = os.fstat(lock)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            os.close(lock)
            return -1
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock on a file that its last holder has removed meanwhile is no lock.
            if os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), status):
                return lock
        os.close(lock)
        time.sleep(_LOCK_POLL_S)
    return -1
