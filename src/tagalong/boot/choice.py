"""Finds the guest program that a command names, and reads it."""

from pathlib import Path
from typing import Final

from tagalong.boot.files import read_bounded
from tagalong.boot.program import guest_image_path

MAX_IMAGE_BYTES: Final = 256 << 20
"""The largest guest program that is read: a kernel with its initial RAM disk is far smaller."""


def read_guest(name: str) -> bytes:
    """Return the image of a built-in guest, or of a file if `name` looks like a path.

    A path has a slash in it or ends in .elf. Only a regular file of at most MAX_IMAGE_BYTES is
    read. Raises GuestImageError if it cannot be read, HostError if the host has no memory for it.
    """
    path = Path(name) if "/" in name or name.endswith(".elf") else guest_image_path(name)
    return read_bounded(path, "guest program", MAX_IMAGE_BYTES)
