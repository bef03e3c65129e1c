"""PAGES: the head and the runs of a batch, and how its tags are put on the wire.

The data plane never passes through here: it goes from and to guest RAM as it is. The tags
take whichever encoding is smallest; most guests leave most tags zero, and an allocator's
tags compress well.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np
import zstandard

from tagalong.mte import PACKED_RATIO
from tagalong.wire import limits
from tagalong.wire.layout import Buffer, Layout, MalformedError
from tagalong.wire.records import Feature, Machine, NoBytes, Pages, Runs

PAGES_HEAD = Layout(
    ("run_count", "u16"),
    ("data_encoding", "u8"),
    ("tag_encoding", "u8"),
    ("tag_bytes", "u32"),
    ("head_check", "u64"),
)
RUN = Layout(("first_gpa", "u64"), ("page_count", "u64"))

CHECKED_HEAD_BYTES = PAGES_HEAD.offsets["head_check"]
"""What `head_check` covers of the head: all that stands before it."""

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
    """The head of a batch, sound in itself."""

    run_count: int
    data_encoding: DataEncoding
    tag_encoding: TagEncoding
    tag_bytes: int
    head_check: int

    @property
    def run_bytes(self) -> int:
        """Return the size of the runs that follow."""
        return self.run_count * RUN.size


@dataclass(frozen=True)
class Batch:
    """A batch up to its data, sound for the machine that it belongs to."""

    head: BatchHead
    runs: Runs
    page_size_bytes: int

    @property
    def ram_bytes(self) -> int:
        """Return the size of all pages."""
        return self.runs.page_count * self.page_size_bytes

    @property
    def data_bytes(self) -> int:
        """Return the size of the data on the wire."""
        return self.ram_bytes if self.head.data_encoding is DataEncoding.RAW else 0

    @property
    def packed_bytes(self) -> int:
        """Return the size of all tags when packed."""
        return self.ram_bytes // PACKED_RATIO

    @property
    def tags_at(self) -> int:
        """Return where in the payload the tags start."""
        return PAGES_HEAD.size + self.head.run_bytes + self.data_bytes

    @property
    def payload_bytes(self) -> int:
        """Return the size of the whole payload."""
        return self.tags_at + self.head.tag_bytes


def decode_head(payload: Buffer) -> BatchHead:
    """Return the head that a payload starts with.

    Raises MalformedError (offsets from the payload's start) for an encoding that is none
    or a number of runs that is not possible.
    """
    values = PAGES_HEAD.unpack(payload)
    if not 1 <= values["run_count"] <= limits.MAX_RUNS:
        raise _wrong(
            "run_count", f"{values['run_count']:#x} runs: 0x1 to {limits.MAX_RUNS:#x} are possible"
        )
    return BatchHead(
        run_count=values["run_count"],
        data_encoding=_encoding(DataEncoding, values, "data_encoding"),
        tag_encoding=_encoding(TagEncoding, values, "tag_encoding"),
        tag_bytes=values["tag_bytes"],
        head_check=values["head_check"],
    )


def _encoding(kind: type[_Encoding], values: dict[str, int], name: str) -> _Encoding:
    try:
        return kind(values[name])
    except ValueError:
        raise _wrong(name, f"{values[name]:#x} is no {name.replace('_', ' ')}") from None


def decode_batch(head: BatchHead, runs: Buffer, machine: Machine, features: int) -> Batch:
    """Return the batch of a head and the bytes of its runs.

    Raises MalformedError (offsets from the payload's start) for runs outside of the
    machine's regions or in disorder, too many pages, an encoding of the tags that the
    machine or the features do not allow, or a wrong size of the tags.
    """
    batch = Batch(
        head,
        Runs(np.frombuffer(runs, "<u8")),
        machine.page_size_bytes,
    )
    _require_runs(batch.runs, machine)
    _require_tag_encoding(head, machine, features)
    _require_tag_bytes(batch)
    return batch


def _require_runs(runs: Runs, machine: Machine) -> None:
    if not _are_sound(runs, machine):
        _refuse_runs(runs, machine)


def _are_sound(runs: Runs, machine: Machine) -> bool:
    """Return whether all runs are in order, in one region each, and not too large."""
    page = machine.page_size_bytes
    first, count = runs.array[:, 0], runs.array[:, 1]
    # Each in turn, for no later one can overflow where the ones before it hold.
    if not (count - np.uint64(1) < limits.MAX_BATCH_BYTES // page).all():
        return False
    if int(count.sum()) * page > limits.MAX_BATCH_BYTES or int(first.max()) > limits.MAX_GPA:
        return False
    end = first + count * np.uint64(page)
    starts = np.array([region.gpa for region in machine.regions], np.uint64)
    ends = np.array([region.end for region in machine.regions], np.uint64)
    inside = np.searchsorted(starts, first, "right") - 1
    return bool(
        (first % np.uint64(page) == 0).all()
        and (first[1:] >= end[:-1]).all()
        and (inside >= 0).all()
        and (end <= ends[inside]).all()
    )


def _refuse_runs(runs: Runs, machine: Machine) -> None:
    """Raise MalformedError for the first run that is not sound."""
    page = machine.page_size_bytes
    end = total = 0
    for number, run in enumerate(runs):
        at = PAGES_HEAD.size + number * RUN.size
        total += run.page_count
        if not run.page_count or total * page > limits.MAX_BATCH_BYTES:
            raise MalformedError(
                f"a run of {run.page_count:#x} pages of {page:#x} bytes: there must be one, and in "
                f"all runs at most {limits.MAX_BATCH_BYTES:#x} bytes",
                offset=at + RUN.offsets["page_count"],
            )
        if run.first_gpa % page or run.first_gpa < end:
            raise MalformedError(
                f"a run at gpa {run.first_gpa:#x}, which must be a multiple of the page size "
                f"{page:#x} and at least {end:#x}, where the run before it ends",
                offset=at,
            )
        end = run.first_gpa + run.page_count * page
        if not any(region.gpa <= run.first_gpa < end <= region.end for region in machine.regions):
            raise MalformedError(
                f"pages [{run.first_gpa:#x}, {end:#x}) are not in one region", offset=at
            )


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


def _require_tag_bytes(batch: Batch) -> None:
    head = batch.head
    smallest, largest = {
        TagEncoding.ABSENT: (0, 0),
        TagEncoding.ZERO: (0, 0),
        TagEncoding.RAW: (batch.packed_bytes, batch.packed_bytes),
        TagEncoding.ZSTD: (1, batch.packed_bytes - 1),
    }[head.tag_encoding]
    if not smallest <= head.tag_bytes <= largest:
        raise _wrong(
            "tag_bytes",
            f"{head.tag_bytes:#x} bytes of {head.tag_encoding.name} tags for a batch of "
            f"{batch.ram_bytes:#x} bytes, where {smallest:#x} to {largest:#x} are possible",
        )


def _wrong(field: str, message: str) -> MalformedError:
    return MalformedError(message, offset=PAGES_HEAD.offsets[field])


@dataclass(frozen=True)
class EncodedTags:
    """A batch's tags as they stand on the wire."""

    encoding: TagEncoding
    payload: Buffer


def encode_head(
    pages: Pages, tags: EncodedTags, machine: Machine, features: int
) -> tuple[bytes, bytes]:
    """Return the head of a batch up to its `head_check`, and its runs.

    Raises MalformedError if the receiver would refuse the batch.
    """
    head = PAGES_HEAD.pack(
        run_count=len(pages.runs),
        data_encoding=DataEncoding.ZERO if pages.data is NoBytes.ZERO else DataEncoding.RAW,
        tag_encoding=tags.encoding,
        tag_bytes=len(tags.payload),
        head_check=0,
    )
    runs = pages.runs.array.astype("<u8").tobytes()
    _require_planes(pages, decode_batch(decode_head(head), runs, machine, features))
    return head[:CHECKED_HEAD_BYTES], runs


def _require_planes(pages: Pages, batch: Batch) -> None:
    """Raise unless the planes have the sizes that the runs say."""
    if pages.data is NoBytes.ABSENT:
        raise MalformedError("a page's data are never absent")
    if not isinstance(pages.data, NoBytes):
        given = sum(piece.nbytes for piece in pages.data)
        if given != batch.ram_bytes:
            raise MalformedError(
                f"{given:#x} bytes of data for a batch that has {batch.ram_bytes:#x}"
            )
    if isinstance(pages.tags, memoryview) and pages.tags.nbytes != batch.packed_bytes:
        raise MalformedError(
            f"{pages.tags.nbytes:#x} bytes of tags for a batch that has {batch.packed_bytes:#x}"
        )


class TagCodec:
    """Encodes and decodes the tags of batches; belongs to one thread."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True)
        self._decompressor = zstandard.ZstdDecompressor()

    def encode(self, tags: memoryview | NoBytes, features: int) -> EncodedTags:
        """Return `tags` in the smallest form that the features allow."""
        if tags is NoBytes.ABSENT:
            return EncodedTags(TagEncoding.ABSENT, b"")
        if isinstance(tags, NoBytes) or not _has_any(tags):
            return EncodedTags(TagEncoding.ZERO, b"")
        if features & Feature.TAGS_ZSTD:
            compressed = self._compressor.compress(tags)
            if len(compressed) < tags.nbytes:
                return EncodedTags(TagEncoding.ZSTD, compressed)
        return EncodedTags(TagEncoding.RAW, tags)

    def decode(self, batch: Batch, payload: memoryview) -> memoryview | NoBytes:
        """Return the packed tags that `payload` holds.

        Raises MalformedError (offset 0 is the payload's first byte) if a compressed payload
        is not one frame of exactly the size that the batch needs.
        """
        if batch.head.tag_encoding is TagEncoding.ABSENT:
            return NoBytes.ABSENT
        if batch.head.tag_encoding is TagEncoding.ZERO:
            return NoBytes.ZERO
        if batch.head.tag_encoding is TagEncoding.RAW:
            return payload
        return memoryview(self._decompress(payload, batch.packed_bytes))

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


def _has_any(plane: memoryview) -> bool:
    # One memcmp: any() would look at one byte after the other.
    return plane.tobytes() != bytes(plane.nbytes)
