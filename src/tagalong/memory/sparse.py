"""Arrays with an entry a page of guest RAM, of which few are ever looked at."""

import mmap
from contextlib import suppress
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

# Linux, include/uapi/asm-generic/mman-common.h
_MADV_NOHUGEPAGE: Final = 15

_Scalar = TypeVar("_Scalar", bound=np.generic)


def sparse_zeros(count: int, kind: type[_Scalar]) -> NDArray[_Scalar]:
    """Return `count` zeros that take memory only where they are used.

    Other than numpy's, which the kernel may give memory 2 MiB at a time.
    """
    size_bytes = max(1, count * np.dtype(kind).itemsize)
    memory = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(_MADV_NOHUGEPAGE)
    array: NDArray[Any] = np.frombuffer(memory, kind, count)
    return array
