"""Writes static AArch64 Linux executables: a header, program headers, the segments."""

import struct
from dataclasses import dataclass

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_ET_EXEC, _EM_AARCH64, _PT_LOAD = 2, 183, 1
_ALIGN = 4096

READ, WRITE, EXECUTE = 4, 2, 1


@dataclass(frozen=True)
class Segment:
    """One PT_LOAD at a page-aligned address; zeros follow `content` up to `size_bytes`."""

    address: int
    content: bytes
    flags: int
    size_bytes: int = 0


def executable(entry: int, segments: list[Segment]) -> bytes:
    """Return the file that loads `segments` and starts at `entry`."""
    offset = _ALIGN
    headers, body = [], b""
    for segment in segments:
        size = max(segment.size_bytes, len(segment.content))
        headers.append(
            _PHDR.pack(
                _PT_LOAD, segment.flags, offset, segment.address, segment.address,
                len(segment.content), size, _ALIGN,
            )
        )  # fmt: skip
        body += segment.content + bytes(-len(segment.content) % _ALIGN)
        offset = _ALIGN + len(body)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = _EHDR.pack(
        ident, _ET_EXEC, _EM_AARCH64, 1, entry, _EHDR.size, 0, 0, _EHDR.size, _PHDR.size,
        len(segments), 0, 0, 0,
    )  # fmt: skip
    return (head + b"".join(headers)).ljust(_ALIGN, b"\0") + body
