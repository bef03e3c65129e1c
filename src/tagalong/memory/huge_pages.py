"""Shared memory that can be in huge pages, and is where it is about to be written whole.

A guest on huge pages enters its host much less: KVM maps one where it would otherwise handle a
fault for each of its pages, and clear the tags of each. By itself the kernel makes shared memory
of huge pages only where an administrator said so (shmem_enabled, "never" by default). But it does
what MADV_COLLAPSE asks of it, unless that says "deny".

A huge page is mapped as one only where its address here is a multiple of its size as well, and for
a guest its gpa. The kernel does not see to that by itself.

Source: Linux, mm/khugepaged.c, madvise_collapse and collapse_file (Linux 6.1 is the first);
arch/arm64/kvm/mmu.c, fault_supports_stage2_huge_mapping.
"""

import ctypes
import mmap
import os
from contextlib import suppress
from typing import Final

from tagalong.memory.mapping import address_of, map_over, reserve_addresses

# Linux, include/uapi/asm-generic/mman-common.h
_MADV_COLLAPSE: Final = 25

_TABLE_ENTRY_BYTES: Final = 8

HUGE_BYTES: Final = mmap.PAGESIZE * (mmap.PAGESIZE // _TABLE_ENTRY_BYTES)
"""What an entry of the host's tables maps that leads to a table of pages: 2 MiB, of 4 KiB each."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def map_shared(fd: int, size_bytes: int) -> memoryview:
    """Map a file shared, for reading and writing, where huge pages can be mapped as such.

    It is unmapped when the last view of it goes. Raises OSError.
    """
    if size_bytes < HUGE_BYTES:
        return memoryview(mmap.mmap(fd, size_bytes, mmap.MAP_SHARED))
    view = reserve_addresses(size_bytes + HUGE_BYTES)
    start = -address_of(view) % HUGE_BYTES
    aligned = view[start : start + size_bytes]
    map_over(aligned, mmap.MAP_SHARED, fd)
    return aligned


def allocate_huge_pages(fd: int, memory: memoryview, start: int, stop: int) -> None:
    """Allocate, in huge pages, the whole ones in bytes [start, stop) of a memfd.

    `memory`: what map_shared returned for it. All of the huge pages must be holes, and the caller
    is to write all of them: what is not written is no hole any more. Where the kernel has no huge
    page, for whatever reason, the holes stay, but for their first page.
    """
    first = -(-start // HUGE_BYTES) * HUGE_BYTES
    last = stop // HUGE_BYTES * HUGE_BYTES
    if first >= last:
        return
    with suppress(OSError):  # a limit on the size of files, which no mapping knows
        for at in range(first, last, HUGE_BYTES):
            # The kernel collapses nothing that is wholly a hole, and is quicker with what no
            # process has mapped: so no store.
            os.pwrite(fd, b"\0", at)
        _libc.madvise(address_of(memory) + first, last - first, _MADV_COLLAPSE)
