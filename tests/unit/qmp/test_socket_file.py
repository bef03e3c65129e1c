"""The control socket's file: mode, staleness, removal."""

import fcntl
import os
import re
import socket
import stat
from pathlib import Path

import pytest

from tagalong.errors import HostError, UsageError
from tagalong.qmp import socket_file as socketfile
from tagalong.qmp.socket_file import SocketFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vm.sock"


def leave_stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_socket_file_new_is_private_whatever_the_umask(path: Path) -> None:
    umask = os.umask(0)
    try:
        file = SocketFile(path)
        umask_kept = os.umask(0)
    finally:
        os.umask(umask)

    with file.socket:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert umask_kept == 0


def test_socket_file_stale_socket_is_replaced(path: Path) -> None:
    leave_stale_socket(path)

    file = SocketFile(path)

    with file.socket, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_socket_file_living_socket_is_refused_and_left_alone(path: Path) -> None:
    with SocketFile(path).socket, socket.socket(socket.AF_UNIX) as client:
        message = f"another process listens on {path}: quit that VM or choose another control path"
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            SocketFile(path)

        client.connect(str(path))


def test_socket_file_other_file_of_that_name_is_refused_and_kept(path: Path) -> None:
    path.write_text("mine")

    message = f"{path} exists and is not a socket: choose another control path"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        SocketFile(path)

    assert path.read_text() == "mine"


def test_socket_file_symlink_to_a_socket_is_refused(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "other.sock"
    leave_stale_socket(target)
    path.symlink_to(target)

    with pytest.raises(UsageError, match="exists and is not a socket"):
        SocketFile(path)


def test_socket_file_path_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 108)

    with pytest.raises(UsageError, match=r"^control socket path has \d+ bytes, unix sockets allow"):
        SocketFile(path)


def test_socket_file_missing_folder_raises_host_error(tmp_path: Path) -> None:
    path = tmp_path / "no" / "vm.sock"

    message = f"cannot create control socket {path}: No such file or directory"
    with pytest.raises(HostError, match=f"^{re.escape(message)}$"):
        SocketFile(path)


def test_socket_file_folder_locked_by_another_raises_host_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socketfile, "_LOCK_TIMEOUT_S", 0.02)
    holder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)

        with pytest.raises(HostError, match=r"^another process holds a lock on .* for over 0 s$"):
            SocketFile(path)
    finally:
        os.close(holder)


def test_remove_deletes_own_file_only(path: Path) -> None:
    first = SocketFile(path)
    first.socket.close()
    second = SocketFile(path)  # the first one's file is stale now and replaced

    with second.socket:
        first.remove()
        assert path.exists()
        second.remove()
        assert not path.exists()
        second.remove()
