"""Reads the ELF header and the program headers of a core, whoever wrote it."""

from collections.abc import Iterator
from dataclasses import dataclass

from tagalong.core import elf
from tagalong.core.elf import SegmentType
from tagalong.core.source import Source
from tagalong.errors import MalformedCoreError
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO

MAX_PROGRAM_HEADERS = 1 << 18
"""Twice the mappings that a process can have (vm.max_map_count is 65530 unless raised), twice."""

_ADDRESS_SPACE_END = 1 << 64


@dataclass(frozen=True)
class ProgramHeader:
    """One program header; `at` is its own place in the file, `available` what the file has.

    Of the `file_bytes` that the header claims, the first `available` exist: less in a file
    that was cut short.
    """

    at: int
    type: int
    flags: int
    offset: int
    address: int
    physical: int
    file_bytes: int
    size_bytes: int
    available: int

    @property
    def end(self) -> int:
        """Return the first address behind the segment."""
        return self.address + self.size_bytes

    @property
    def is_cut(self) -> bool:
        """Return whether the file ends before the segment does."""
        return self.available < self.file_bytes

    @property
    def data_bytes(self) -> int:
        """Return how many bytes of a PT_LOAD can be read: the rest was not written."""
        return min(self.size_bytes, self.available)

    @property
    def tagged_bytes(self) -> int:
        """Return for how many bytes of memory a tag segment has tags that can be read."""
        return min(self.size_bytes, self.available * PACKED_RATIO) // GRANULE_BYTES * GRANULE_BYTES


def read_headers(source: Source) -> list[ProgramHeader]:
    """Return all program headers in their order.

    Raises MalformedCoreError if this is no ELF core of a little-endian AArch64 machine, if
    the file ends inside the headers, or for a segment that wraps around the address space.
    """
    header = _elf_header(source)
    count = _header_count(source, header)
    table = header["e_phoff"]
    _require_bytes(source, table, count * elf.PROGRAM_HEADER.size, "the program headers", at=32)
    return list(_program_headers(source, table, count))


def _elf_header(source: Source) -> dict[str, int]:
    _require_bytes(source, 0, elf.ELF_HEADER.size, "the ELF header", at=0)
    raw = source.view(0, elf.ELF_HEADER.size).tobytes()
    header = elf.ELF_HEADER.unpack(raw)
    ident = elf.IDENT.unpack(raw)
    offsets = elf.ELF_HEADER.offsets
    if ident["magic"] != elf.MAGIC:
        raise MalformedCoreError(f"{ident['magic']!r} does not start an ELF file", offset=0)
    _require(ident["ei_class"], elf.CLASS_64, "EI_CLASS (64 bits)", 4)
    _require(ident["ei_data"], elf.DATA_LITTLE, "EI_DATA (little-endian)", 5)
    _require(header["e_type"], elf.ET_CORE, "e_type (ET_CORE)", offsets["e_type"])
    _require(header["e_machine"], elf.EM_AARCH64, "e_machine (AArch64)", offsets["e_machine"])
    size = elf.PROGRAM_HEADER.size
    _require(header["e_phentsize"], size, "e_phentsize", offsets["e_phentsize"])
    return header


def _require(value: int, expected: int, name: str, offset: int) -> None:
    if value != expected:
        raise MalformedCoreError(f"{name} is {value:#x}, not {expected:#x}", offset=offset)


def _require_bytes(source: Source, offset: int, size: int, what: str, *, at: int) -> None:
    """Refuse what does not lie in the file; `at` is where the file says that it does."""
    if offset + size > source.size:
        where = source.size if offset <= source.size else at
        raise MalformedCoreError(
            f"{what} take [{offset:#x}, {offset + size:#x}), but the file ends at {source.size:#x}",
            offset=where,
        )


def _header_count(source: Source, header: dict[str, int]) -> int:
    count = header["e_phnum"]
    if count == elf.PN_XNUM:
        at = header["e_shoff"]
        _require_bytes(source, at, elf.SECTION_HEADER.size, "section header 0", at=40)
        section = elf.SECTION_HEADER.unpack(source.view(at, elf.SECTION_HEADER.size).tobytes())
        count = section["sh_info"]
    if count > MAX_PROGRAM_HEADERS:
        raise MalformedCoreError(
            f"{count:#x} program headers: {MAX_PROGRAM_HEADERS:#x} are possible",
            offset=elf.ELF_HEADER.offsets["e_phnum"],
        )
    return count


def _program_headers(source: Source, table: int, count: int) -> Iterator[ProgramHeader]:
    size = elf.PROGRAM_HEADER.size
    raw = source.view(table, count * size).tobytes()
    for place in range(0, count * size, size):
        fields = elf.PROGRAM_HEADER.unpack(raw, place)
        header = ProgramHeader(
            at=table + place,
            type=fields["p_type"],
            flags=fields["p_flags"],
            offset=fields["p_offset"],
            address=fields["p_vaddr"],
            physical=fields["p_paddr"],
            file_bytes=fields["p_filesz"],
            size_bytes=fields["p_memsz"],
            available=max(min(fields["p_filesz"], source.size - fields["p_offset"]), 0),
        )
        if header.type in tuple(SegmentType) and header.end > _ADDRESS_SPACE_END:
            raise MalformedCoreError(
                f"the segment [{header.address:#x}, {header.end:#x}) leaves the address space",
                offset=header.at + elf.PROGRAM_HEADER.offsets["p_vaddr"],
            )
        yield header
