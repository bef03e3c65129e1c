"""What a name to write to can lead to, made in a folder of a test's own."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

Make = Callable[[Path], None]


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def make_device(path: Path) -> None:
    """Make a character device that is like /dev/null."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def make_block_device(path: Path) -> None:
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 255))


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


UNWRITABLE: dict[str, tuple[Make, str]] = {
    "directory": (Path.mkdir, "it is a directory; give a file name"),
    "socket": (make_socket, "it is a socket; give a file name"),
    "fifo": (os.mkfifo, "it is a FIFO; give a file name"),
}
LOOP: tuple[Make, str] = (make_loop, "Too many levels of symbolic links")
DEVICES: dict[str, tuple[Make, str]] = {
    "character device": (make_device, "it is a character device; give a file name"),
    "block device": (make_block_device, "it is a block device; give a file name"),
}


def can_make_devices(folder: Path) -> bool:
    try:
        make_device(folder / "probe")
    except PermissionError:
        return False
    (folder / "probe").unlink()
    return True


def unwritable(folder: Path) -> dict[str, tuple[Make, str]]:
    """Return all kinds that this process can make in `folder`, and why each is refused."""
    return UNWRITABLE | (DEVICES if can_make_devices(folder) else {})


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())
