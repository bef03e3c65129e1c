"""How the planes of a batch are put on the wire: encodings, chosen and undone.

Uncompressed data never pass through here: they go from and to guest RAM as they are. Tags
take whichever encoding is smallest: most guests leave most tags zero, kernels give whole
pages one tag, and an allocator writes short runs of random tags.
"""

from collections.abc import Sequence

import numpy as np
import zstandard
from numpy.typing import NDArray

from tagalong.binary.layout import Buffer, MalformedError
from tagalong.mte import PACKED_RATIO, TAG_BITS, TAG_MASK
from tagalong.mte.tags import uniform_pages
from tagalong.wire.planes import Batch, DataEncoding, EncodedData, EncodedTags, TagEncoding
from tagalong.wire.records import Feature, NoBytes, Pages
from tagalong.wire.tag_runs import decode_runs, encode_runs

_TAGS_LEVEL = 1

# RFC 8878, 3.1.1
_BLOCK_HEADER_BYTES = 3
_BLOCK_OF_ONE_BYTE = 1  # RLE
_CHECKSUM_BYTES = 4

# Runs of so many times less than the tags are taken without a look at what Zstandard would make of
# them: with fewer it may find what repeats, in three times the time.
_DENSE_RATIO = 8

# Where a plane is looked at before it is compressed: so many pieces of it, of so many bytes.
_SAMPLES = 8
_SAMPLE_BYTES = 2048

_DATA_WITHOUT_BYTES = {NoBytes.ZERO: DataEncoding.ZERO, NoBytes.KEPT: DataEncoding.KEPT}


class PlaneCodec:
    """Encodes and decodes the planes of batches; belongs to one thread."""

    def __init__(self) -> None:
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}
        self._decompressor = zstandard.ZstdDecompressor()
        self._spread = bytearray()  # data of several runs, before they are where they belong

    def encode_tags(
        self, tags: memoryview | NoBytes, page_bytes: int, features: int
    ) -> EncodedTags:
        """Return `tags`, packed, of pages of `page_bytes`, in the smallest possible form.

        Raises MalformedError for what tags cannot be.
        """
        if tags is NoBytes.ABSENT:
            return EncodedTags(TagEncoding.ABSENT, b"")
        if isinstance(tags, NoBytes):
            if tags is not NoBytes.ZERO:
                raise MalformedError(f"tags are never {tags.value}")
            return EncodedTags(TagEncoding.ZERO, b"")
        plane = np.frombuffer(tags, np.uint8)
        runs = encode_runs(plane, plane.size - 1) if features & Feature.TAG_RUNS else None
        if runs == b"" or (runs is None and not plane.view(np.uint64).any()):
            return EncodedTags(TagEncoding.ZERO, b"")
        smallest = EncodedTags(TagEncoding.RAW, tags)
        if runs is not None:
            smallest = EncodedTags(TagEncoding.RUNS, runs)
        is_dense = len(smallest.payload) * _DENSE_RATIO > plane.size
        if is_dense and features & Feature.ZSTD and self._may_shrink(plane):
            compressed = self._compress(tags, _TAGS_LEVEL)
            if len(compressed) < len(smallest.payload):
                smallest = EncodedTags(TagEncoding.ZSTD, compressed)
        if len(smallest.payload) < plane.size * PACKED_RATIO // page_bytes:
            return smallest  # than a byte a page
        uniform = _uniform(plane, page_bytes)
        return smallest if uniform is None else EncodedTags(TagEncoding.UNIFORM, uniform)

    def encode_data(self, pages: Pages, features: int) -> EncodedData:
        """Return the data of `pages` as they are to be sent: compressed if that is asked for.

        Raises MalformedError for what data cannot be.
        """
        if isinstance(pages.data, NoBytes):
            if pages.data not in _DATA_WITHOUT_BYTES:
                raise MalformedError(f"a page's data are never {pages.data.value}")
            return EncodedData(_DATA_WITHOUT_BYTES[pages.data], 0)
        size_bytes = sum(piece.nbytes for piece in pages.data)
        if pages.level is not None and features & Feature.ZSTD:
            whole = pages.data[0] if len(pages.data) == 1 else b"".join(pages.data)
            frame = self._compress(whole, pages.level)
            if len(frame) < size_bytes:
                return EncodedData(DataEncoding.ZSTD, len(frame), (frame,))
        return EncodedData(DataEncoding.RAW, size_bytes, pages.data)

    def decode_tags(self, batch: Batch, payload: memoryview) -> memoryview | NoBytes:
        """Return the packed tags that `payload` holds.

        Raises MalformedError (offset 0 is the payload's first byte) if a compressed payload
        is not one frame of exactly the size that the batch needs, a uniform one has two tags
        in a page, or runs are not exactly one plane.
        """
        encoding = batch.head.tag_encoding
        if encoding is TagEncoding.ABSENT:
            return NoBytes.ABSENT
        if encoding is TagEncoding.ZERO:
            return NoBytes.ZERO
        if encoding is TagEncoding.RAW:
            return payload
        if encoding is TagEncoding.UNIFORM:
            return _expand(payload, batch.page_size_bytes // PACKED_RATIO)
        if encoding is TagEncoding.RUNS:
            return decode_runs(payload, batch.packed_bytes)
        return memoryview(self._decompress("tags", payload, batch.packed_bytes))

    def decode_data(
        self, batch: Batch, frame: memoryview, landing: Sequence[memoryview]
    ) -> Sequence[memoryview]:
        """Return the data that a Zstandard frame holds; raises as `decode_tags`.

        They are in `landing` if that is one piece of memory, else in one that the next batch uses
        again.
        """
        if len(landing) != 1:
            if len(self._spread) < batch.ram_bytes:
                self._spread = bytearray(batch.ram_bytes)
            landing = (memoryview(self._spread)[: batch.ram_bytes],)
        self._decompress_into(landing[0], frame)
        return landing

    def _decompress_into(self, target: memoryview, frame: memoryview) -> None:
        """Decompress data to where they belong: new memory would cost page faults."""
        try:
            _require_size("data", frame, len(target))
            require_one_frame(frame)
            with self._decompressor.stream_reader(frame) as reader:
                done = 0
                while done < len(target) and (count := reader.readinto(target[done:])):
                    done += count
        except zstandard.ZstdError as error:
            raise MalformedError(f"compressed data cannot be decompressed: {error}") from error
        if done < len(target):
            raise MalformedError(f"compressed data end after {done:#x} bytes")

    def _may_shrink(self, plane: NDArray[np.uint8]) -> bool:
        """Return whether compression may pay: random tags would cost its time for nothing."""
        if plane.size < 2 * _SAMPLES * _SAMPLE_BYTES:
            return True
        step = plane.size // _SAMPLES
        sample = plane[: _SAMPLES * step].reshape(_SAMPLES, step)[:, :_SAMPLE_BYTES]
        return len(self._compress(sample.tobytes(), _TAGS_LEVEL)) < sample.size

    def _compress(self, plane: Buffer, level: int) -> bytes:
        if level not in self._compressors:
            self._compressors[level] = zstandard.ZstdCompressor(
                level=level, write_content_size=True
            )
        return self._compressors[level].compress(plane)

    def _decompress(self, what: str, payload: memoryview, size_bytes: int) -> bytes:
        try:
            # What the frame declares decides what is allocated, so it is looked at first.
            _require_size(what, payload, size_bytes)
            return self._decompressor.decompress(
                payload, max_output_size=size_bytes, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise MalformedError(f"compressed {what} cannot be decompressed: {error}") from error


def _require_size(what: str, frame: memoryview, size_bytes: int) -> None:
    declared = zstandard.get_frame_parameters(frame).content_size
    if declared != size_bytes:
        raise MalformedError(f"compressed {what} declare {declared:#x} bytes, not {size_bytes:#x}")


def require_one_frame(frame: memoryview) -> None:
    """Raise MalformedError unless the bytes are one Zstandard frame and nothing behind it.

    Follows the headers of its blocks (RFC 8878, 3.1.1.2); ZstdError if the frame's is damaged.
    """
    at, is_last = zstandard.frame_header_size(frame), False
    while not is_last:
        header = int.from_bytes(frame[at : at + _BLOCK_HEADER_BYTES], "little")
        is_last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        at += _BLOCK_HEADER_BYTES + (1 if kind == _BLOCK_OF_ONE_BYTE else size)
        if at > len(frame):
            raise MalformedError("compressed data cannot be decompressed: a block is cut off")
    at += _CHECKSUM_BYTES * zstandard.get_frame_parameters(frame).has_checksum
    if at != len(frame):
        raise MalformedError(
            f"compressed data cannot be decompressed: {len(frame) - at:#x} bytes follow the frame"
        )


def _uniform(plane: NDArray[np.uint8], page_bytes: int) -> bytes | None:
    """Return one byte a page (the page's tag in both nibbles) if no page has two tags."""
    row_bytes = page_bytes // PACKED_RATIO
    # Most planes fail at their first bytes already: spare them the whole test.
    if plane[0] != plane[row_bytes - 1] or not uniform_pages(plane, page_bytes).all():
        return None
    return plane[::row_bytes].tobytes()


def _expand(payload: memoryview, row_bytes: int) -> memoryview:
    pages = np.frombuffer(payload, np.uint8)
    uneven = np.flatnonzero(pages & TAG_MASK != pages >> TAG_BITS)
    if uneven.size:
        place = int(uneven[0])
        raise MalformedError(
            f"page {place:#x} of the batch has uniform tags {int(pages[place]):#04x}, "
            "which are two",
            offset=place,
        )
    return np.repeat(pages, row_bytes).data
