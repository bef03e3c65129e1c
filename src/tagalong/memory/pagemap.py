"""Which pages of this process's memory have a page of their own: /proc/self/pagemap.

Looking touches no page. Source: Linux, Documentation/admin-guide/mm/pagemap.rst (bit 61: file
page or shared; 62: swapped out; 63: present).
"""

import mmap
import os
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import HostError

_PAGEMAP: Final = "/proc/self/pagemap"
_ENTRY_BYTES: Final = 8
_FILE_OR_SHARED: Final = np.uint64(1 << 61)
_SWAPPED: Final = np.uint64(1 << 62)
_PRESENT: Final = np.uint64(1 << 63)


def private_pages(address: int, page_count: int, name: str) -> NDArray[np.bool_]:
    """Return, for pages from hva `address` on, whether each is anonymous and not a hole.

    A page of a file that is mapped privately counts once it was written to. `name` is for the
    message of the HostError that is raised if the kernel does not tell.
    """
    at = address // mmap.PAGESIZE * _ENTRY_BYTES
    try:
        with open(_PAGEMAP, "rb", buffering=0) as pagemap:
            content = os.pread(pagemap.fileno(), page_count * _ENTRY_BYTES, at)
    except OSError as error:
        raise HostError(f"cannot read {_PAGEMAP} for {name}: {error}") from error
    entries = np.frombuffer(content, np.uint64)
    present = entries & (_PRESENT | _FILE_OR_SHARED) == _PRESENT
    found: NDArray[np.bool_] = present | (entries & _SWAPPED != 0)
    return found


def runs_of(flags: NDArray[np.bool_], first: int = 0) -> list[list[int]]:
    """Return [start, stop) of the runs of flags that are set; the first flag's number is `first`.

    >>> runs_of(np.array([False, True, True, False, True]))
    [[1, 3], [4, 5]]
    """
    fenced = np.zeros(flags.size + 2, np.bool_)
    fenced[1:-1] = flags
    edges = np.flatnonzero(fenced[1:] != fenced[:-1])
    pairs: list[list[int]] = (first + edges.reshape(-1, 2)).tolist()
    return pairs
