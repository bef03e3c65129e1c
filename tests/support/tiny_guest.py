"""Guest programs of a few instructions, as ELF files."""

import struct
from pathlib import Path

ENTRY = 0x4020_0000

_HEADER_BYTES = 0x1000


def write_guest(path: Path, *instructions: int) -> Path:
    """Write an AArch64 executable whose entry is the first of `instructions`."""
    code = struct.pack(f"<{len(instructions)}I", *instructions)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(2, 183, 1, ENTRY, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    size = len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, _HEADER_BYTES, ENTRY, ENTRY, size, size, _HEADER_BYTES)
    path.write_bytes((header + segment).ljust(_HEADER_BYTES, b"\0") + code)
    return path
