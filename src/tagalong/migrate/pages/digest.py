"""The digest of all memory and tags that both ends compare (docs/formats/stream.md, section 9).

It is taken over blocks that are not all zero, so that holes cost nothing and are not
touched: they count like zeros, which is what they are to the guest.
"""

from collections.abc import Callable, Iterator

import numpy as np
import xxhash
from numpy.typing import NDArray

from tagalong.machine import Machine
from tagalong.memory import Gpa, PageBitmap, Region
from tagalong.mte import PACKED_RATIO
from tagalong.mte.tags import zero_rows

BLOCK_BYTES = 65536
_DOMAIN = b"tagalong-digest1"
_BLOCKS_AT_ONCE = 16

Tick = Callable[[], None]
"""Called every now and then during long work; it may raise to end it."""


def memory_digest(machine: Machine, tick: Tick, *, has_tags: bool) -> bytes:
    """Return the digest (16 bytes) of a paused machine's memory and, with `has_tags`, tags.

    What `tick` raises passes through. The machine is not changed, no hole is filled.
    """
    digest = xxhash.xxh3_128(_DOMAIN)
    for region, populated in zip(machine.memory.regions, machine.populated_pages(), strict=True):
        is_used = np.zeros(region.page_count, np.bool_)
        is_used[populated.pages()] = True
        for first, stop in _stretches(region, populated):
            tick()
            data = _data(region, is_used, first, stop)
            size_bytes = stop - first
            tags = machine.read_tags(Gpa(region.gpa + first), size_bytes) if has_tags else None
            _add(digest, region.gpa + first, data, tags)
    return digest.digest()


def _stretches(region: Region, populated: PageBitmap) -> Iterator[tuple[int, int]]:
    """Yield [first, stop) of stretches of whole blocks that may hold anything, in bytes."""
    pages_per_block = BLOCK_BYTES // region.page_size_bytes
    block_count = -(-region.size_bytes // BLOCK_BYTES)
    used = PageBitmap.from_pages(block_count, populated.pages() // pages_per_block)
    for start, count in used.runs().tolist():
        for block in range(start, start + count, _BLOCKS_AT_ONCE):
            stop = min(block + _BLOCKS_AT_ONCE, start + count)
            yield block * BLOCK_BYTES, min(stop * BLOCK_BYTES, region.size_bytes)


def _data(region: Region, is_used: NDArray[np.bool_], first: int, stop: int) -> NDArray[np.uint8]:
    """Return the data of a stretch: as they lie there, or a copy if that would fill holes."""
    page = region.page_size_bytes
    if is_used[first // page : stop // page].all() and not region.is_routed:
        return region.data[first:stop]
    return region.read_data(first, stop - first)


def _add(
    digest: "xxhash.xxh3_128", gpa: int, data: NDArray[np.uint8], tags: NDArray[np.uint8] | None
) -> None:
    whole = data.size // BLOCK_BYTES * BLOCK_BYTES
    for start, stop in ((0, whole), (whole, data.size)):
        if start == stop:
            continue
        size_bytes = min(BLOCK_BYTES, stop - start)
        is_zero = zero_rows(data[start:stop], size_bytes)
        if tags is not None:
            packed = tags[start // PACKED_RATIO : stop // PACKED_RATIO]
            is_zero &= zero_rows(packed, size_bytes // PACKED_RATIO)
        for block in np.flatnonzero(~is_zero).tolist():
            at = start + block * size_bytes
            digest.update((gpa + at).to_bytes(8, "little") + size_bytes.to_bytes(8, "little"))
            digest.update(data[at : at + size_bytes].data)
            if tags is not None:
                digest.update(tags[at // PACKED_RATIO : (at + size_bytes) // PACKED_RATIO].data)
