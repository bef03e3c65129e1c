"""The numpy twins of native/tags.c: the same results, for arrays of any strides.

`tagalong.mte.tags` checks the arguments and calls the native kernels where it can; the
functions here are the readable definition that those are tested against.
"""

import numpy as np
from numpy.typing import NDArray

from tagalong.mte import TAG_BITS, TAG_MASK, TAGS_PER_BYTE

TAG_RUN = np.dtype([("start", "<u8"), ("length", "<u4"), ("tag", "<u4")])
"""`struct ta_tag_run`: first granule, number of granules, their tag."""

LONGEST_RUN_GRANULES = 0xFFFF_FFFF


def pack(tags: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `tags` (one a byte, even in number, values 0 to 15) two a byte."""
    high = np.left_shift(tags[1::TAGS_PER_BYTE], TAG_BITS, dtype=np.uint8)
    return tags[0::TAGS_PER_BYTE] | high


def unpack(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the tags of `packed` one a byte."""
    tags = np.empty(packed.size * TAGS_PER_BYTE, np.uint8)
    tags[0::TAGS_PER_BYTE] = packed & TAG_MASK
    tags[1::TAGS_PER_BYTE] = packed >> TAG_BITS
    return tags


def runs(packed: NDArray[np.uint8], longest: int = LONGEST_RUN_GRANULES) -> NDArray[np.void]:
    """Return the runs of equal tags as TAG_RUN records, those above `longest` split."""
    tags = unpack(packed)
    edges = np.flatnonzero(tags[1:] != tags[:-1]) + 1
    starts = np.append(np.zeros(min(tags.size, 1), np.int64), edges)
    stops = np.append(edges, np.full(starts.size - edges.size, tags.size))
    starts, lengths = _split(starts, stops, longest)
    found = np.empty(starts.size, TAG_RUN)
    found["start"], found["length"], found["tag"] = starts, lengths, tags[starts]
    return found


def _split(
    starts: NDArray[np.int64], stops: NDArray[np.int64], longest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    pieces = -((starts - stops) // longest)
    before = np.repeat(np.cumsum(pieces) - pieces, pieces)
    split = np.repeat(starts, pieces) + longest * (np.arange(before.size) - before)
    return split, np.minimum(longest, np.repeat(stops, pieces) - split)


def count_tagged(packed: NDArray[np.uint8]) -> int:
    """Twin of `tags.count_tagged`."""
    low = np.count_nonzero(packed & TAG_MASK)
    return int(low + np.count_nonzero(packed >> TAG_BITS))


def zero_rows(plane: NDArray[np.uint8], row_bytes: int) -> NDArray[np.bool_]:
    """Return for each `row_bytes` of `plane` whether they are all zero."""
    is_zero: NDArray[np.bool_] = (plane.reshape(-1, row_bytes) == 0).all(axis=1)
    return is_zero
