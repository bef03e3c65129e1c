"""Arrays of allocation tags: packed planes, one tag a byte, and runs.

A *packed plane* is a one-dimensional uint8 array with two tags a byte, the lower-address
granule in the low nibble; granule n of the plane is in byte n // 2. Granule ranges are
half-open, given by their first granule and their number of granules.

Bulk work on C-contiguous arrays is done by native/tags.c, on others by its numpy twins.
Every function here may raise NativeLibraryError on its first call. An array of another
type or dimension than asked for is refused with UsageError, before anything is changed.
"""

import numpy as np
from numpy.typing import NDArray

from tagalong._native import library
from tagalong.errors import UsageError
from tagalong.mte import PACKED_RATIO, TAG_BITS, TAG_MASK, TAGS_PER_BYTE, numpy_kernels
from tagalong.mte.numpy_kernels import TAG_RUN

__all__ = [
    "TAG_RUN",
    "count_tagged",
    "differing_runs",
    "fill",
    "from_runs",
    "get_tag",
    "pack",
    "runs",
    "set_tag",
    "uniform_pages",
    "unpack",
    "zero_pages",
    "zero_rows",
]

_WORD_BYTES = 8
_UNIFORM_WORD = np.uint64(0x1111_1111_1111_1111)

# Room for the runs in the first attempt; a plane with more of them is walked a second time.
_EXPECTED_RUNS = 4096


def pack(tags: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return tags that are one a byte in packed form.

    `tags`: shape (granules,), uint8, values 0 to 15, an even number of them; this is what
    KVM and ptrace use. Returns a new array of shape (granules / 2,). Raises UsageError for
    an odd number or a value above 15.

    >>> pack(np.array([0x1, 0x2, 0xF, 0x0], np.uint8)).tobytes().hex()
    '210f'
    """
    _require_bytes(tags)
    if tags.size % TAGS_PER_BYTE:
        raise UsageError(f"{tags.size:#x} tags cannot be packed two a byte: the number is odd")
    if tags.size and tags.max() > TAG_MASK:
        where = int(np.argmax(tags > TAG_MASK))
        raise UsageError(
            f"granule {where:#x}: {tags[where]:#x} is no tag, {TAG_MASK:#x} is the last"
        )
    if not tags.flags.c_contiguous:
        return numpy_kernels.pack(tags)
    packed = np.empty(tags.size // TAGS_PER_BYTE, np.uint8)
    library().ta_tags_pack(tags.ctypes.data, packed.ctypes.data, tags.size)
    return packed


def unpack(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return packed tags one a byte: the inverse of `pack`.

    `packed`: shape (n,). Returns a new array of shape (2 n,), values 0 to 15.

    >>> unpack(np.array([0x21, 0x0F], np.uint8)).tolist()
    [1, 2, 15, 0]
    """
    _require_bytes(packed)
    if not packed.flags.c_contiguous:
        return numpy_kernels.unpack(packed)
    tags = np.empty(packed.size * TAGS_PER_BYTE, np.uint8)
    library().ta_tags_unpack(packed.ctypes.data, tags.ctypes.data, tags.size)
    return tags


def runs(packed: NDArray[np.uint8]) -> NDArray[np.void]:
    """Return the runs of equal tags of a packed plane, in order and without a gap.

    `packed`: shape (n,). Returns a new array of TAG_RUN records: `start` (granule),
    `length` (granules, at least 1) and `tag`. Neighbours differ in their tags, except that
    a run longer than 2**32 - 1 granules (64 GiB) is split.

    >>> runs(np.array([0x33, 0x53], np.uint8)).tolist()
    [(0, 3, 3), (3, 1, 5)]
    """
    _require_bytes(packed)
    if not packed.flags.c_contiguous:
        return numpy_kernels.runs(packed)
    found = np.empty(_EXPECTED_RUNS, TAG_RUN)
    # A loop, because a running guest may add runs between counting and collecting them.
    while (count := _native_runs(packed, found)) > found.size:
        found = np.empty(count, TAG_RUN)
    return found[:count]


def _native_runs(packed: NDArray[np.uint8], found: NDArray[np.void]) -> int:
    granules = packed.size * TAGS_PER_BYTE
    count: int = library().ta_tags_runs(packed.ctypes.data, granules, found.ctypes.data, found.size)
    return count


def from_runs(tag_runs: NDArray[np.void]) -> NDArray[np.uint8]:
    """Return the packed plane that consists of these runs: the inverse of `runs`.

    `tag_runs`: TAG_RUN records, the first starting at granule 0, each where the one before
    ends, an even number of granules in all. Raises UsageError otherwise.

    >>> from_runs(np.array([(0, 3, 3), (3, 1, 5)], TAG_RUN)).tobytes().hex()
    '3353'
    """
    if tag_runs.dtype != TAG_RUN or tag_runs.ndim != 1:
        raise UsageError(f"runs must be a row of {TAG_RUN}, not {_shape(tag_runs)}")
    stops = np.cumsum(tag_runs["length"], dtype=np.uint64)
    gaps = np.flatnonzero(tag_runs["start"] != stops - tag_runs["length"])
    if gaps.size:
        run = int(gaps[0])
        raise UsageError(
            f"run {run:#x} starts at granule {tag_runs['start'][run]:#x}, but the runs before "
            f"it end at {stops[run] - tag_runs['length'][run]:#x}"
        )
    if tag_runs.size and tag_runs["tag"].max() > TAG_MASK:
        raise UsageError(f"run tag {tag_runs['tag'].max():#x} is above {TAG_MASK:#x}")
    return pack(np.repeat(tag_runs["tag"].astype(np.uint8), tag_runs["length"]))


def get_tag(packed: NDArray[np.uint8], granule: int) -> int:
    """Return the tag of one granule of a packed plane.

    Raises UsageError if the plane has no such granule.

    >>> get_tag(np.array([0x21], np.uint8), 1)
    2
    """
    _require_granules(packed, granule, 1)
    byte = int(packed[granule // TAGS_PER_BYTE])
    return byte >> _shift(granule) & TAG_MASK


def set_tag(packed: NDArray[np.uint8], granule: int, tag: int) -> None:
    """Set the tag of one granule of a packed plane, in place.

    Raises UsageError if there is no such granule or `tag` is not 0 to 15; nothing has
    changed then.

    >>> plane = np.array([0x21], np.uint8)
    >>> set_tag(plane, 1, 0xC)
    >>> plane.tobytes().hex()
    'c1'
    """
    _require_granules(packed, granule, 1)
    _require_tag(tag)
    byte = int(packed[granule // TAGS_PER_BYTE])
    kept = byte & ~(TAG_MASK << _shift(granule))
    packed[granule // TAGS_PER_BYTE] = kept | tag << _shift(granule)


def fill(packed: NDArray[np.uint8], first: int, count: int, tag: int) -> None:
    """Set `count` granules from granule `first` on to `tag`, in place.

    `first` and `count` may be odd; the neighbours in the first and the last byte are kept.
    Raises UsageError if the range is not wholly in the plane or `tag` is not 0 to 15;
    nothing has changed then.

    >>> plane = np.zeros(3, np.uint8)
    >>> fill(plane, 1, 4, 0xA)
    >>> plane.tobytes().hex()
    'a0aa0a'
    """
    _require_granules(packed, first, count)
    _require_tag(tag)
    stop = first + count
    if first < stop and first % TAGS_PER_BYTE:
        set_tag(packed, first, tag)
        first += 1
    if first < stop and stop % TAGS_PER_BYTE:
        stop -= 1
        set_tag(packed, stop, tag)
    packed[first // TAGS_PER_BYTE : stop // TAGS_PER_BYTE] = tag << TAG_BITS | tag


def differing_runs(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the granule ranges in which two packed planes have different tags.

    `left`, `right`: shape (n,) each. Returns an array of shape (ranges, 2): first granule
    and number of granules, in order and with equal granules between them; empty if the
    planes are equal. Raises UsageError if the planes differ in size.

    >>> differing_runs(np.array([0x21, 0x43], np.uint8), np.array([0x11, 0x40], np.uint8)).tolist()
    [[1, 2]]
    """
    _require_bytes(left)
    _require_bytes(right)
    if left.size != right.size:
        raise UsageError(
            f"planes of {left.size:#x} and {right.size:#x} bytes cannot be compared tag by tag"
        )
    differing = _differing_granules(left, right)
    breaks = np.flatnonzero(np.diff(differing) != 1)
    firsts = np.append(differing[:1], differing[breaks + 1])
    lasts = np.append(differing[breaks], differing[-1:])
    return np.stack((firsts, lasts - firsts + 1), axis=1)


def _differing_granules(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.int64]:
    # Whole bytes first: planes that are compared are mostly equal.
    places = np.flatnonzero(left != right)
    nibbles = unpack(left[places] ^ right[places]).reshape(-1, TAGS_PER_BYTE)
    row, nibble = np.nonzero(nibbles)
    return (places[row] * TAGS_PER_BYTE + nibble).astype(np.int64)


def zero_rows(plane: NDArray[np.uint8], row_bytes: int) -> NDArray[np.bool_]:
    """Return for each row of `row_bytes` bytes of any plane whether it is all zero.

    `plane`: shape (rows * row_bytes,), data or packed tags; `row_bytes`: a multiple of 8.
    Returns a new array of shape (rows,). A row is read only as far as it is zero. Raises
    UsageError if the rows do not fit.

    >>> zero_rows(np.array([0] * 8 + [0, 1] * 4, np.uint8), 8).tolist()
    [True, False]
    """
    _require_bytes(plane)
    if row_bytes <= 0 or row_bytes % _WORD_BYTES or plane.size % row_bytes:
        raise UsageError(f"{plane.size:#x} bytes cannot be cut into rows of {row_bytes:#x}")
    if not plane.flags.c_contiguous:
        return numpy_kernels.zero_rows(plane, row_bytes)
    rows = plane.size // row_bytes
    is_zero = np.empty(rows, np.bool_)
    library().ta_pages_zero(plane.ctypes.data, rows, row_bytes, is_zero.ctypes.data)
    return is_zero


def count_tagged(packed: NDArray[np.uint8]) -> int:
    """Return how many granules of a packed plane have a tag other than 0.

    >>> count_tagged(np.array([0x31, 0x50, 0x00], np.uint8))
    3
    """
    _require_bytes(packed)
    if not packed.flags.c_contiguous:
        return numpy_kernels.count_tagged(packed)
    count: int = library().ta_tags_count(packed.ctypes.data, packed.size)
    return count


def zero_pages(packed: NDArray[np.uint8], page_size_bytes: int) -> NDArray[np.bool_]:
    """Return for each page whether all its tags are zero.

    `packed`: the tags of whole pages of `page_size_bytes` bytes of memory each. Returns a
    new array of shape (pages,). Raises UsageError if the plane is not that of whole pages.

    >>> zero_pages(np.array([0] * 128 + [0x10] * 128, np.uint8), 4096).tolist()
    [True, False]
    """
    return zero_rows(packed, page_size_bytes // PACKED_RATIO)


def uniform_pages(packed: NDArray[np.uint8], page_size_bytes: int) -> NDArray[np.bool_]:
    """Return for each page whether all its tags are the same, zero or not.

    `packed`: the tags of whole pages of `page_size_bytes` bytes of memory each. Returns a
    new array of shape (pages,). Raises UsageError if the plane is not that of whole pages.

    >>> uniform_pages(np.array([0x33] * 128 + [0x10] * 128, np.uint8), 4096).tolist()
    [True, False]
    """
    _require_bytes(packed)
    row_bytes = page_size_bytes // PACKED_RATIO
    if row_bytes <= 0 or row_bytes % _WORD_BYTES or packed.size % row_bytes:
        raise UsageError(
            f"{packed.size:#x} bytes are not the tags of pages of {page_size_bytes:#x}"
        )
    first_tags = packed[::row_bytes] & TAG_MASK
    words = np.ascontiguousarray(packed).view(np.uint64).reshape(-1, row_bytes // _WORD_BYTES)
    expected = first_tags.astype(np.uint64) * _UNIFORM_WORD
    uniform: NDArray[np.bool_] = (words == expected[:, np.newaxis]).all(axis=1)
    return uniform


def _shift(granule: int) -> int:
    return granule % TAGS_PER_BYTE * TAG_BITS


def _require_bytes(array: NDArray[np.uint8]) -> None:
    if array.dtype != np.uint8 or array.ndim != 1:
        raise UsageError(f"tags must be one row of uint8, not {_shape(array)}")


def _require_granules(packed: NDArray[np.uint8], first: int, count: int) -> None:
    _require_bytes(packed)
    granules = packed.size * TAGS_PER_BYTE
    if first < 0 or count < 0 or first + count > granules:
        raise UsageError(
            f"granules [{first:#x}, {first + count:#x}) are not in a plane of {granules:#x}"
        )


def _require_tag(tag: int) -> None:
    if not 0 <= tag <= TAG_MASK:
        raise UsageError(f"{tag:#x} is no tag: a tag is 0x0 to {TAG_MASK:#x}")


def _shape(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    return f"{array.dtype} of shape {array.shape}"
