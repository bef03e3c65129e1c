"""The lab: an emulated Arm host with a real kernel, a real KVM and MTE, on any machine.

QEMU's `virt` machine under TCG boots a Debian kernel at EL2 in seconds; that kernel offers
/dev/kvm with KVM_CAP_ARM_MTE. `set_up` fetches and builds the pieces without root; `run` boots
them, runs a command with the code of the current checkout, and returns its exit status.
docs/guide/lab.md describes the lab for users.

Private: scripts use `tagalong lab`.
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.lab.boot import LabImage, Streams, Terminal, run, shell
    from tagalong.lab.cache import default_folder
    from tagalong.lab.guest import GuestRequest, LinuxGuest, set_up_guest
    from tagalong.lab.observer import Observer, SilentObserver
    from tagalong.lab.packages import DEFAULT_KERNEL, KERNELS
    from tagalong.lab.qemu import EmulatorOptions
    from tagalong.lab.rootfs import (
        ROOTFS_BYTES,
        ROOTFS_PACKAGES,
        Rootfs,
        RootfsRequest,
        make_rootfs,
    )
    from tagalong.lab.setup import Lab, LabRequest, forget, set_up
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.lab.boot": ("LabImage", "Streams", "Terminal", "run", "shell"),
            "tagalong.lab.cache": ("default_folder",),
            "tagalong.lab.guest": ("GuestRequest", "LinuxGuest", "set_up_guest"),
            "tagalong.lab.observer": ("Observer", "SilentObserver"),
            "tagalong.lab.packages": ("DEFAULT_KERNEL", "KERNELS"),
            "tagalong.lab.qemu": ("EmulatorOptions",),
            "tagalong.lab.rootfs": (
                "ROOTFS_BYTES",
                "ROOTFS_PACKAGES",
                "Rootfs",
                "RootfsRequest",
                "make_rootfs",
            ),
            "tagalong.lab.setup": ("Lab", "LabRequest", "forget", "set_up"),
        },
    )

__all__ = [
    "DEFAULT_KERNEL",
    "KERNELS",
    "ROOTFS_BYTES",
    "ROOTFS_PACKAGES",
    "EmulatorOptions",
    "GuestRequest",
    "Lab",
    "LabImage",
    "LabRequest",
    "LinuxGuest",
    "Observer",
    "Rootfs",
    "RootfsRequest",
    "SilentObserver",
    "Streams",
    "Terminal",
    "default_folder",
    "forget",
    "make_rootfs",
    "run",
    "set_up",
    "set_up_guest",
    "shell",
]
