"""Unix sockets in the file system: owner only, never stolen, replaced when their owner died.

A socket file outlives a process that was killed, so a name that is taken may be stale, and must
be replaced; but a name behind which a process listens must never be. No lock can tell the two
apart: any user could hold one on a folder such as /tmp. Instead every step is atomic:

1. The socket is bound under a hidden random name, listens, and then gets its name by link(2),
   which fails if the name is taken. So a name that this module gave is never without a listener
   while its process lives, and "connection refused" means that the process is gone.
2. A stale socket is renamed to a hidden name before it is removed, and tried again there: if
   another process was faster, and this is its new socket, it gets its name back.
"""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

from tagalong.errors import HostError, UsageError

_OWNER_ONLY: Final = 0o600
_CONNECT_TIMEOUT_S: Final = 1.0

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
            self._folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
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
            if os.path.samestat(self.path.lstat(), os.fstat(self._identity)):
                self.path.unlink()
        os.close(self._identity)
        self._identity = -1

    def _check_length(self) -> None:
        length = len(os.fsencode(self.path))
        if length > _MAX_PATH_BYTES:
            raise UsageError(
                f"{self._what} path has {length} bytes, Unix sockets allow {_MAX_PATH_BYTES}: "
                f"{self.path}"
            )

    def _listen(self, backlog: int) -> socket.socket:
        hidden = f".{token_hex(8)}.sock"
        listener = socket.socket(socket.AF_UNIX)
        try:
            # The mode of the file that bind(2) makes; the umask can only take bits from it.
            os.fchmod(listener.fileno(), _OWNER_ONLY)
            listener.bind(self._in_folder(hidden))
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

    def _in_folder(self, name: str) -> str:
        """Return a path to `name` that is short whatever the folder's is."""
        return f"/proc/self/fd/{self._folder}/{name}"

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
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if not stat.S_ISSOCK(mode):
                raise UsageError(f"{self.path} exists and is not a socket: choose another path")
            self._require_stale(name)
            aside = f".{token_hex(8)}.stale"
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
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_CONNECT_TIMEOUT_S)
            try:
                probe.connect(self._in_folder(name))
            except ConnectionRefusedError:
                return
            except TimeoutError:
                pass  # its backlog is full: a process is there
        raise UsageError(f"another process listens on {self.path}: end it or choose another path")
