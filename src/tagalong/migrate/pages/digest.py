"""The digest of all memory and tags that both ends compare (docs/formats/stream.md, section 9).

It is taken over blocks that are not all zero, so that holes cost nothing and are not touched:
they count like zeros, which is what they are to the guest. Whose memory it is makes no
difference: a machine and the core that was saved from it have the same digest.
"""

import ctypes
from collections.abc import Callable, Iterator

import numpy as np
import xxhash
from numpy.typing import NDArray

from tagalong._native import DigestState, DigestStretch, library
from tagalong.machine import PageSource
from tagalong.machine.page_source import CHUNK_BYTES
from tagalong.memory import PageBitmap
from tagalong.mte import PACKED_RATIO

BLOCK_BYTES = 65536
_DOMAIN = b"tagalong-digest1"

_BLOCKS_AT_ONCE = CHUNK_BYTES // BLOCK_BYTES

Tick = Callable[[], None]
"""Called every now and then during long work; it may raise to end it."""


def memory_digest(source: PageSource, tick: Tick, *, has_tags: bool) -> bytes:
    """Return the digest (16 bytes) of a source's memory and, with `has_tags`, of its tags.

    The guest must be paused. Ranges without tags count with their data alone. What `tick` and
    the source raise passes through. Nothing is changed, no hole is filled.

    >>> from tagalong.machine import MachinePages
    >>> from tagalong.soft import SoftMachine
    >>> machine = SoftMachine.create(ram_bytes=1 << 20)
    >>> memory_digest(MachinePages(machine), lambda: None, has_tags=True).hex()
    'c840729c73b4aab89aaeb7035d0c992c'
    """
    digest = DigestState()
    library().ta_digest_begin(ctypes.byref(digest), _DOMAIN, len(_DOMAIN))
    page = source.memory.page_size_bytes
    populated = source.populated_pages()
    for number, here in enumerate(source.memory.ranges):
        for first, stop in _stretches(here.size_bytes, page, populated[number]):
            tick()
            start, count = first // page, (stop - first) // page
            data = source.data(number, np.array([[start, count]], np.int64))
            tags = source.tags(number, start, count) if has_tags and here.has_tags else None
            _add(digest, here.address + first, data, tags)
    return _ended(digest)


def _stretches(size_bytes: int, page: int, populated: PageBitmap) -> Iterator[tuple[int, int]]:
    """Yield [first, stop) of stretches of whole blocks that may hold anything, in bytes."""
    pages_per_block = BLOCK_BYTES // page
    block_count = -(-size_bytes // BLOCK_BYTES)
    used = PageBitmap.from_pages(block_count, populated.pages() // pages_per_block)
    for start, count in used.runs().tolist():
        for block in range(start, start + count, _BLOCKS_AT_ONCE):
            stop = min(block + _BLOCKS_AT_ONCE, start + count)
            yield block * BLOCK_BYTES, min(stop * BLOCK_BYTES, size_bytes)


def _add(
    digest: DigestState, address: int, data: NDArray[np.uint8], tags: NDArray[np.uint8] | None
) -> None:
    data = np.ascontiguousarray(data)
    tags = None if tags is None else np.ascontiguousarray(tags)
    place = None if tags is None else tags.ctypes.data
    stretch = DigestStretch(address, data.size, BLOCK_BYTES, PACKED_RATIO, data.ctypes.data, place)
    library().ta_digest_add(ctypes.byref(digest), ctypes.byref(stretch))


def _ended(digest: DigestState) -> bytes:
    if digest.total == len(_DOMAIN):  # no block: so short an input is hashed another way
        return xxhash.xxh3_128_digest(_DOMAIN)
    result = np.empty(16, np.uint8)
    library().ta_digest_end(ctypes.byref(digest), result.ctypes.data)
    return result.tobytes()
