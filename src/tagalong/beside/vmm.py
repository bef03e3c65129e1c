"""The VMM's process: one that we start, or one that is there already."""

import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import Final, Protocol

from tagalong.beside.command import environment, library_path, with_monitor
from tagalong.errors import HostError, UsageError
from tagalong.socket_files import SocketFile

LIBRARY_SUFFIX: Final = "kvm"
MONITOR_SUFFIX: Final = "qmp"
SETTINGS_SUFFIX: Final = "settings"

_BACKLOG: Final = 8
_SIGNAL_STATUS: Final = 128


class Vmm(Protocol):
    """The process of a VMM."""

    @property
    def has_ended(self) -> bool:
        """Return whether it has ended."""
        ...

    def wait(self) -> int:
        """Wait for its end, or for an order not to; return the exit status for ours."""
        ...

    def signal(self, number: int) -> None:
        """Handle a signal that this process got. From the event loop's thread."""
        ...


def beside(control: Path, suffix: str) -> Path:
    """Return the path of a socket that lies beside the control socket. Raises UsageError."""
    if control.name in ("", ".."):
        raise UsageError(f"cannot create control socket {control}: it is a folder; give a name")
    return control.with_name(f"{control.name}.{suffix}")


@contextmanager
def socket_for(path: Path, what: str) -> Iterator[socket]:
    """Listen at `path` for the length of a `with` block, on behalf of a VMM that inherits it.

    Raises UsageError or HostError.
    """
    file = SocketFile(path, what, _BACKLOG)
    try:
        yield file.socket
    finally:
        file.socket.close()
        file.remove()


class StartedVmm:
    """A VMM that is a child of this process; signals are passed on to it.

    `sockets`: of the library and of the monitor; they are the VMM's from here on. Raises HostError
    if it does not start.
    """

    def __init__(self, command: Sequence[str], sockets: Sequence[socket], *, holds: bool) -> None:
        library, monitor = sockets
        variables = environment(os.environ, library_path(), library.fileno(), holds=holds)
        try:
            self._process = subprocess.Popen(
                with_monitor(command, monitor.fileno()),
                env=variables,
                pass_fds=(library.fileno(), monitor.fileno()),
            )
        except OSError as error:
            raise HostError(f"cannot start {command[0]}: {error.strerror}") from error
        for each in sockets:
            each.close()

    @property
    def has_ended(self) -> bool:
        """As Vmm."""
        return self._process.poll() is not None

    def wait(self) -> int:
        """As Vmm: the VMM's status, 128 + N if signal N ended it."""
        status = self._process.wait()
        return status if status >= 0 else _SIGNAL_STATUS - status

    def signal(self, number: int) -> None:
        """As Vmm: the VMM gets it, too."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


class FoundVmm:
    """A VMM that another process has started; a signal ends this process and leaves the VMM alone.

    Raises HostError if there is no process `pid`.
    """

    def __init__(self, pid: int) -> None:
        try:
            self._process = os.pidfd_open(pid)
        except OSError as error:
            raise HostError(f"cannot follow process {pid}: {error.strerror}") from error
        self._order, self._tell = os.pipe()

    @property
    def has_ended(self) -> bool:
        """As Vmm."""
        return bool(select.select([self._process], [], [], 0)[0])

    def wait(self) -> int:
        """As Vmm: 0, or 128 + N if signal N ended the waiting."""
        ready, _, _ = select.select([self._process, self._order], [], [])
        if self._order in ready and self._process not in ready:
            return _SIGNAL_STATUS + os.read(self._order, 1)[0]
        return 0

    def signal(self, number: int) -> None:
        """As Vmm: end the waiting."""
        os.write(self._tell, bytes([signal.Signals(number)]))
