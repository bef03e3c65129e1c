"""Memory of zeros that takes only what is touched, in small pages or in huge ones.

What a migration records per page (digests, flags) must cost nothing for pages that are not used. A
guest of 64 GiB that has used little would cost 2 MiB per stretch of such an array if the kernel
gave it huge pages, so sparse records have small ones. Dense ones have huge pages for the opposite
reason: their page faults.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tagalong._lazy import module_when_used

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = module_when_used("numpy")


_Scalar = TypeVar("_Scalar", bound="np.generic")


def sparse_zeros(count: int, kind: type[_Scalar]) -> NDArray[_Scalar]:
    """Return `count` zeros of which few are ever used: they take memory only there.

    numpy's zeros may take memory 2 MiB at a time instead, where the kernel uses huge pages.
    """
    return _zeros(count, kind, mmap.MADV_NOHUGEPAGE)


def dense_zeros(count: int, kind: type[_Scalar]) -> NDArray[_Scalar]:
    """Return `count` zeros most of which are used soon, if any: memory is taken 2 MiB at a time.

    A page fault costs more than copying a page, most of all while other threads fault as well.
    If the kernel has no huge pages, small ones are used.
    """
    return _zeros(count, kind, mmap.MADV_HUGEPAGE)


def _zeros(count: int, kind: type[_Scalar], advice: int) -> NDArray[_Scalar]:
    size_bytes = max(1, count * np.dtype(kind).itemsize)
    memory = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(advice)
    array: NDArray[Any] = np.frombuffer(memory, kind, count)
    return array
