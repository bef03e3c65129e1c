"""Outputs on which writing fails, each of its own kind and with no effect on anybody else's."""

import os
import stat
from pathlib import Path
from typing import TextIO

_FULL_DEVICE = os.makedev(1, 7)


def unread_pipe() -> TextIO:
    """Return a stream whose reader went away."""
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w", encoding="utf-8")


def closed_file() -> TextIO:
    """Return a stream whose descriptor takes no writes, as a closed standard output does."""
    return open(os.open("/dev/null", os.O_RDONLY), "w", encoding="utf-8")


def full_device(path: Path) -> Path:
    """Make a device at `path` on which every write fails with ENOSPC."""
    os.mknod(path, stat.S_IFCHR | 0o600, _FULL_DEVICE)
    return path
