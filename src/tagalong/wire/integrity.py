"""The checksums of a record (docs/formats/stream.md, section 3).

The seed is the record's place in its stream. So a record that is lost, repeated or out of
order fails like one that was changed, without an additional byte. A batch has a second
checksum after its data, the seal, for which each page is hashed by itself: so every byte is
hashed on its way, and the content of a page can be compared later.
"""

from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from tagalong._native import library
from tagalong.binary.layout import Buffer


class RecordHash:
    """XXH3-64 over the checked bytes of a record's header and whatever follows them."""

    def __init__(self, sequence: int, checked_header: Buffer) -> None:
        self._state = xxhash.xxh3_64(checked_header, seed=sequence)

    def update(self, *parts: Buffer) -> None:
        """Take in the bytes that follow."""
        for part in parts:
            self._state.update(part)

    def value(self) -> int:
        """Return the checksum over everything taken in so far."""
        value: int = self._state.intdigest()
        return value


def page_digests(pieces: Sequence[Buffer], page_bytes: int) -> NDArray[np.uint64]:
    """Return the XXH3-64, seed 0, of each page that the pieces hold; shape (pages,).

    So for the packed tags of pages, with `page_bytes` the size of one page's.
    """
    digests = [_digests(np.frombuffer(piece, np.uint8), page_bytes) for piece in pieces]
    return digests[0] if len(digests) == 1 else np.concatenate([NO_DIGESTS, *digests])


def _digests(data: NDArray[np.uint8], page_bytes: int) -> NDArray[np.uint64]:
    digests = np.empty(data.size // page_bytes, np.uint64)
    library().ta_hash_pages(data.ctypes.data, digests.size, page_bytes, digests.ctypes.data)
    return digests


NO_DIGESTS = np.empty(0, np.uint64)


def frame_digest(frame: Buffer) -> NDArray[np.uint64]:
    """Return what replaces the pages' digests if their data are compressed."""
    return np.array([xxhash.xxh3_64_intdigest(frame)], np.uint64)


def seal(sequence: int, checksum: int, digests: NDArray[np.uint64]) -> bytes:
    """Return the checksum that follows a batch's data."""
    state = xxhash.xxh3_64(checksum.to_bytes(8, "little"), seed=sequence)
    state.update(digests.astype("<u8", copy=False).data)
    return bytes(reversed(state.digest()))
