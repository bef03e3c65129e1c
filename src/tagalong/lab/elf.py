"""Takes from a shared library what the loader does not read: a cpio is copied at every boot."""

import struct

_ELF64_LITTLE = b"\x7fELF\x02\x01"
_HEADER_BYTES = 64
_PHOFF, _SHOFF, _PHENTSIZE, _SHNUM = 32, 40, 54, 60
_P_OFFSET, _P_FILESZ = 8, 32


def stripped(data: bytes) -> bytes:
    """Return the ELF file `data` without sections: no symbols for debuggers, none to link.

    Anything that is not a 64-bit little-endian ELF file with segments comes back as it is.
    """
    if data[: len(_ELF64_LITTLE)] != _ELF64_LITTLE or len(data) < _HEADER_BYTES:
        return data
    (table,) = struct.unpack_from("<Q", data, _PHOFF)
    entry, count = struct.unpack_from("<HH", data, _PHENTSIZE)
    end = table + entry * count
    if count == 0 or end > len(data):
        return data
    for place in range(table, end, entry):
        (offset,) = struct.unpack_from("<Q", data, place + _P_OFFSET)
        (size,) = struct.unpack_from("<Q", data, place + _P_FILESZ)
        end = max(end, offset + size)
    kept = bytearray(data[:end])
    struct.pack_into("<Q", kept, _SHOFF, 0)
    struct.pack_into("<HH", kept, _SHNUM, 0, 0)
    return bytes(kept)
