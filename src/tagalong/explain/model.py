"""The numbers behind the probabilities: priors of causes, and where each of them strikes.

docs/design/explain.md says where they come from and how they were checked.
"""

import math
from typing import Final

from tagalong.explain.code_place import CodePlace
from tagalong.explain.explanation import Cause
from tagalong.mte import GRANULE_BYTES

PRIORS: Final = {
    Cause.OVERFLOW: 0.30,
    Cause.UNDERFLOW: 0.06,
    Cause.USE_AFTER_FREE: 0.26,
    Cause.USE_AFTER_REUSE: 0.14,
    Cause.DOUBLE_FREE: 0.04,
    Cause.INVALID_FREE: 0.01,
    Cause.LOST_POINTER_TAG: 0.06,
    Cause.WILD_POINTER: 0.045,
    Cause.MATCH_ALL: 0.005,
    Cause.LOST_MEMORY_TAGS: 0.03,
    Cause.STACK_OVERFLOW: 0.02,
    Cause.STACK_USE_AFTER_RETURN: 0.03,
}
"""How often each cause is behind a fault, before anything is known of it. They add up to 1."""

LINEAR_SHARE: Final = 0.6
"""Of overflows, those that go byte by byte; the others jump, by an index."""

FURTHEST_GRANULES: Final = 4096
FURTHEST_ON_STACK: Final = 64
"""How far an index goes wrong, by a law that favours near places: 1/distance."""

FIRST_GRANULE_SHARE: Final = 0.5
"""Of accesses to a block, those to its first granule; the others are anywhere in it."""

LONGEST_STALE_GRANULES: Final = 64
"""A free block that is larger was joined from several."""

FLIPPED_SHARE: Final = 0.5
"""Of corrupt pointers, those with one wrong bit in their tag."""

FREED_SHARE: Final = 0.3
"""Of blocks, those that are not in use, where nothing tells."""

STALE_OUTSIDE_SHARE: Final = 0.04
"""Of stale pointers, those to memory whose boundaries have moved since."""

UNSEEN_BLOCK: Final = 0.1
"""How likely an access is to a granule of a block whose bounds cannot be seen."""

UNSEEN_EMPTY_BLOCK: Final = 0.005
"""The same where the whole page has zeros: what is in use seldom has nothing but zeros."""

UNRECORDED_FREE: Final = 0.005
"""How likely a stale pointer's tag is if the allocator's records have no free with it."""

FREED_CULPRIT: Final = 0.03
"""An overflow from a block that is free itself is a use after free first."""

BYTE_READ_SHARE: Final = 0.15
"""Of all accesses, those that read one byte, as free and realloc do first."""

PLACE_OF_FREE: Final = {
    CodePlace.FREEING: 0.99, CodePlace.ALLOCATOR: 0.99, CodePlace.ELSEWHERE: 0.001,
}  # fmt: skip
PLACE_OF_OTHERS: Final = {
    CodePlace.FREEING: 0.01, CodePlace.ALLOCATOR: 0.2, CodePlace.ELSEWHERE: 0.79,
}  # fmt: skip
"""Where the faulting instruction is, for a double free and for other accesses to the heap."""


def overflow_density(
    granules: int, *, is_linear_possible: bool, furthest: int = FURTHEST_GRANULES
) -> float:
    """Return how likely an overflow faults `granules` behind the block's last granule.

    `is_linear_possible`: a pass from the block's end would have met no other tag before.

    >>> round(overflow_density(0, is_linear_possible=True), 2)
    0.65
    """
    linear = LINEAR_SHARE if is_linear_possible else 0.0
    return linear + (1 - LINEAR_SHARE) / ((granules + 1) * math.log(1 + furthest))


def inside_density(offset: int, size: int) -> float:
    """Return how likely an access to a block of `size` bytes is to the granule at `offset`."""
    count = max(1, min(-(-size // GRANULE_BYTES), LONGEST_STALE_GRANULES))
    if count == 1:
        return 1.0
    first = FIRST_GRANULE_SHARE if offset < GRANULE_BYTES else 0.0
    return first + (1 - FIRST_GRANULE_SHARE) / count
