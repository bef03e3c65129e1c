"""Tells apart the descriptors of this process by what they refer to.

Other threads of a test run open and close descriptors at any time (the lab's), and so does the
garbage collector, which may end here what an earlier test left: a number of descriptors before
and after says nothing about one piece of code.
"""

import os
from collections.abc import Iterator
from contextlib import suppress


def memory_files() -> set[int]:
    """Return the inodes of the memfds that are open: a new one never has an old one's number."""
    inodes = set()
    for number in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{number}"
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(path).startswith("/memfd:tagalong"):
                inodes.add(os.stat(path).st_ino)
    return inodes


def descriptors_of(descriptor: int) -> int:
    """Return how many descriptors refer to the same file as `descriptor`, this one included."""
    wanted = os.readlink(f"/proc/self/fd/{descriptor}")
    return sum(target == wanted for target in _links())


def _links() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(f"/proc/self/fd/{number}")
