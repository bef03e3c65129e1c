"""Socket files: mode, staleness, removal, and starts at the same moment."""

import fcntl
import os
import re
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tagalong.errors import HostError, UsageError
from tagalong.socket_files import SocketFile, remove_if_stale


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vm.sock"


def socket_file(path: Path) -> SocketFile:
    return SocketFile(path, "control socket", 16)


def leave_stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_socket_file_new_is_private_whatever_the_umask(path: Path) -> None:
    umask = os.umask(0)
    try:
        file = socket_file(path)
        umask_kept = os.umask(0)
    finally:
        os.umask(umask)

    with file.socket:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert umask_kept == 0


def test_socket_file_stale_socket_is_replaced(path: Path) -> None:
    leave_stale_socket(path)

    file = socket_file(path)

    with file.socket, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_socket_file_living_socket_is_refused_and_left_alone(path: Path) -> None:
    with socket_file(path).socket, socket.socket(socket.AF_UNIX) as client:
        message = f"another process listens on {path}: end it or choose another path"
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            socket_file(path)

        client.connect(str(path))


def test_socket_file_other_file_of_that_name_is_refused_and_kept(path: Path) -> None:
    path.write_text("mine")

    message = f"{path} exists and is not a socket: choose another path"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        socket_file(path)

    assert path.read_text() == "mine"


def test_socket_file_symlink_to_a_socket_is_refused(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "other.sock"
    leave_stale_socket(target)
    path.symlink_to(target)

    with pytest.raises(UsageError, match="exists and is not a socket"):
        socket_file(path)


def test_socket_file_path_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 108)

    with pytest.raises(UsageError, match=r"^control socket path has \d+ bytes, Unix sockets allow"):
        socket_file(path)


def test_socket_file_missing_folder_raises_host_error(tmp_path: Path) -> None:
    path = tmp_path / "no" / "vm.sock"

    message = f"cannot create control socket {path}: No such file or directory"
    with pytest.raises(HostError, match=f"^{re.escape(message)}$"):
        socket_file(path)


def test_socket_file_in_a_folder_that_another_process_locks_is_created(path: Path) -> None:
    holder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)

        with socket_file(path).socket, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    finally:
        os.close(holder)


def test_socket_file_leaves_nothing_else_in_its_folder(path: Path) -> None:
    leave_stale_socket(path)

    with socket_file(path).socket:
        assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_socket_files_created_at_once_over_a_stale_one_have_one_winner(path: Path) -> None:
    for _ in range(30):
        path.unlink(missing_ok=True)
        leave_stale_socket(path)
        start = threading.Barrier(4)
        made: list[SocketFile] = []

        def create(start: threading.Barrier = start, made: list[SocketFile] = made) -> None:
            start.wait()
            with suppress(UsageError, HostError):
                made.append(socket_file(path))

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        (winner,) = made
        with winner.socket, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert [each.name for each in path.parent.iterdir()] == [path.name]
        winner.remove()


def test_lock_that_others_can_open_does_not_delay_a_start(path: Path) -> None:
    lock = path.with_name(f".{path.name}.lock")
    lock.touch()
    lock.chmod(0o666)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        with socket_file(path).socket:
            assert path.is_socket()

    assert lock.exists()


def test_remove_deletes_own_file_only(path: Path) -> None:
    first = socket_file(path)
    first.socket.close()
    second = socket_file(path)  # the first one's file is stale now and replaced

    with second.socket:
        first.remove()
        assert path.exists()
        second.remove()
        assert not path.exists()
        second.remove()


def test_remove_if_stale_deletes_what_nobody_listens_at(path: Path) -> None:
    leave_stale_socket(path)

    assert remove_if_stale(path)
    assert list(path.parent.iterdir()) == []
    assert remove_if_stale(path)  # it is not there


def test_remove_if_stale_leaves_what_somebody_listens_at(path: Path) -> None:
    with socket_file(path).socket:
        assert not remove_if_stale(path)
        assert path.is_socket()


def test_remove_if_stale_leaves_what_is_no_socket(path: Path, tmp_path: Path) -> None:
    path.write_text("mine")
    link = tmp_path / "link.sock"
    link.symlink_to(path)

    assert remove_if_stale(path)
    assert remove_if_stale(link)

    assert path.read_text() == "mine"
    assert link.is_symlink()
