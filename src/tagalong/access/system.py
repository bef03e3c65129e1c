"""The system calls that a `NativeHost` makes, each with its errno as a value."""

import ctypes
import errno
import os
from typing import Final

from tagalong.access.host import Direction
from tagalong.errors import HostError

# include/uapi/linux/prctl.h
_PR_SET_TAGGED_ADDR_CTRL: Final = 55
_PR_GET_TAGGED_ADDR_CTRL: Final = 56
# arch/arm64/include/uapi/asm/mman.h, arch/arm64/include/uapi/asm/hwcap.h
PROT_MTE: Final = 0x20
HWCAP2_MTE: Final = 1 << 18
_AT_HWCAP2: Final = 26

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.write.restype = _libc.read.restype = ctypes.c_ssize_t
_libc.write.argtypes = _libc.read.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_libc.getauxval.restype = ctypes.c_ulong


class _Range(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


for _name in ("process_vm_readv", "process_vm_writev"):
    getattr(_libc, _name).restype = ctypes.c_ssize_t
    getattr(_libc, _name).argtypes = (
        ctypes.c_int,
        ctypes.POINTER(_Range),
        ctypes.c_ulong,
        ctypes.POINTER(_Range),
        ctypes.c_ulong,
        ctypes.c_ulong,
    )


def has_mte() -> bool:
    """Return whether CPU and kernel have MTE for user space."""
    return bool(_libc.getauxval(_AT_HWCAP2) & HWCAP2_MTE)


def get_tagged_addr_ctrl() -> int:
    """Return the calling thread's value. Raises HostError."""
    value = int(_libc.prctl(_PR_GET_TAGGED_ADDR_CTRL, 0, 0, 0, 0))
    if value < 0:
        raise _error("prctl(PR_GET_TAGGED_ADDR_CTRL)")
    return value


def set_tagged_addr_ctrl(value: int) -> None:
    """Set the calling thread's value. Raises HostError."""
    if _libc.prctl(_PR_SET_TAGGED_ADDR_CTRL, value, 0, 0, 0):
        raise _error(f"prctl(PR_SET_TAGGED_ADDR_CTRL, {value:#x})")


def protect(address: int, length_bytes: int, protection: int) -> None:
    """Do mprotect(2). Raises HostError."""
    if _libc.mprotect(address, length_bytes, protection):
        raise _error(f"mprotect({address:#x}, {length_bytes:#x}, {protection:#x})")


def write(fd: int, address: int, length_bytes: int) -> int:
    """Write all of a range of this process's memory to a file; return the errno or 0."""
    return _all_of(_libc.write, fd, address, length_bytes)


def read(fd: int, address: int, length_bytes: int) -> int:
    """Read from a file until the range is full; return the errno or 0."""
    return _all_of(_libc.read, fd, address, length_bytes)


def _all_of(call: "ctypes._NamedFuncPointer", fd: int, address: int, length_bytes: int) -> int:
    done = 0
    while done < length_bytes:
        count = call(fd, address + done, length_bytes - done)
        if count < 0:
            return ctypes.get_errno()
        if count == 0:
            return errno.EIO
        done += count
    return 0


def process_vm(direction: Direction, address: int, buffer: int, length_bytes: int) -> int:
    """Copy between two ranges of this process by process_vm_readv or -writev; the errno or 0."""
    name = "process_vm_readv" if direction is Direction.FROM_GUEST else "process_vm_writev"
    local, remote = _Range(buffer, length_bytes), _Range(address, length_bytes)
    count = getattr(_libc, name)(os.getpid(), local, 1, remote, 1, 0)
    if count < 0:
        return ctypes.get_errno()
    # A range that ends early ends at a page that is not there.
    return 0 if count == length_bytes else errno.EFAULT


def _error(what: str) -> HostError:
    return HostError(f"{what} failed: {os.strerror(ctypes.get_errno())}")
