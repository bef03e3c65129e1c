"""The tags of a range as runs, for people and for JSON."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tagalong.core.reader import Core
from tagalong.mte import GRANULE_BYTES
from tagalong.mte.pointers import address_of, logical_tag

ReadTags = Callable[[int, int], NDArray[np.uint8]]
"""Returns the tags of a range one a byte, as `Core.granule_tags` and `machine.granule_tags`.

Its arguments: an address and a length in bytes, multiples of 16.
"""

# Tags of this much memory are looked at in one go: 4 MiB of them, one a byte.
_PIECE_BYTES = 64 << 20


@dataclass(frozen=True)
class TagRun:
    """Granules [start, end) that all have `tag`; addresses in bytes."""

    start: int
    end: int
    tag: int


@dataclass(frozen=True)
class TagRange:
    """The granules that a range of bytes touches, and the logical tag of its pointer."""

    start: int
    end: int
    pointer_tag: int

    def is_mismatch(self, run: TagRun) -> bool:
        """Return whether an access through the pointer would fail its tag check there."""
        return run.tag != self.pointer_tag


def tag_range(pointer: int, length: int) -> TagRange:
    """Return the whole granules of `length` bytes (at least 1) from `pointer` on.

    Raises UsageError if `pointer` is not one of 64 bits.

    >>> tag_range(0x0A00_0000_4000_0008, 16)
    TagRange(start=1073741824, end=1073741856, pointer_tag=10)
    """
    address = address_of(pointer)
    start = address // GRANULE_BYTES * GRANULE_BYTES
    end = -(-(address + length) // GRANULE_BYTES) * GRANULE_BYTES
    return TagRange(start, end, logical_tag(pointer))


def tag_runs(core: Core, wanted: TagRange) -> Iterator[TagRun]:
    """Return the runs of equal tags of a range of a core, in order; memory stays bounded.

    Raises what `Core.granule_tags` raises, before the first run.
    """
    core.require_tags(wanted.start, wanted.end - wanted.start)
    return runs_of_tags(core.granule_tags, wanted)


def runs_of_tags(read: ReadTags, wanted: TagRange) -> Iterator[TagRun]:
    """Yield the runs of equal tags of a range of any source, in order.

    Raises what `read` raises, when it is reached.
    """
    pending: TagRun | None = None
    for start in range(wanted.start, wanted.end, _PIECE_BYTES):
        tags = read(start, min(_PIECE_BYTES, wanted.end - start))
        edges = np.flatnonzero(tags[1:] != tags[:-1]) + 1
        bounds = [0, *edges.tolist(), tags.size]
        for first, stop in pairwise(bounds):
            run = TagRun(
                start + first * GRANULE_BYTES, start + stop * GRANULE_BYTES, int(tags[first])
            )
            if pending and pending.tag == run.tag:
                run = TagRun(pending.start, run.end, run.tag)
            elif pending:
                yield pending
            pending = run
    if pending:
        yield pending
