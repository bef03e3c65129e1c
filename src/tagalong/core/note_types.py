"""Numbers and names that are a core's own: types of segments and notes, owners of notes.

docs/formats/core.md is normative; `tagalong.binary.elf` has what all ELF files share. Source:
Linux include/uapi/linux/elf.h; Linux Documentation/arch/arm64/memory-tagging-extension.rst,
"Core dump support", for the tag segments.
"""

from enum import IntEnum
from typing import Final

from tagalong.binary import elf


class SegmentType(IntEnum):
    """p_type of the program headers that a core has."""

    PT_LOAD = elf.PT_LOAD
    PT_NOTE = elf.PT_NOTE
    PT_AARCH64_MEMTAG_MTE = 0x7000_0002


class NoteType(IntEnum):
    """n_type of the notes that are written here, by their names in Linux."""

    NT_PRSTATUS = 1
    NT_FPREGSET = 2
    NT_AUXV = 6
    NT_ARM_TAGGED_ADDR_CTRL = 0x409


class VendorNoteType(IntEnum):
    """n_type of the notes whose owner is TAGALONG.

    Not numbered from 1: BFD takes a note of an owner that it does not know for one of CORE's.
    """

    MACHINE = 0x5441_4701


class KernelNoteType(IntEnum):
    """n_type of the notes whose owner is VMCOREINFO, as the kernel's own /proc/vmcore has it."""

    VMCOREINFO = 0


OWNER_CORE: Final = "CORE"
OWNER_LINUX: Final = "LINUX"
OWNER_TAGALONG: Final = "TAGALONG"
OWNER_VMCOREINFO: Final = "VMCOREINFO"
