"""The control socket's file, which is there before anything that serves it is loaded."""

from pathlib import Path

from tagalong.socket_files import SocketFile

_BACKLOG = 16


def control_socket(path: Path) -> SocketFile:
    """Create the control socket; clients that connect wait until a ControlServer serves it.

    Raises UsageError or HostError.
    """
    file = SocketFile(path, "control socket", _BACKLOG)
    file.socket.setblocking(False)
    return file
