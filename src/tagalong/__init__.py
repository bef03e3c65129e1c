"""tagalong carries an Arm MTE guest's allocation tags along with its memory.

The public API is this package: the names below, and what the `__all__` of each of these
packages lists. Everything else is private and may change in any release.

    access    the ways for a VMM to touch tagged guest memory
    boot      puts a guest program into a new machine
    core      ELF cores: memory, tags, registers, machine state
    errors    the tree of errors
    kvm       the machine on a real /dev/kvm
    machine   what a machine is: the Protocols, and the values that they exchange
    memory    guest RAM: regions with data and tags, addresses, page bitmaps
    migrate   moves a running machine over a channel
    mte       the architecture: tags, pointers, registers, as pure values and functions
    paging    walks a guest's stage-1 translation tables
    qemu      guests that QEMU runs or has saved, as cores
    snapshot  saves a machine to a core, restores it, writes dumps
    soft      the embedded machine

Names and packages load when they are used, so `import tagalong` costs nothing.
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong import (
        access,
        boot,
        core,
        errors,
        kvm,
        machine,
        memory,
        migrate,
        mte,
        paging,
        qemu,
        snapshot,
        soft,
    )
    from tagalong.boot import boot_guest, guest_image_path
    from tagalong.core import Core, CoreWriter, open_core
    from tagalong.errors import TagalongError
    from tagalong.kvm import KvmMachine
    from tagalong.machine import Machine, Vcpu
    from tagalong.memory import Gpa
    from tagalong.soft import SoftMachine
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong": (
                "access", "boot", "core", "errors", "kvm", "machine", "memory", "migrate", "mte",
                "paging", "qemu", "snapshot", "soft",
            ),
            "tagalong.boot": ("boot_guest", "guest_image_path"),
            "tagalong.core": ("Core", "CoreWriter", "open_core"),
            "tagalong.errors": ("TagalongError",),
            "tagalong.kvm": ("KvmMachine",),
            "tagalong.machine": ("Machine", "Vcpu"),
            "tagalong.memory": ("Gpa",),
            "tagalong.soft": ("SoftMachine",),
        },
    )  # fmt: skip

__version__ = "0.1.0"

__all__ = [
    "Core",
    "CoreWriter",
    "Gpa",
    "KvmMachine",
    "Machine",
    "SoftMachine",
    "TagalongError",
    "Vcpu",
    "__version__",
    "access",
    "boot",
    "boot_guest",
    "core",
    "errors",
    "guest_image_path",
    "kvm",
    "machine",
    "memory",
    "migrate",
    "mte",
    "open_core",
    "paging",
    "qemu",
    "snapshot",
    "soft",
]
