"""The tags of a batch as runs: what `TagEncoding.RUNS` puts on the wire (section 4)."""

import ctypes
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tagalong._native import library
from tagalong.binary.layout import Buffer, MalformedError

# The encoder writes whole words, of which the last may be all but a byte behind the end.
_SPARE_BYTES = 16


class _Wrong(IntEnum):
    """What the decoder finds; the values are native/tagalong.h's."""

    END = 1
    SAME_TAG = 2
    LENGTH = 3
    BEYOND = 4
    REST = 5


_TEXTS = {
    _Wrong.END: "end before the last granule",
    _Wrong.SAME_TAG: "have one with the tag of the run before it",
    _Wrong.LENGTH: "have a length in more nibbles than it needs",
    _Wrong.BEYOND: "end behind the last granule",
    _Wrong.REST: "are followed by something else",
}


def encode_runs(packed: NDArray[np.uint8], most_bytes: int) -> bytes | None:
    """Return the runs of a packed plane; b"" if all tags are zero, None if they do not pay.

    `packed`: shape (n,), C-contiguous, n a multiple of 8 and not 0. Runs do not pay if they take
    more than `most_bytes`, or seem to: of a large plane samples are looked at first, so that
    random tags cost next to nothing.

    >>> encode_runs(np.array([0x11] * 8, np.uint8), 100).hex()
    'f101'
    """
    room = most_bytes + _SPARE_BYTES
    out = np.empty(room, np.uint8)
    size: int = library().ta_tag_runs_encode(packed.ctypes.data, packed.size, out.ctypes.data, room)
    return None if size < 0 or size > most_bytes else out[:size].tobytes()


def decode_runs(payload: Buffer, packed_bytes: int) -> memoryview:
    """Return the packed plane of `packed_bytes`, a multiple of 8, that runs describe.

    Raises MalformedError (offset 0 is the payload's first byte) if they are not exactly one plane,
    written in the one possible way.
    """
    runs = np.frombuffer(payload, np.uint8)
    packed = np.empty(packed_bytes, np.uint8)
    place = ctypes.c_uint64()
    wrong: int = library().ta_tag_runs_decode(
        runs.ctypes.data, runs.size, packed.ctypes.data, packed_bytes, ctypes.byref(place)
    )
    if wrong:
        at = min(place.value, max(runs.size - 1, 0))
        raise MalformedError(f"runs of tags {_TEXTS[_Wrong(wrong)]}", offset=at)
    return packed.data
