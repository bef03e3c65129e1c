"""mmap(2) at a given address, which Python's own mmap does not offer."""

import ctypes
import mmap
import os
from typing import Final

_MAP_FIXED: Final = 0x10
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
)  # fmt: skip
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


def map_over(memory: memoryview, flags: int, fd: int, offset: int = 0) -> None:
    """Map a file, for reading and writing, in place of `memory`, which is a part of a mapping.

    Both begin at a page. Raises OSError.
    """
    address = address_of(memory)
    made = _libc.mmap(address, memory.nbytes, _READ_WRITE, flags | _MAP_FIXED, fd, offset)
    if made == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def address_of(memory: memoryview) -> int:
    """Return where this process has `memory`, which can be written."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
