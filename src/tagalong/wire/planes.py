"""PAGES: the head and the runs of a batch, and how its planes are put on the wire.

Uncompressed data never pass through here: they go from and to guest RAM as they are. The
tags take whichever encoding is smallest; most guests leave most tags zero, kernels give
whole pages one tag, and an allocator's tags compress well.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np
import zstandard
from numpy.typing import NDArray

from tagalong.mte import PACKED_RATIO, TAG_BITS, TAG_MASK
from tagalong.mte.tags import uniform_pages
from tagalong.wire import limits
from tagalong.wire.layout import Buffer, Layout, MalformedError
from tagalong.wire.records import Feature, Machine, NoBytes, Pages, Runs

PAGES_HEAD = Layout(
    ("run_count", "u16"),
    ("data_encoding", "u8"),
    ("tag_encoding", "u8"),
    ("tag_bytes", "u32"),
    ("data_bytes", "u32"),
    ("reserved", "u32"),
)
RUN = Layout(("first_gpa", "u64"), ("page_count", "u64"))

SEAL_BYTES = 8
"""Size of the checksum behind a batch's data."""

_TAGS_LEVEL = 1

_Encoding = TypeVar("_Encoding", bound=IntEnum)


class DataEncoding(IntEnum):
    """How the data of a batch stand on the wire."""

    RAW = 1
    ZERO = 2
    ZSTD = 3
    KEPT = 4


class TagEncoding(IntEnum):
    """How the tags of a batch stand on the wire."""

    ABSENT = 1
    ZERO = 2
    RAW = 3
    ZSTD = 4
    UNIFORM = 5


_DATA_WITHOUT_BYTES = {NoBytes.ZERO: DataEncoding.ZERO, NoBytes.KEPT: DataEncoding.KEPT}


@dataclass(frozen=True)
class BatchHead:
    """The head of a batch, sound in itself."""

    run_count: int
    data_encoding: DataEncoding
    tag_encoding: TagEncoding
    tag_bytes: int
    data_bytes: int

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
    def packed_bytes(self) -> int:
        """Return the size of all tags when packed."""
        return self.ram_bytes // PACKED_RATIO

    @property
    def tags_at(self) -> int:
        """Return where in the payload the tags start."""
        return PAGES_HEAD.size + self.head.run_bytes

    @property
    def data_at(self) -> int:
        """Return where in the payload the data start."""
        return self.tags_at + self.head.tag_bytes

    @property
    def payload_bytes(self) -> int:
        """Return the size of the whole payload."""
        return self.data_at + self.head.data_bytes + SEAL_BYTES


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
        data_bytes=values["data_bytes"],
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
    _require_encodings(head, machine, features)
    _require_tag_bytes(batch)
    _require_data_bytes(batch)
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


def _require_encodings(head: BatchHead, machine: Machine, features: int) -> None:
    has_tags = machine.mte_version != 0
    if (head.tag_encoding is TagEncoding.ABSENT) == has_tags:
        raise _wrong(
            "tag_encoding",
            f"tag encoding {head.tag_encoding.name} on a machine "
            f"{'with' if has_tags else 'without'} tags",
        )
    if features & Feature.ZSTD:
        return
    if head.tag_encoding is TagEncoding.ZSTD:
        raise _wrong("tag_encoding", "ZSTD tags, but the feature ZSTD is not in use")
    if head.data_encoding is DataEncoding.ZSTD:
        raise _wrong("data_encoding", "ZSTD data, but the feature ZSTD is not in use")


def _require_tag_bytes(batch: Batch) -> None:
    head = batch.head
    smallest, largest = {
        TagEncoding.ABSENT: (0, 0),
        TagEncoding.ZERO: (0, 0),
        TagEncoding.RAW: (batch.packed_bytes, batch.packed_bytes),
        TagEncoding.ZSTD: (1, batch.packed_bytes - 1),
        TagEncoding.UNIFORM: (batch.runs.page_count, batch.runs.page_count),
    }[head.tag_encoding]
    if not smallest <= head.tag_bytes <= largest:
        raise _wrong(
            "tag_bytes",
            f"{head.tag_bytes:#x} bytes of {head.tag_encoding.name} tags for a batch of "
            f"{batch.ram_bytes:#x} bytes, where {smallest:#x} to {largest:#x} are possible",
        )


def _require_data_bytes(batch: Batch) -> None:
    head = batch.head
    smallest, largest = {
        DataEncoding.RAW: (batch.ram_bytes, batch.ram_bytes),
        DataEncoding.ZERO: (0, 0),
        DataEncoding.ZSTD: (1, batch.ram_bytes - 1),
        DataEncoding.KEPT: (0, 0),
    }[head.data_encoding]
    if not smallest <= head.data_bytes <= largest:
        raise _wrong(
            "data_bytes",
            f"{head.data_bytes:#x} bytes of {head.data_encoding.name} data for a batch of "
            f"{batch.ram_bytes:#x} bytes, where {smallest:#x} to {largest:#x} are possible",
        )


def _wrong(field: str, message: str) -> MalformedError:
    return MalformedError(message, offset=PAGES_HEAD.offsets[field])


@dataclass(frozen=True)
class EncodedTags:
    """A batch's tags as they stand on the wire."""

    encoding: TagEncoding
    payload: Buffer


@dataclass(frozen=True)
class EncodedData:
    """A batch's data as they stand on the wire, or are going to."""

    encoding: DataEncoding
    size_bytes: int
    pieces: tuple[Buffer, ...] = ()


def encode_head(
    runs: Runs, tags: EncodedTags, data: EncodedData, machine: Machine, features: int
) -> tuple[bytes, bytes]:
    """Return the head of a batch, and its runs.

    Raises MalformedError if the receiver would refuse the batch.
    """
    head = PAGES_HEAD.pack(
        run_count=len(runs),
        data_encoding=data.encoding,
        tag_encoding=tags.encoding,
        tag_bytes=len(tags.payload),
        data_bytes=data.size_bytes,
    )
    table = runs.array.astype("<u8").tobytes()
    decode_batch(decode_head(head), table, machine, features)
    return head, table


class PlaneCodec:
    """Encodes and decodes the planes of batches; belongs to one thread."""

    def __init__(self) -> None:
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}
        self._decompressor = zstandard.ZstdDecompressor()

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
        if not plane.any():
            return EncodedTags(TagEncoding.ZERO, b"")
        smallest = EncodedTags(TagEncoding.RAW, tags)
        if features & Feature.ZSTD:
            compressed = self._compress(tags, _TAGS_LEVEL)
            if len(compressed) < tags.nbytes:
                smallest = EncodedTags(TagEncoding.ZSTD, compressed)
        uniform = _uniform(plane, page_bytes)
        if uniform is not None and len(uniform) <= len(smallest.payload):
            return EncodedTags(TagEncoding.UNIFORM, uniform)
        return smallest

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
        is not one frame of exactly the size that the batch needs, or a uniform one has two
        tags in a page.
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
        return memoryview(self._decompress("tags", payload, batch.packed_bytes))

    def decode_data(self, batch: Batch, frame: memoryview) -> memoryview:
        """Return the data that a Zstandard frame holds; raises as `decode_tags`."""
        return memoryview(self._decompress("data", frame, batch.ram_bytes))

    def _compress(self, plane: Buffer, level: int) -> bytes:
        if level not in self._compressors:
            self._compressors[level] = zstandard.ZstdCompressor(
                level=level, write_content_size=True
            )
        return self._compressors[level].compress(plane)

    def _decompress(self, what: str, payload: memoryview, size_bytes: int) -> bytes:
        try:
            # What the frame declares decides what is allocated, so it is looked at first.
            declared = zstandard.get_frame_parameters(payload).content_size
            if declared != size_bytes:
                raise MalformedError(
                    f"compressed {what} declare {declared:#x} bytes, not {size_bytes:#x}"
                )
            return self._decompressor.decompress(
                payload, max_output_size=size_bytes, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise MalformedError(f"compressed {what} cannot be decompressed: {error}") from error


def _uniform(plane: NDArray[np.uint8], page_bytes: int) -> bytes | None:
    """Return one byte a page (the page's tag in both nibbles) if no page has two tags."""
    row_bytes = page_bytes // PACKED_RATIO
    # A look at the first bytes spares most planes the whole test.
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
