"""Blocks of scudo's primary, found by their headers.

A block begins with a header of one granule whose tag is 0, and user memory follows. The header
stays when the block is freed: it still says how large the block was.

    bits 7:0    class, not 0          bits 31:12  size that was asked for
    bits 9:8    state                 bits 47:32  offset, 0 unless over-aligned
    bits 11:10  origin                bits 63:48  checksum

Source: LLVM, compiler-rt/lib/scudo/standalone/chunk.h, combined.h.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from tagalong.explain.crash import Block, BlockState, TagArray
from tagalong.mte import GRANULE_BYTES

KNOWN_BY: Final = "its block header"

_CLASSES: Final = 64
_STATES: Final = {
    0: BlockState.FREED, 1: BlockState.ALLOCATED, 2: BlockState.FREED,
}  # fmt: skip
_LARGEST_PRIMARY: Final = 1 << 18
_HEADER_BYTES: Final = 8
_LEAST_SHARE: Final = 0.5


def blocks(start: int, tags: TagArray, data: bytes, *, pieces: Mapping[int, bytes]) -> list[Block]:
    """Return the blocks whose headers are in memory from `start` on.

    `data` is all of it, or `pieces` has the granules that are known, by their number.
    """
    found: list[Block] = []
    after = -1
    for at in np.flatnonzero(tags[:-1] == 0).tolist():
        place = at * GRANULE_BYTES
        raw = data[place : place + _HEADER_BYTES] if data else pieces.get(at, b"")
        if at < after or len(raw) < _HEADER_BYTES:
            continue
        block = _block(start, at, int.from_bytes(raw[:_HEADER_BYTES], "little"), tags)
        if block is not None:
            found.append(block)
            after = (block.end - start) // GRANULE_BYTES
    return found


def _block(start: int, at: int, header: int, tags: TagArray) -> Block | None:
    state, size = _STATES.get(header >> 8 & 3), header >> 12 & 0xFFFFF
    if not 1 <= header & 0xFF <= _CLASSES or state is None or header >> 32 & 0xFFFF:
        return None
    if not 1 <= size <= _LARGEST_PRIMARY:
        return None
    granules = -(-size // GRANULE_BYTES)
    own = tags[at + 1 : at + 1 + granules]
    tag = int(own.max())
    # A block has one tag. Only where a page lost its tags it is 0 in a part of it.
    if not ((own == tag) | (own == 0)).all():
        return None
    first = start + (at + 1) * GRANULE_BYTES
    return Block(first, first + size, tag or None, state, KNOWN_BY, is_exact=True)


def explains(found: Sequence[Block], tags: TagArray) -> bool:
    """Return whether blocks cover most of the memory that has a tag."""
    tagged = int((tags > 0).sum())
    covered = sum(-(-block.size_bytes // GRANULE_BYTES) for block in found if block.tag)
    return len(found) > 2 and covered >= _LEAST_SHARE * tagged
