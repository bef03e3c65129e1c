"""Guests of QEMU that we did not start: what it saved to a file, and what it runs.

attach        a QEMU that runs, by its process id; process: what it is; monitor: its QMP
shared_ram    its guest's RAM, mapped
conversion    a file to a core
saved_guest   a file of `migrate file:`, as a machine that can be dumped
stream        the elements of such a file; ram: its pages; description: its devices' fields
vcpus         registers
known         QEMU's virt machine, and files that are mistaken for its streams
cursor        a place in a file

All of it is hostile input: counts are checked before anything is allocated, errors have offsets.
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.qemu.attach import Attached, dump_process
    from tagalong.qemu.conversion import Converted, QemuFile, convert
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.qemu.attach": ("Attached", "dump_process"),
            "tagalong.qemu.conversion": ("Converted", "QemuFile", "convert"),
        },
    )

__all__ = ["Attached", "Converted", "QemuFile", "convert", "dump_process"]
