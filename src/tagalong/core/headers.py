"""The ELF header and the program headers of any core, read as hostile input."""

from typing import Final, NamedTuple

from tagalong.binary import elf
from tagalong.binary.elf import ElfHeader, ProgramHeader
from tagalong.binary.layout import Buffer, MalformedError
from tagalong.core.note_types import SegmentType
from tagalong.core.source import Source
from tagalong.errors import MalformedCoreError
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO

MAX_PROGRAM_HEADERS: Final = 1 << 18
"""Twice the mappings that a process can have (vm.max_map_count is 65530 unless raised), twice."""

_ADDRESS_SPACE_END: Final = 1 << 64
_KNOWN_TYPES: Final = frozenset(SegmentType)


class CoreHeaders(NamedTuple):
    """The ELF header of a core, and its program headers in the file's order."""

    elf: ElfHeader
    segments: tuple[ProgramHeader, ...]


def data_bytes(header: ProgramHeader) -> int:
    """Return how many bytes of a PT_LOAD can be read: the rest was not written."""
    return min(header.size_bytes, header.available)


def tagged_bytes(header: ProgramHeader) -> int:
    """Return for how many bytes of memory a tag segment has tags that can be read."""
    readable = min(header.size_bytes, header.available * PACKED_RATIO)
    return readable // GRANULE_BYTES * GRANULE_BYTES


def is_not_written(header: ProgramHeader) -> bool:
    """Return whether a tag segment says that memory had tags, and has none of them."""
    return header.file_bytes == 0 < header.size_bytes


def read_headers(source: Source) -> CoreHeaders:
    """Return the headers of a core.

    Raises MalformedCoreError if this is no ELF core of a little-endian AArch64 machine, if
    the file ends inside the headers, or for a segment that wraps around the address space.
    """

    def view(offset: int, length: int) -> Buffer:
        return source.raw(offset, length)

    try:
        header = elf.read_elf_header(view, source.size)
        at = elf.ELF_HEADER.offsets
        elf.require_field("e_type (ET_CORE)", header.type, elf.ET_CORE, at["e_type"])
        elf.require_field("e_machine (AArch64)", header.machine, elf.EM_AARCH64, at["e_machine"])
        segments = elf.read_program_headers(view, source.size, header, most=MAX_PROGRAM_HEADERS)
    except MalformedError as error:
        raise MalformedCoreError(str(error), offset=error.offset) from error
    for segment in segments:
        if segment.address + segment.size_bytes > _ADDRESS_SPACE_END:
            _check_known(segment)
    return CoreHeaders(header, tuple(segments))


def _check_known(segment: ProgramHeader) -> None:
    """Refuse a segment that leaves the address space, if its type says that it is memory."""
    if segment.type in _KNOWN_TYPES:
        raise MalformedCoreError(
            f"the segment [{segment.address:#x}, {segment.end:#x}) leaves the address space",
            offset=segment.at + elf.PROGRAM_HEADER.offsets["p_vaddr"],
        )
