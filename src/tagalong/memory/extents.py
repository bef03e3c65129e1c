"""What of a file is no hole: the one walk along the extents of memfds, snapshots and copies.

A hole reads as zero, takes no memory and no disk, and must stay a hole: so readers of a
sparse file ask first where its content is, and touch nothing else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from tagalong._lazy import module_when_used
from tagalong._native import library
from tagalong.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
else:
    np = module_when_used("numpy")

# The unit of stat's st_blocks, whatever a file's blocks are (stat(3type)).
_BLOCK_BYTES: Final = 512

# Extents that are asked for in one call; the largest answer takes 64 KiB.
_FIRST_BATCH: Final = 64
_LARGEST_BATCH: Final = 4096


def file_extents(fd: int, start: int, stop: int, name: str) -> Iterator[tuple[int, int]]:
    """Yield the ranges of [start, stop) of a file that are no holes, cut to it, in order.

    `name` is for messages. Touches no content. Starts are multiples of the file system's
    blocks, or `start` itself. Raises HostError if the host cannot tell.
    """
    if _has_no_hole(fd, stop, name):
        yield from [(start, stop)] * (start < stop)
        return
    # On tmpfs the kernel looks at each page of an extent to find its end. So the first batch
    # is small, lest a short range costs a walk along all of a large file.
    batch, at = _FIRST_BATCH, start
    while at < stop:
        found = np.empty((batch, 2), np.uint64)
        count = library().ta_file_extents(fd, at, found.ctypes.data, batch)
        if count < 0:
            raise HostError(f"lseek of {name} from {at:#x} on failed: {os.strerror(-count)}")
        for low, at in found[:count].tolist():
            if low >= stop:
                return
            yield low, min(at, stop)
        if count < batch:
            return
        batch = min(2 * batch, _LARGEST_BATCH)


def _has_no_hole(fd: int, stop: int, name: str) -> bool:
    """Return whether a file of at least `stop` bytes takes as much space as it is long.

    The kernel counts blocks anyway, where it would have to walk to find extents.
    """
    try:
        status = os.fstat(fd)
    except OSError as error:
        raise HostError(f"fstat of {name} failed: {error}") from error
    return status.st_blocks * _BLOCK_BYTES >= status.st_size >= stop
