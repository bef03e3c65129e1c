"""Creates the control socket's file: owner only from its first moment, never stolen.

A socket file outlives a process that was killed. Whether somebody still listens is found
out by connecting; looking and replacing happens under a lock on the folder, so that two
processes that start at once cannot both find the same file dead.
"""

import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tagalong.errors import HostError, UsageError

_MODE = 0o600
_BACKLOG = 16
_LOCK_TIMEOUT_S = 2.0
_LOCK_POLL_S = 0.01
_CONNECT_TIMEOUT_S = 1.0

# sizeof(struct sockaddr_un.sun_path) less the terminating NUL, unix(7).
_MAX_PATH_BYTES = 107


class SocketFile:
    """A listening unix socket with mode 0600 at `path`.

    Raises UsageError if a living process listens there or something else than a socket
    has the name, HostError if the system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_length(path)
        try:
            with _folder_locked(path.parent):
                _remove_stale(path)
                self.socket = _bind_and_listen(path)
                # Held open, so that no other file can have the same inode number.
                self._identity = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"cannot create control socket {path}: {error.strerror}") from error

    def remove(self) -> None:
        """Delete the file, unless it is another process's by now. Safe to call twice."""
        if self._identity < 0:
            return
        with suppress(OSError):
            if os.path.samestat(self.path.lstat(), os.fstat(self._identity)):
                self.path.unlink()
        os.close(self._identity)
        self._identity = -1


def _check_length(path: Path) -> None:
    length = len(os.fsencode(path))
    if length > _MAX_PATH_BYTES:
        raise UsageError(
            f"control socket path has {length} bytes, unix sockets allow {_MAX_PATH_BYTES}: {path}"
        )


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise HostError(
                    f"another process holds a lock on {folder} for over {_LOCK_TIMEOUT_S:.0f} s"
                ) from error
            time.sleep(_LOCK_POLL_S)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path} exists and is not a socket: choose another control path")
    if _is_alive(path):
        raise UsageError(
            f"another process listens on {path}: quit that VM or choose another control path"
        )
    path.unlink()


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except TimeoutError:
            return True  # its backlog is full: somebody is there
        return True


def _bind_and_listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    # bind() creates the file with the mode that the umask leaves: there is no moment in
    # which others could open it. Called before any thread starts, so the umask is ours.
    umask = os.umask(0o777 & ~_MODE)
    try:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener
