"""Strips shared libraries of what the loader does not read; each boot copies the archive."""

from typing import Final

from tagalong.binary.elf import ELF_HEADER, read_elf_header, read_program_headers, view_of
from tagalong.binary.layout import MalformedError

_MAX_PROGRAM_HEADERS: Final = 1024


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
