"""PAGES: the head of a batch, and how its tags are put on the wire.

The data plane never passes through here: it goes from and to guest RAM as it is. The tags
take whichever encoding is smallest; most guests leave most tags zero, and an allocator's
tags compress well.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import zstandard

from tagalong.mte import PACKED_RATIO
from tagalong.wire import limits
from tagalong.wire.layout import Buffer, Layout, MalformedError
from tagalong.wire.records import Feature, Machine, NoBytes, Pages, Plane

PAGES_HEAD = Layout(
    ("first_gpa", "u64"),
    ("page_count", "u32"),
    ("data_encoding", "u8"),
    ("tag_encoding", "u8"),
    ("reserved", "u16"),
    ("tag_bytes", "u32"),
    ("head_check", "u32"),
)

CHECKED_HEAD_BYTES = PAGES_HEAD.offsets["head_check"]
"""What `head_check` covers of the payload: all that stands before it."""

_ZSTD_LEVEL = 1

_Encoding = TypeVar("_Encoding", bound=IntEnum)


class DataEncoding(IntEnum):
    """How the data of a batch stand on the wire."""

    RAW = 1
    ZERO = 2


class TagEncoding(IntEnum):
    """How the tags of a batch stand on the wire."""

    ABSENT = 1
    ZERO = 2
    RAW = 3
    ZSTD = 4


@dataclass(frozen=True)
class BatchHead:
    """The head of a batch, checked against the machine that it belongs to."""

    first_gpa: int
    page_count: int
    data_encoding: DataEncoding
    tag_encoding: TagEncoding
    tag_bytes: int
    head_check: int
    ram_bytes: int

    @property
    def data_bytes(self) -> int:
        """Return the size of the data on the wire."""
        return self.ram_bytes if self.data_encoding is DataEncoding.RAW else 0

    @property
    def packed_bytes(self) -> int:
        """Return the size of the batch's tags when packed."""
        return self.ram_bytes // PACKED_RATIO


def decode_head(values: dict[str, int], machine: Machine, features: int) -> BatchHead:
    """Return the head that was unpacked to `values`.

    Raises MalformedError, its offset counted from the payload's start, for a batch outside
    of the machine's regions, an encoding that the machine or the features do not allow, or
    a wrong size.
    """
    head = BatchHead(
        first_gpa=values["first_gpa"],
        page_count=values["page_count"],
        data_encoding=_encoding(DataEncoding, values, "data_encoding"),
        tag_encoding=_encoding(TagEncoding, values, "tag_encoding"),
        tag_bytes=values["tag_bytes"],
        head_check=values["head_check"],
        ram_bytes=values["page_count"] * machine.page_size_bytes,
    )
    _require_place(head, machine)
    _require_tag_encoding(head, machine, features)
    _require_tag_bytes(head)
    return head


def _encoding(kind: type[_Encoding], values: dict[str, int], name: str) -> _Encoding:
    try:
        return kind(values[name])
    except ValueError:
        raise _wrong(name, f"{values[name]:#x} is no {name.replace('_', ' ')}") from None


def _require_place(head: BatchHead, machine: Machine) -> None:
    if head.first_gpa % machine.page_size_bytes:
        raise _wrong(
            "first_gpa",
            f"gpa {head.first_gpa:#x} is no multiple of the page size {machine.page_size_bytes:#x}",
        )
    if not head.page_count or head.ram_bytes > limits.MAX_BATCH_BYTES:
        raise _wrong(
            "page_count",
            f"a batch of {head.page_count:#x} pages of {machine.page_size_bytes:#x} bytes: there "
            f"must be one, and at most {limits.MAX_BATCH_BYTES:#x} bytes",
        )
    end = head.first_gpa + head.ram_bytes
    if not any(region.gpa <= head.first_gpa and end <= region.end for region in machine.regions):
        raise _wrong("first_gpa", f"pages [{head.first_gpa:#x}, {end:#x}) are not in one region")


def _require_tag_encoding(head: BatchHead, machine: Machine, features: int) -> None:
    has_tags = machine.mte_version != 0
    if (head.tag_encoding is TagEncoding.ABSENT) == has_tags:
        raise _wrong(
            "tag_encoding",
            f"tag encoding {head.tag_encoding.name} on a machine "
            f"{'with' if has_tags else 'without'} tags",
        )
    if head.tag_encoding is TagEncoding.ZSTD and not features & Feature.TAGS_ZSTD:
        raise _wrong("tag_encoding", "ZSTD tags, but the feature TAGS_ZSTD is not in use")


def _require_tag_bytes(head: BatchHead) -> None:
    smallest, largest = {
        TagEncoding.ABSENT: (0, 0),
        TagEncoding.ZERO: (0, 0),
        TagEncoding.RAW: (head.packed_bytes, head.packed_bytes),
        TagEncoding.ZSTD: (1, head.packed_bytes - 1),
    }[head.tag_encoding]
    if not smallest <= head.tag_bytes <= largest:
        raise _wrong(
            "tag_bytes",
            f"{head.tag_bytes:#x} bytes of {head.tag_encoding.name} tags for "
            f"{head.page_count:#x} pages, where {smallest:#x} to {largest:#x} are possible",
        )


def _wrong(field: str, message: str) -> MalformedError:
    return MalformedError(message, offset=PAGES_HEAD.offsets[field])


@dataclass(frozen=True)
class EncodedTags:
    """A batch's tags as they stand on the wire."""

    encoding: TagEncoding
    payload: Buffer


def encode_head(pages: Pages, tags: EncodedTags, machine: Machine, features: int) -> bytes:
    """Return the bytes of a batch's head that `head_check` covers.

    Raises MalformedError if the receiver would refuse the batch.
    """
    values = {
        "first_gpa": pages.first_gpa,
        "page_count": pages.page_count,
        "data_encoding": DataEncoding.ZERO if pages.data is NoBytes.ZERO else DataEncoding.RAW,
        "tag_encoding": tags.encoding,
        "tag_bytes": len(tags.payload),
        "head_check": 0,
    }
    packed = PAGES_HEAD.pack(**values)
    head = decode_head(values, machine, features)
    if pages.data is NoBytes.ABSENT:
        raise _wrong("data_encoding", "a page's data are never absent")
    if isinstance(pages.data, memoryview) and pages.data.nbytes != head.ram_bytes:
        raise _wrong(
            "page_count",
            f"{pages.data.nbytes:#x} bytes of data for {pages.page_count:#x} pages",
        )
    if isinstance(pages.tags, memoryview) and pages.tags.nbytes != head.packed_bytes:
        raise _wrong(
            "tag_bytes",
            f"{pages.tags.nbytes:#x} bytes of packed tags for {pages.page_count:#x} pages",
        )
    return packed[:CHECKED_HEAD_BYTES]


class TagCodec:
    """Encodes and decodes the tags of batches; belongs to one thread."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True)
        self._decompressor = zstandard.ZstdDecompressor()

    def encode(self, tags: Plane, features: int) -> EncodedTags:
        """Return `tags` in the smallest form that the features allow."""
        if tags is NoBytes.ABSENT:
            return EncodedTags(TagEncoding.ABSENT, b"")
        if not isinstance(tags, memoryview) or not any_byte(tags):
            return EncodedTags(TagEncoding.ZERO, b"")
        if features & Feature.TAGS_ZSTD:
            compressed = self._compressor.compress(tags)
            if len(compressed) < tags.nbytes:
                return EncodedTags(TagEncoding.ZSTD, compressed)
        return EncodedTags(TagEncoding.RAW, tags)

    def decode(self, head: BatchHead, payload: memoryview) -> Plane:
        """Return the packed tags that `payload` holds.

        Raises MalformedError (offset 0 is the payload's first byte) if a compressed payload
        is not one frame of exactly the size that the batch needs.
        """
        if head.tag_encoding is TagEncoding.ABSENT:
            return NoBytes.ABSENT
        if head.tag_encoding is TagEncoding.ZERO:
            return NoBytes.ZERO
        if head.tag_encoding is TagEncoding.RAW:
            return payload
        return memoryview(self._decompress(payload, head.packed_bytes))

    def _decompress(self, payload: memoryview, size_bytes: int) -> bytes:
        try:
            # What the frame declares decides what is allocated, so it is looked at first.
            declared = zstandard.get_frame_parameters(payload).content_size
            if declared != size_bytes:
                raise MalformedError(
                    f"compressed tags declare {declared:#x} bytes, not {size_bytes:#x}"
                )
            return self._decompressor.decompress(
                payload, max_output_size=size_bytes, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise MalformedError(f"compressed tags cannot be decompressed: {error}") from error


def any_byte(plane: memoryview) -> bool:
    """Return whether any byte of `plane` is not zero."""
    # One pass of memcmp: bytes.strip and any() would look at one byte after the other.
    return plane.tobytes() != bytes(plane.nbytes)
