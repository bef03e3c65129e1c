"""Probes what the host's kernel and CPU can do without KVM.

Sources: Linux include/uapi/linux/userfaultfd.h, arch/arm64/include/uapi/asm/hwcap.h.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
from pathlib import Path
from typing import Final

from tagalong.kvm.abi import PROT_MTE
from tagalong.memory import Plane
from tagalong.studies.probe.findings import CannotTryError, ProbeFinding, attempt

_ARM64: Final = "aarch64"
_AT_HWCAP2: Final = 26
_HWCAP2: Final = {18: "mte", 22: "mte3"}

_SYS_USERFAULTFD: Final = {"aarch64": 282, "x86_64": 323}
_UFFD_USER_MODE_ONLY: Final = 1
_UFFD_API: Final = 0xAA
_UFFD_FEATURE_MINOR_SHMEM: Final = 1 << 10
_UFFDIO_API: Final = 0xC018AA3F
_UFFDIO_REGISTER: Final = 0xC020AA00
_UFFDIO_REGISTER_MODE_MINOR: Final = 1 << 2

_HUGE_PAGES: Final = Path("/sys/kernel/mm/hugepages")


def host_findings() -> list[ProbeFinding]:
    """Return the findings on kernel, CPU and memory."""
    return [
        attempt("kernel", lambda: f"{platform.system()} {platform.release()}"),
        attempt("architecture", _architecture),
        attempt("page_size", lambda: f"{mmap.PAGESIZE} bytes"),
        attempt("huge_pages", _huge_pages),
        attempt("hwcap_mte", _hwcaps),
        attempt("prot_mte", _prot_mte),
        attempt("userfaultfd_minor_shmem", _minor_faults),
    ]


def _architecture() -> str:
    machine = platform.machine()
    if machine != _ARM64:
        raise OSError(f"{machine}: machine 'kvm' needs an arm64 host; machine 'soft' works here")
    return machine


def _huge_pages() -> str:
    sizes = {
        int(folder.name.removeprefix("hugepages-").removesuffix("kB")): folder
        for folder in _HUGE_PAGES.glob("hugepages-*kB")
    }
    if not sizes:
        raise OSError("this kernel has no huge pages")
    return ", ".join(
        f"{size} kB: {(folder / 'nr_hugepages').read_text().strip()} reserved"
        for size, folder in sorted(sizes.items())
    )


def _hwcaps() -> str:
    if platform.machine() != _ARM64:
        raise CannotTryError("not an arm64 host")
    libc = ctypes.CDLL(None)
    libc.getauxval.restype = ctypes.c_ulong
    libc.getauxval.argtypes = (ctypes.c_ulong,)
    bits = libc.getauxval(_AT_HWCAP2)
    found = [name for bit, name in _HWCAP2.items() if bits >> bit & 1]
    if not found:
        raise OSError(f"AT_HWCAP2 is {bits:#x}: no MTE")
    return ", ".join(found)


def _prot_mte() -> str:
    if platform.machine() != _ARM64:
        raise CannotTryError("not an arm64 host")
    protection = mmap.PROT_READ | mmap.PROT_WRITE | PROT_MTE
    mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, protection).close()
    plane = Plane("probe", mmap.PAGESIZE)
    try:
        mmap.mmap(plane.fd, mmap.PAGESIZE, mmap.MAP_SHARED, protection).close()
    finally:
        plane.close()
    return "anonymous and shared memory"


def _minor_faults() -> str:
    number = _SYS_USERFAULTFD.get(platform.machine())
    if number is None:
        raise CannotTryError(f"the number of userfaultfd on {platform.machine()} is not known")
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(number, os.O_CLOEXEC)
    if fd < 0 and ctypes.get_errno() == errno.EPERM:
        fd = libc.syscall(number, os.O_CLOEXEC | _UFFD_USER_MODE_ONLY)
    if fd < 0:
        raise OSError(f"userfaultfd failed: {os.strerror(ctypes.get_errno())}")
    plane = Plane("probe", mmap.PAGESIZE)
    try:
        request = bytearray(struct.pack("<QQQ", _UFFD_API, _UFFD_FEATURE_MINOR_SHMEM, 0))
        fcntl.ioctl(fd, _UFFDIO_API, request)
        area = struct.pack(
            "<QQQQ", plane.array.ctypes.data, mmap.PAGESIZE, _UFFDIO_REGISTER_MODE_MINOR, 0
        )
        fcntl.ioctl(fd, _UFFDIO_REGISTER, bytearray(area))
    finally:
        plane.close()
        os.close(fd)
    return "registered on shared memory"
