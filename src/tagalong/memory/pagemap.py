"""Which pages of this process's memory have a page of their own: /proc/self/pagemap.

Looking touches no page. Source: Linux, Documentation/admin-guide/mm/pagemap.rst (bit 61: file
page or shared; 62: swapped out; 63: present).
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Final

from tagalong._lazy import module_when_used
from tagalong.errors import HostError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = module_when_used("numpy")

_PAGEMAP: Final = "/proc/self/pagemap"
_ENTRY_BYTES: Final = 8
_FILE_OR_SHARED: Final = 1 << 61
_SWAPPED: Final = 1 << 62
_PRESENT: Final = 1 << 63


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
    present = entries & np.uint64(_PRESENT | _FILE_OR_SHARED) == np.uint64(_PRESENT)
    found: NDArray[np.bool_] = present | (entries & np.uint64(_SWAPPED) != 0)
    return found
