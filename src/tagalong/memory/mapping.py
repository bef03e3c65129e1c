"""mmap(2) at a given address, or of addresses alone: Python's own mmap does not offer these."""

import ctypes
import mmap
import os
import weakref
from typing import Final, NoReturn

_MAP_FIXED: Final = 0x10
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_PROT_NONE: Final = 0
MAP_NORESERVE: Final = 0x4000


def reserve_addresses(size_bytes: int) -> memoryview:
    """Return addresses for map_over, which must be used before they are read or written.

    They count neither as memory that the host has promised nor against a limit on data. All of them
    are unmapped, with what was mapped over them, when the last view of them goes. Raises OSError.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    address = _libc.mmap(None, size_bytes, _PROT_NONE, flags, -1, 0)
    if address == _MAP_FAILED:
        _raise_error()
    memory = (ctypes.c_char * size_bytes).from_address(address)
    unmap = weakref.finalize(memory, _libc.munmap, address, size_bytes)
    unmap.atexit = False  # threads may still use it then
    return memoryview(memory).cast("B")


def map_over(memory: memoryview, flags: int, fd: int, offset: int = 0) -> None:
    """Map a file, for reading and writing, in place of `memory`, which is a part of a mapping.

    Both begin at a page. Raises OSError.
    """
    address = address_of(memory)
    made = _libc.mmap(address, memory.nbytes, _READ_WRITE, flags | _MAP_FIXED, fd, offset)
    if made == _MAP_FAILED:
        _raise_error()


def address_of(memory: memoryview) -> int:
    """Return where this process has `memory`, which can be written."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _raise_error() -> NoReturn:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code))
