"""The A64 routines of native/arm64/routines.S: their names, and the blob that holds them."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final

from tagalong._native import LIBRARY_FOLDER
from tagalong.errors import NativeLibraryError

_MAGIC: Final = b"TAGALRT1"
_HEADER: Final = struct.Struct("<8sII")
_ENTRY: Final = struct.Struct("<24sII")


class Routine(Enum):
    """What can be called, by its name in the assembly; its comment there says what it does.

    All take (x0, x1, x2). "guest" is the address of guest memory in some view of it.
    """

    COPY = "copy"
    """(destination, source, bytes): plain, so tag checked where the view is tagged."""
    COPY_TCO = "copy_tco"
    """(destination, source, bytes): with PSTATE.TCO set."""
    MATCH_LOAD = "match_load"
    """(destination, guest, bytes): through pointers with each granule's own tag."""
    MATCH_STORE = "match_store"
    """(guest, source, bytes)."""
    SP_LOAD = "sp_load"
    """(destination, guest, bytes): with SP in guest memory; needs CallFlags.STACK_APART."""
    SP_STORE = "sp_store"
    """(guest, source, bytes); needs CallFlags.STACK_APART."""
    READ_TAGS = "read_tags"
    """(packed, guest, packed bytes): by LDG."""
    WRITE_TAGS = "write_tags"
    """(guest, packed, packed bytes): by STG and ST2G."""
    WRITE_ZEROS = "write_zeros"
    """(guest, packed, packed bytes): tags as WRITE_TAGS, and data zeroed: STZG and STZ2G."""
    GET_TCO = "get_tco"
    """() -> PSTATE.TCO in bit 25."""
    SET_TCO = "set_tco"
    """(value): PSTATE.TCO from bit 25."""


@dataclass(frozen=True)
class Blob:
    """The routines as bytes that run at any 64-byte aligned address.

    `code` starts with the index; `offsets` and `sizes` (bytes) are those of each routine.
    """

    code: bytes
    offsets: Mapping[Routine, int]
    sizes: Mapping[Routine, int]


@cache
def load_blob() -> Blob:
    """Return the routines that come with the package.

    Raises NativeLibraryError if they are missing or are not those of this package.
    """
    path = LIBRARY_FOLDER / "routines.bin"
    try:
        code = path.read_bytes()
    except OSError as error:
        raise NativeLibraryError(
            f"cannot read {path}: {error.strerror}; build it with `pip install -e .` in the "
            "source folder"
        ) from error
    return parse_blob(code)


def parse_blob(code: bytes) -> Blob:
    """Read the index at the start of `code`. Raises NativeLibraryError naming the offset."""
    magic, count, size = _HEADER.unpack_from(code.ljust(_HEADER.size, b"\0"))
    if magic != _MAGIC or size > len(code):
        raise NativeLibraryError(
            f"routines offset 0x0: magic {magic!r}, {size:#x} of {len(code):#x} bytes"
        )
    if _HEADER.size + count * _ENTRY.size > size:
        raise NativeLibraryError(f"routines offset 0x8: {count} entries do not fit in {size:#x}")
    found = {}
    for at in range(_HEADER.size, _HEADER.size + count * _ENTRY.size, _ENTRY.size):
        name, offset, length = _ENTRY.unpack_from(code, at)
        if offset + length > size:
            raise NativeLibraryError(
                f"routines offset {at:#x}: a routine at {offset:#x}+{length:#x} of {size:#x} bytes"
            )
        found[name.rstrip(b"\0").decode("ascii", "replace")] = offset, length
    if set(found) != {routine.value for routine in Routine}:
        raise NativeLibraryError(f"routines: there are {sorted(found)}: rebuild the package")
    return Blob(
        code[:size],
        {routine: found[routine.value][0] for routine in Routine},
        {routine: found[routine.value][1] for routine in Routine},
    )
