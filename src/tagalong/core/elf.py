"""The ELF core format as numbers and byte tables (docs/formats/core.md is normative).

Source: System V ABI, chapter 5 (gABI); Linux include/uapi/linux/elf.h and
arch/arm64/include/uapi/asm/ptrace.h; Linux Documentation/arch/arm64/memory-tagging-extension.rst,
"Core dump support", for the tag segments.
"""

from enum import IntEnum

from tagalong.binary.layout import Layout

MAGIC = b"\x7fELF"
CLASS_64 = 2
DATA_LITTLE = 1
VERSION = 1
ET_CORE = 4
EM_AARCH64 = 183
PN_XNUM = 0xFFFF
"""e_phnum of a file with more program headers: then sh_info of section header 0 counts them."""

IDENT = Layout(
    ("magic", 4),
    ("ei_class", "u8"),
    ("ei_data", "u8"),
    ("ei_version", "u8"),
    ("ei_osabi", "u8"),
    ("ei_abiversion", "u8"),
    ("ei_pad", 7),
)
ELF_HEADER = Layout(
    ("e_ident", IDENT.size),
    ("e_type", "u16"),
    ("e_machine", "u16"),
    ("e_version", "u32"),
    ("e_entry", "u64"),
    ("e_phoff", "u64"),
    ("e_shoff", "u64"),
    ("e_flags", "u32"),
    ("e_ehsize", "u16"),
    ("e_phentsize", "u16"),
    ("e_phnum", "u16"),
    ("e_shentsize", "u16"),
    ("e_shnum", "u16"),
    ("e_shstrndx", "u16"),
)
PROGRAM_HEADER = Layout(
    ("p_type", "u32"),
    ("p_flags", "u32"),
    ("p_offset", "u64"),
    ("p_vaddr", "u64"),
    ("p_paddr", "u64"),
    ("p_filesz", "u64"),
    ("p_memsz", "u64"),
    ("p_align", "u64"),
)
SECTION_HEADER = Layout(
    ("sh_name", "u32"),
    ("sh_type", "u32"),
    ("sh_flags", "u64"),
    ("sh_addr", "u64"),
    ("sh_offset", "u64"),
    ("sh_size", "u64"),
    ("sh_link", "u32"),
    ("sh_info", "u32"),
    ("sh_addralign", "u64"),
    ("sh_entsize", "u64"),
)
NOTE_HEADER = Layout(("n_namesz", "u32"), ("n_descsz", "u32"), ("n_type", "u32"))

NOTE_ALIGNMENT = 4

PF_RWX = 7


class SegmentType(IntEnum):
    """p_type of the program headers that a core has."""

    PT_LOAD = 1
    PT_NOTE = 4
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


OWNER_CORE = "CORE"
OWNER_LINUX = "LINUX"
OWNER_TAGALONG = "TAGALONG"


def align_up(value: int, alignment: int) -> int:
    """Return the next multiple of `alignment` that is not below `value`."""
    return -(-value // alignment) * alignment
