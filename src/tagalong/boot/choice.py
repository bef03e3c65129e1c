"""Finds the guest program that a command names."""

from pathlib import Path

from tagalong.boot import guest_image_path
from tagalong.errors import GuestImageError


def read_guest(name: str) -> bytes:
    """Return the image of a built-in guest, or of a file if `name` looks like a path.

    A path has a slash in it or ends in .elf. Raises GuestImageError if it cannot be read.
    """
    path = Path(name) if "/" in name or name.endswith(".elf") else guest_image_path(name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise GuestImageError(f"cannot read the guest program {path}: {error.strerror}") from error
