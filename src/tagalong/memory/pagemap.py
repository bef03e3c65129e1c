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
