"""Runs inside the lab on its own: tags every granule of one page and reads the tags back.

Needs only the standard library. Prints the tags written and read, one per granule, as JSON.

Python cannot execute STG and LDG, so they are machine code in an executable mapping, called
through ctypes with the granule's address in x0.
"""

import ctypes
import json
import mmap
import os
import struct
import sys

# arch/arm64/include/uapi/asm/mman.h, include/uapi/linux/prctl.h
_PROT_MTE = 0x20
_PR_SET_TAGGED_ADDR_CTRL = 55
_PR_TAGGED_ADDR_ENABLE = 1
_PR_MTE_TAG_MASK = 0xFFFF << 3

_PAGE_BYTES, _GRANULE_BYTES, _TAG_SHIFT = 4096, 16, 56
_GRANULES = _PAGE_BYTES // _GRANULE_BYTES

# The exit status if the kernel offers no MTE.
NO_MTE = 3

_STG_X0_X0 = 0xD9200800  # stg x0, [x0]
_LDG_X0_X0 = 0xD9600000  # ldg x0, [x0]
_RET = 0xD65F03C0


def tag_of(granule: int) -> int:
    """Return the tag for a granule; neighbours differ, and so do rows of sixteen granules.

    >>> [tag_of(granule) for granule in range(8)]
    [0, 7, 14, 5, 12, 3, 10, 1]
    """
    return (granule * 7 + granule // 16 * 3) % 16


def main() -> None:
    """Tag the page, read the tags back, print both."""
    libc = ctypes.CDLL(None, use_errno=True)
    control = _PR_TAGGED_ADDR_ENABLE | _PR_MTE_TAG_MASK
    if libc.prctl(_PR_SET_TAGGED_ADDR_CTRL, control, 0, 0, 0) != 0:
        print(f"prctl(PR_SET_TAGGED_ADDR_CTRL): {os.strerror(ctypes.get_errno())}", file=sys.stderr)  # noqa: T201
        raise SystemExit(NO_MTE)
    # Never unmapped: the process ends here.
    code = mmap.mmap(-1, _PAGE_BYTES, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(struct.pack("<4I", _STG_X0_X0, _RET, _LDG_X0_X0, _RET))
    page = mmap.mmap(-1, _PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                     prot=mmap.PROT_READ | mmap.PROT_WRITE | _PROT_MTE)  # fmt: skip
    start, base = _address(code), _address(page)
    call = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)
    store_tag, load_tag = call(start), call(start + 8)

    written = [tag_of(granule) for granule in range(_GRANULES)]
    for granule, tag in enumerate(written):
        store_tag(base + granule * _GRANULE_BYTES | tag << _TAG_SHIFT)
    read = [
        load_tag(base + granule * _GRANULE_BYTES) >> _TAG_SHIFT & 15 for granule in range(_GRANULES)
    ]
    print(json.dumps({"written": written, "read": read}))  # noqa: T201 (its output)


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


if __name__ == "__main__":
    main()
