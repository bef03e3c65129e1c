"""Chunks of glibc's malloc with memory tagging, found by their headers.

A chunk begins with a header of one granule whose tag is 0: the size of the chunk before it if that
is free, then its own size with three flags. The user's memory is what follows, all of it tagged;
a chunk that is freed gets tag 0 at once, so the tag says what is in use.

Source: glibc, malloc/malloc.c (struct malloc_chunk), sysdeps/aarch64/libc-mtag.h.
"""

from typing import Final

import numpy as np

from tagalong.explain.crash import Block, BlockState, TagArray
from tagalong.mte import GRANULE_BYTES

KNOWN_BY: Final = "its chunk header"

_PREVIOUS_IN_USE: Final = 1
_FLAGS: Final = 7
_LEAST_CHUNK: Final = 2
_LEAST_CHAIN: Final = 4
_MOST_CHAINS: Final = 32
_LARGEST_CHUNK: Final = (64 << 20) // GRANULE_BYTES


def chunks(start: int, tags: TagArray, data: bytes, fault: int) -> list[Block]:
    """Return the chunks of memory from `start` on, if a chain of headers leads across `fault`.

    Chunk boundaries are found from the end: a header is one if it leads to a header, or out of
    the memory at hand. A chain is believed if it has some chunks and leads across the fault.
    """
    words = np.frombuffer(data, np.uint64).reshape(-1, 2)
    sizes = (words[:, 1] & ~np.uint64(_FLAGS)).tolist()
    flags = (words[:, 1] & np.uint64(_FLAGS)).tolist()
    is_zero = (tags == 0).tolist()
    lengths = _chain_lengths(sizes, flags, words[:, 0].tolist(), is_zero)
    last = (fault - start) // GRANULE_BYTES
    starts = [at for at in range(last + 1) if lengths[at] >= _LEAST_CHAIN]
    for first in starts[:_MOST_CHAINS]:
        found = _walk(start, sizes, tags, first, lengths[first])
        is_across = any(each.start - GRANULE_BYTES <= fault < each.end for each in found)
        # Of memory that is all zero nothing is a chunk: an allocation leaves a header.
        if is_across and any(each.tag for each in found):
            return found
    return []


def _chain_lengths(
    sizes: list[int], flags: list[int], before: list[int], is_zero: list[bool]
) -> list[int]:
    """Return for each granule how many headers follow each other from there; 0 if it is none."""
    count = len(sizes)
    lengths = [0] * count
    for at in range(count - 1, -1, -1):
        granules, rest = divmod(sizes[at], GRANULE_BYTES)
        if not is_zero[at] or rest or not _LEAST_CHUNK <= granules <= _LARGEST_CHUNK:
            continue
        following = at + granules
        if following >= count:
            lengths[at] = 1
            continue
        is_free = not flags[following] & _PREVIOUS_IN_USE
        if not lengths[following]:
            lengths[at] = 1  # what follows is damaged, or this is no header
        elif not is_free or before[following] == sizes[at]:
            lengths[at] = lengths[following] + 1
    return lengths


def _walk(start: int, sizes: list[int], tags: TagArray, first: int, count: int) -> list[Block]:
    found, at = [], first
    for _ in range(count):
        granules = sizes[at] // GRANULE_BYTES
        tag = int(tags[at + 1]) if at + 1 < tags.size else 0
        found.append(
            Block(
                start + (at + 1) * GRANULE_BYTES,
                start + (at + granules) * GRANULE_BYTES,
                tag or None,
                BlockState.ALLOCATED if tag > 0 else BlockState.FREED,
                KNOWN_BY,
            )
        )
        at += granules
    return found
