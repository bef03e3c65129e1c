"""ELF files of 64 bits, little-endian: headers to values and back.

Whose file it is decides the caller: a core, a guest's program, a shared library. Nothing that
a header claims is trusted: a table must lie in the file, its length is bounded before anything
is allocated, and `ProgramHeader.available` says how much of a segment the file really has.

Source: System V ABI, chapters 4 and 5 (gABI); Linux include/uapi/linux/elf.h.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, Self

from tagalong.binary.layout import Buffer, Layout, MalformedError

MAGIC: Final = b"\x7fELF"
CLASS_64: Final = 2
DATA_LITTLE: Final = 1
VERSION: Final = 1
ET_CORE: Final = 4
EM_AARCH64: Final = 183
PT_LOAD: Final = 1
PT_NOTE: Final = 4
PF_RWX: Final = 7

PN_XNUM: Final = 0xFFFF
"""e_phnum of a file with more program headers: then sh_info of section header 0 counts them."""

NOTE_ALIGNMENT: Final = 4

IDENT: Final = Layout(
    ("magic", 4),
    ("ei_class", "u8"),
    ("ei_data", "u8"),
    ("ei_version", "u8"),
    ("ei_osabi", "u8"),
    ("ei_abiversion", "u8"),
    ("ei_pad", 7),
)
ELF_HEADER: Final = Layout(
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
PROGRAM_HEADER: Final = Layout(
    ("p_type", "u32"),
    ("p_flags", "u32"),
    ("p_offset", "u64"),
    ("p_vaddr", "u64"),
    ("p_paddr", "u64"),
    ("p_filesz", "u64"),
    ("p_memsz", "u64"),
    ("p_align", "u64"),
)
SECTION_HEADER: Final = Layout(
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
NOTE_HEADER: Final = Layout(("n_namesz", "u32"), ("n_descsz", "u32"), ("n_type", "u32"))

View = Callable[[int, int], Buffer]
"""Returns `length` bytes of a file from `offset` on; asked only for what lies in the file."""


class ElfHeader(NamedTuple):
    """The ELF header; fields have the names of gABI without `e_`."""

    ident: bytes
    type: int
    machine: int
    version: int
    entry: int
    phoff: int
    shoff: int
    flags: int
    ehsize: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int

    @classmethod
    def new(cls, *, kind: int, machine: int, phnum: int, shoff: int = 0) -> Self:
        """Return the header of a file whose program headers follow it.

        `kind`: e_type. `shoff`: where section header 0 is, 0 without one. With PN_XNUM program
        headers or more, `phnum` says just that, and section header 0 counts them.
        """
        ident = IDENT.pack(
            magic=MAGIC, ei_class=CLASS_64, ei_data=DATA_LITTLE, ei_version=VERSION,
            ei_osabi=0, ei_abiversion=0, ei_pad=bytes(7),
        )  # fmt: skip
        return cls(
            ident, kind, machine, VERSION, entry=0, phoff=ELF_HEADER.size, shoff=shoff, flags=0,
            ehsize=ELF_HEADER.size, phentsize=PROGRAM_HEADER.size, phnum=min(phnum, PN_XNUM),
            shentsize=SECTION_HEADER.size if shoff else 0, shnum=int(bool(shoff)), shstrndx=0,
        )  # fmt: skip

    @property
    def osabi(self) -> int:
        """Return EI_OSABI: 0 System V, 3 GNU."""
        return self.ident[IDENT.offsets["ei_osabi"]]

    def pack(self) -> bytes:
        """Return the header as bytes. Raises MalformedError for a value that does not fit."""
        return ELF_HEADER.pack(**{f"e_{name}": value for name, value in self._asdict().items()})


class ProgramHeader(NamedTuple):
    """One program header: a segment; all sizes in bytes.

    `at`: the header's own offset in the file. Of the `file_bytes` that it claims to have from
    `offset` on, the first `available` exist: fewer in a file that was cut short.
    """

    at: int
    type: int
    flags: int
    offset: int
    address: int
    physical: int
    file_bytes: int
    size_bytes: int
    alignment: int
    available: int

    @property
    def end(self) -> int:
        """Return the first address behind the segment."""
        return self.address + self.size_bytes

    @property
    def is_cut(self) -> bool:
        """Return whether the file ends before the segment does."""
        return self.available < self.file_bytes


def view_of(image: Buffer) -> View:
    """Return a View of a file that is in memory; it copies nothing."""
    content = memoryview(image)
    return lambda offset, length: content[offset : offset + length]


def read_elf_header(view: View, size_bytes: int) -> ElfHeader:
    """Return the header of a file of `size_bytes`.

    Raises MalformedError, its offset counted from the start of the file, if that is no
    little-endian ELF file of 64 bits.
    """
    _require_bytes(size_bytes, 0, ELF_HEADER.size, "the ELF header", at=0)
    raw = bytes(view(0, ELF_HEADER.size))
    ident = IDENT.unpack(raw)
    if ident["magic"] != MAGIC:
        raise MalformedError(f"{ident['magic']!r} does not start an ELF file")
    require_field("EI_CLASS (64 bits)", ident["ei_class"], CLASS_64, IDENT.offsets["ei_class"])
    require_field(
        "EI_DATA (little-endian)", ident["ei_data"], DATA_LITTLE, IDENT.offsets["ei_data"]
    )
    return ElfHeader(*ELF_HEADER.unpack(raw).values())


def require_field(name: str, value: int, expected: int, offset: int) -> None:
    """Raise MalformedError unless the field `name` at `offset` has the `expected` value."""
    if value != expected:
        raise MalformedError(f"{name} is {value:#x}, not {expected:#x}", offset=offset)


def read_program_headers(
    view: View, size_bytes: int, header: ElfHeader, *, most: int
) -> list[ProgramHeader]:
    """Return all program headers in their order, at most `most`.

    Raises MalformedError if there are more, if the file of `size_bytes` ends inside the table,
    or for headers of another size.
    """
    count = _program_header_count(view, size_bytes, header)
    if count > most:
        raise MalformedError(
            f"{count:#x} program headers: {most:#x} are possible",
            offset=ELF_HEADER.offsets["e_phnum"],
        )
    if not count:
        return []
    entry_at = ELF_HEADER.offsets["e_phentsize"]
    require_field("e_phentsize", header.phentsize, PROGRAM_HEADER.size, entry_at)
    table, table_bytes = header.phoff, count * PROGRAM_HEADER.size
    table_at = ELF_HEADER.offsets["e_phoff"]
    _require_bytes(size_bytes, table, table_bytes, "the program headers", at=table_at)
    return _rows(view(table, table_bytes), table, size_bytes)


def _program_header_count(view: View, size_bytes: int, header: ElfHeader) -> int:
    if header.phnum != PN_XNUM:
        return header.phnum
    at = header.shoff
    section_at = ELF_HEADER.offsets["e_shoff"]
    _require_bytes(size_bytes, at, SECTION_HEADER.size, "section header 0", at=section_at)
    count: int = SECTION_HEADER.unpack(view(at, SECTION_HEADER.size))["sh_info"]
    return count


def _rows(raw: Buffer, table: int, size_bytes: int) -> list[ProgramHeader]:
    """Return the headers in `raw`; a file may have hundreds of thousands."""
    places = range(table, table + len(raw), PROGRAM_HEADER.size)
    rows = PROGRAM_HEADER.rows(raw)
    return [
        ProgramHeader(at, kind, flags, offset, address, physical, file_bytes, size, alignment,
                      min(file_bytes, max(size_bytes - offset, 0)))
        for at, (kind, flags, offset, address, physical, file_bytes, size, alignment)
        in zip(places, rows, strict=True)
    ]  # fmt: skip


def _require_bytes(size_bytes: int, offset: int, length: int, what: str, *, at: int) -> None:
    """Refuse what does not lie in the file; `at` is where the file says that it does."""
    if offset + length > size_bytes:
        raise MalformedError(
            f"the file ends at {size_bytes:#x}, before the end of {what}, [{offset:#x}, "
            f"{offset + length:#x})",
            offset=size_bytes if offset <= size_bytes else at,
        )


def align_up(value: int, alignment: int) -> int:
    """Return the next multiple of `alignment` that is not below `value`."""
    return -(-value // alignment) * alignment
