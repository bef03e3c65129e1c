"""The Memory Tagging Extension as pure values and functions: no memory, no machine, no I/O.

    granule          16 bytes of memory, aligned to 16
    allocation tag   the 4 bits that belong to a granule
    logical tag      bits 59:56 of a pointer
    packed           two allocation tags a byte, the lower-address granule in the low nibble

So a 4 KiB page has 256 granules and 128 bytes of packed tags: 1/32 of the memory.

Submodules: `tags` (arrays of allocation tags), `pointers` (what the tag instructions
compute), `registers` (the registers that control checking), `version` (what an ID register
promises), `checks` (which accesses are checked). `numpy_kernels` holds the numpy twins of the
native kernels that `tags` calls.
"""

GRANULE_BYTES = 16
TAG_BITS = 4
TAG_MASK = (1 << TAG_BITS) - 1
TAGS_PER_BYTE = 2
PACKED_RATIO = GRANULE_BYTES * TAGS_PER_BYTE
"""Bytes of memory for each byte of packed tags."""

PAGE_SIZES_BYTES = (4096, 16384, 65536)
"""The page sizes of the architecture; the first is the default everywhere."""

__all__ = [
    "GRANULE_BYTES",
    "PACKED_RATIO",
    "PAGE_SIZES_BYTES",
    "TAGS_PER_BYTE",
    "TAG_BITS",
    "TAG_MASK",
]
