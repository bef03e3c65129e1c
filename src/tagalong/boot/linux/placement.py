"""Where a kernel, its initial RAM disk and its device tree go.

    RAM   | kernel ........ | free | initial RAM disk | free | device tree (2 MiB) | free

The kernel is as low as it may be: older ones cannot use the memory below them. The others go where
QEMU puts them, 128 MiB or half of RAM behind the start, which leaves room behind images that use
memory behind themselves without saying so; in small RAM right behind the kernel.

Source: Linux, Documentation/arch/arm64/booting.rst, sections 2 and 4; QEMU, hw/arm/boot.c.
"""

from dataclasses import dataclass
from typing import Final

from tagalong.boot.linux.image import KernelImage
from tagalong.errors import GuestImageError
from tagalong.machine import RegionDescription
from tagalong.memory import Gpa

MAX_TREE_BYTES: Final = 2 << 20
"""The kernel maps this much for the device tree."""

_ALIGNMENT: Final = 2 << 20
_APART_BYTES: Final = 128 << 20
_WINDOW_BYTES: Final = 32 << 30


@dataclass(frozen=True)
class BootPlacement:
    """First gpas. `initrd_end` is `initrd` without an initial RAM disk."""

    kernel: Gpa
    initrd: Gpa
    initrd_end: Gpa
    tree: Gpa


def place(ram: RegionDescription, kernel: KernelImage, initrd_bytes: int) -> BootPlacement:
    """Return where everything goes in `ram`, the lowest region of a machine.

    Raises GuestImageError saying what does not fit.
    """
    base = _aligned(ram.gpa)
    ram_end = ram.gpa + ram.size_bytes
    start = base + kernel.text_offset
    kernel_end = start + kernel.size_bytes
    if kernel_end > ram_end:
        raise GuestImageError(
            f"kernel: it needs {kernel.size_bytes:#x} bytes from {start:#x} on, and RAM ends at "
            f"{ram_end:#x}; give more --ram"
        )
    apart = base + min(ram.size_bytes // 2, _APART_BYTES)
    for earliest in (max(apart, kernel_end), kernel_end):
        initrd = _aligned(earliest)
        tree = _aligned(initrd + initrd_bytes)
        if tree + MAX_TREE_BYTES <= ram_end:
            break
    else:
        raise GuestImageError(
            f"the initial RAM disk of {initrd_bytes:#x} bytes and {MAX_TREE_BYTES:#x} for the "
            f"device tree do not fit between the kernel, which ends at {kernel_end:#x}, and the "
            f"end of RAM at {ram_end:#x}; give more --ram"
        )
    if initrd + initrd_bytes - base > _WINDOW_BYTES:
        raise GuestImageError(
            f"the initial RAM disk of {initrd_bytes:#x} bytes ends more than {_WINDOW_BYTES:#x} "
            "behind the kernel, where the kernel cannot reach it"
        )
    return BootPlacement(Gpa(start), Gpa(initrd), Gpa(initrd + initrd_bytes), Gpa(tree))


def _aligned(gpa: int) -> int:
    return -(-gpa // _ALIGNMENT) * _ALIGNMENT
