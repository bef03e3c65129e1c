"""Whether drgn and crash read the Linux kernel in a core: what follows from its VMCOREINFO."""

from dataclasses import dataclass
from typing import Final

from tagalong.binary import elf
from tagalong.core.note_types import SegmentType
from tagalong.core.reader import Core
from tagalong.core.space import Space
from tagalong.core.vmcoreinfo import Vmcoreinfo
from tagalong.errors import MalformedCoreError

DRGN: Final = "drgn 0.3.0"
CRASH: Final = "crash 8.0.2"
"""The versions that were tried."""

# crash takes a core whose first PT_LOAD is aligned for one of the old netdump (is_netdump in its
# netdump.c), and reads notes only in front of the first PT_LOAD. It takes all other segments for
# memory at p_paddr, the first in the file first: those of tags must follow what they could hide.
_NETDUMP_ALIGNMENT: Final = 4096

# struct module has had its memory in an array since then (Linux 6.4, include/linux/module.h).
_MODULE_MEMORY: Final = (6, 4)


@dataclass(frozen=True)
class KernelVerdict:
    """Whether drgn reads the guest's kernel at its virtual addresses, and why, or why not.

    `crash_reason`: why crash does not, although drgn does; None if it finds what it needs.
    `crash_options`: what must be on its command line for that, besides the kernel's vmlinux.
    """

    opens: bool
    reason: str
    crash_reason: str | None = None
    crash_options: str = ""


def kernel_verdict(core: Core) -> KernelVerdict | None:
    """Return what drgn and crash do with an open core, None if it is not of a whole machine.

    Both take a core for one of a kernel if they find VMCOREINFO, and walk the kernel's own tables
    from swapper_pg_dir on, at physical addresses.
    """
    try:
        kernel, machine = core.vmcoreinfo, core.machine
    except MalformedCoreError as error:
        return KernelVerdict(False, str(error))
    if kernel is None:
        return None if machine is None else KernelVerdict(False, _why_none(machine.space))
    table = kernel.kernel_table
    if not any(load.physical <= table < load.physical + load.file_bytes for load in core.loads):
        return KernelVerdict(
            False,
            f"Linux {kernel.osrelease}: its translation tables at gpa {table:#x} are not in the "
            "core",
        )
    found = f"Linux {kernel.osrelease}, translation tables at gpa {table:#x}"
    return KernelVerdict(True, found, _why_not_crash(core), _crash_options(kernel))


def _crash_options(kernel: Vmcoreinfo) -> str:
    offset = kernel.crash_phys_offset
    told = [] if offset is None else [f"-m phys_offset={offset:#x}"]
    if kernel.version is not None and kernel.version >= _MODULE_MEMORY:
        told.append("--no_modules")
    return " ".join(told)


def _why_none(space: Space) -> str:
    if space is Space.USER:
        return "a dump of user addresses, which is no core of a kernel; dump physical ones"
    return "no VMCOREINFO in the guest's memory: it is no Linux guest, or had not booted so far"


def _why_not_crash(core: Core) -> str | None:
    notes = [each for each in core.headers if each.type == elf.PT_NOTE]
    if any(note.offset > load.offset for note in notes for load in core.loads):
        return "it reads notes only in front of all memory, and these come later"
    first = core.loads[0]
    if first.offset % _NETDUMP_ALIGNMENT == 0 and first.alignment:
        return "it takes aligned segments for those of another kind of dump"
    if core.headers[0].type != elf.PT_NOTE:
        return "it takes the first segment for the one of notes, whatever it is"
    others = [each for each in core.headers if each.type not in (SegmentType.PT_LOAD, elf.PT_NOTE)]
    if any(other.at < load.at for other in others for load in core.loads):
        return "it takes every segment for memory, and here others come before those of memory"
    return None
