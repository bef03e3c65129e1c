"""Counts descriptors of this process by what they refer to.

Other threads of a test run open and close descriptors at any time (the lab's), and so does the
garbage collector: the number of all descriptors says nothing about one piece of code.
"""

import os
from collections.abc import Iterator
from contextlib import suppress


def memory_files() -> int:
    """Return how many descriptors of memfds there are."""
    return sum(target.startswith("/memfd:") for target in _links())


def descriptors_of(descriptor: int) -> int:
    """Return how many descriptors refer to the same file as `descriptor`, this one included."""
    wanted = os.readlink(f"/proc/self/fd/{descriptor}")
    return sum(target == wanted for target in _links())


def _links() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(f"/proc/self/fd/{number}")
