"""Shared memory made ready ahead of need: a destination has time while it waits.

The first touch of a page costs more than copying it, since the kernel has to find and clear it.
A destination that knows how large the arriving machine is has that done before it arrives.
"""

import contextlib
import errno
import mmap
import os
import threading
from collections.abc import Callable
from typing import Final

from tagalong.errors import HostError

# Linux, include/uapi/asm-generic/mman-common.h
_MADV_POPULATE_WRITE: Final = 23

_STEP_BYTES: Final = 32 << 20

Reserved = tuple[int, mmap.mmap]
"""A memfd, close-on-exec, and its mapping; its pages are zero, and there as far as possible."""

_pool: dict[int, list[Reserved]] = {}
_lock = threading.Lock()


def reserve(size_bytes: int, is_enough: Callable[[], bool]) -> None:
    """Make shared memory of `size_bytes` ready, for the next plane of just that size.

    `is_enough` is called every now and then: once it returns true, the rest stays holes. Huge pages
    are used where the kernel has them for shared memory. Raises HostError if the host does not
    have the memory; nothing stays reserved then.
    """
    descriptor = os.memfd_create("tagalong-reserved", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size_bytes)
        mapping = mmap.mmap(descriptor, size_bytes, mmap.MAP_SHARED)
        _populate(mapping, size_bytes, is_enough)
    except (OSError, ValueError, OverflowError) as error:
        os.close(descriptor)
        raise HostError(f"cannot reserve {size_bytes} bytes of memory: {error}") from error
    with _lock:
        _pool.setdefault(size_bytes, []).append((descriptor, mapping))


def _populate(mapping: mmap.mmap, size_bytes: int, is_enough: Callable[[], bool]) -> None:
    with contextlib.suppress(OSError):  # a kernel without huge pages
        mapping.madvise(mmap.MADV_HUGEPAGE)
    for start in range(0, size_bytes, _STEP_BYTES):
        if is_enough():
            return
        _populate_range(mapping, start, min(_STEP_BYTES, size_bytes - start))


def _populate_range(mapping: mmap.mmap, start: int, size_bytes: int) -> None:
    try:
        mapping.madvise(_MADV_POPULATE_WRITE, start, size_bytes)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Linux before 5.14: a write to each page does the same, more slowly.
        for page in range(start, start + size_bytes, mmap.PAGESIZE):
            mapping[page] = 0


def take_reserved(size_bytes: int) -> Reserved | None:
    """Return reserved memory of just this size, which is the caller's now, or None."""
    with _lock:
        ready = _pool.get(size_bytes)
        return ready.pop() if ready else None


def release_reserved() -> None:
    """Give back all reserved memory that is not in use."""
    with _lock:
        for ready in _pool.values():
            for descriptor, mapping in ready:
                mapping.close()
                os.close(descriptor)
        _pool.clear()
