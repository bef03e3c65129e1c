"""Starts an arm64 Linux kernel, or what else follows its boot protocol.

image        kernel files: plain, compressed, EFI zboot, flat; bytes to a checked image
platform     what a machine for Linux has, and where
tree         the device tree that says so to the kernel
placement    where kernel, initial RAM disk and device tree go
start        puts them there and sets vCPU 0 to start

Source: Linux, Documentation/arch/arm64/booting.rst.
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.boot.linux.image import MAX_KERNEL_BYTES, KernelForm, KernelImage, parse_kernel
    from tagalong.boot.linux.platform import (
        LINUX_CONSOLE,
        LINUX_GIC,
        LINUX_GPIO,
        LINUX_MAX_VCPUS,
        LINUX_RTC,
        POWER_BUTTON_LINE,
    )
    from tagalong.boot.linux.start import (
        ENTROPY_BYTES,
        LinuxBoot,
        boot_linux,
        entropy_of,
        linux_device_tree,
        prepared_linux,
    )
    from tagalong.boot.linux.tree import ChosenNode, device_tree
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.boot.linux.tree": ("ChosenNode", "device_tree"),
            "tagalong.boot.linux.image": (
                "MAX_KERNEL_BYTES",
                "KernelForm",
                "KernelImage",
                "parse_kernel",
            ),
            "tagalong.boot.linux.platform": (
                "LINUX_CONSOLE",
                "LINUX_GIC",
                "LINUX_GPIO",
                "LINUX_MAX_VCPUS",
                "LINUX_RTC",
                "POWER_BUTTON_LINE",
            ),
            "tagalong.boot.linux.start": (
                "ENTROPY_BYTES",
                "LinuxBoot",
                "boot_linux",
                "entropy_of",
                "linux_device_tree",
                "prepared_linux",
            ),
        },
    )

__all__ = [
    "ENTROPY_BYTES",
    "LINUX_CONSOLE",
    "LINUX_GIC",
    "LINUX_GPIO",
    "LINUX_MAX_VCPUS",
    "LINUX_RTC",
    "MAX_KERNEL_BYTES",
    "POWER_BUTTON_LINE",
    "ChosenNode",
    "KernelForm",
    "KernelImage",
    "LinuxBoot",
    "boot_linux",
    "device_tree",
    "entropy_of",
    "linux_device_tree",
    "parse_kernel",
    "prepared_linux",
]
