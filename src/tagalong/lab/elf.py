"""What the lab reads and leaves out of ELF files; each boot copies the archive."""

import struct
from collections.abc import Sequence
from typing import Final

from tagalong.binary.elf import (
    ELF_HEADER,
    PT_LOAD,
    ProgramHeader,
    read_elf_header,
    read_program_headers,
    view_of,
)
from tagalong.binary.layout import MalformedError

_MAX_PROGRAM_HEADERS: Final = 1024
_PT_DYNAMIC: Final = 2
_DT_NEEDED: Final = 1
_DT_STRTAB: Final = 5


def stripped(data: bytes) -> bytes:
    """Return the ELF file `data` without sections, and so without symbols for debuggers or linkers.

    Anything but a 64-bit little-endian ELF file with segments is returned unchanged.
    """
    view = view_of(data)
    try:
        header = read_elf_header(view, len(data))
        segments = read_program_headers(view, len(data), header, most=_MAX_PROGRAM_HEADERS)
    except MalformedError:
        return data
    if not segments:
        return data
    table_end = header.phoff + len(segments) * header.phentsize
    end = max(table_end, *(segment.offset + segment.file_bytes for segment in segments))
    head = header._replace(shoff=0, shnum=0, shstrndx=0).pack()
    return head + data[ELF_HEADER.size : end]


def needed_libraries(data: bytes) -> list[str]:
    """Return the names of the libraries that an ELF file is linked with (DT_NEEDED).

    Raises MalformedError if it is no ELF file that the loader would take.
    """
    view = view_of(data)
    header = read_elf_header(view, len(data))
    segments = read_program_headers(view, len(data), header, most=_MAX_PROGRAM_HEADERS)
    entries = [
        struct.unpack_from("<QQ", data, at)
        for segment in segments
        if segment.type == _PT_DYNAMIC
        for at in range(segment.offset, segment.offset + segment.available - 15, 16)
    ]
    strings = next((value for tag, value in entries if tag == _DT_STRTAB), None)
    if strings is None:
        return []
    table = _offset_of(segments, strings)
    names = [table + value for tag, value in entries if tag == _DT_NEEDED]
    try:
        return [data[at : data.index(b"\0", at)].decode() for at in names]
    except ValueError as error:  # no NUL follows, or it is no UTF-8
        raise MalformedError("the names of libraries are not in the file") from error


def _offset_of(segments: Sequence[ProgramHeader], address: int) -> int:
    for segment in segments:
        if segment.type == PT_LOAD and 0 <= address - segment.address < segment.file_bytes:
            return segment.offset + address - segment.address
    raise MalformedError(f"no segment has the address {address:#x} of the names")
