"""PAGES: the head and the runs of a batch, and what they must be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

from tagalong._lazy import module_when_used
from tagalong.binary.layout import Buffer, Layout, MalformedError
from tagalong.mte import PACKED_RATIO
from tagalong.wire import limits
from tagalong.wire.records import Feature, MachineRecord, Run, Runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
else:
    np = module_when_used("numpy")

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

_Encoding = TypeVar("_Encoding", bound=IntEnum)


class DataEncoding(IntEnum):
    """How the data of a batch are encoded on the wire."""

    RAW = 1
    ZERO = 2
    ZSTD = 3
    KEPT = 4


class TagEncoding(IntEnum):
    """How the tags of a batch are encoded on the wire."""

    ABSENT = 1
    ZERO = 2
    RAW = 3
    ZSTD = 4
    UNIFORM = 5
    RUNS = 6


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

    Raises MalformedError (offsets from the payload's start) for an unknown encoding or a number
    of runs that is not possible.
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
        raise _wrong(name, f"{values[name]:#x} is not a {name.replace('_', ' ')}") from None


def decode_batch(head: BatchHead, runs: Buffer, machine: MachineRecord, features: int) -> Batch:
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


def _require_runs(runs: Runs, machine: MachineRecord) -> None:
    """Raise MalformedError for the first run that is empty, too large, in disorder or outside.

    All runs are judged at once, as arrays: a batch has up to a thousand, and each batch of each
    connection passes through here. Values that could overflow are first clipped to values that
    are rejected in any case, so everything up to the first rejected run is exact.
    """
    page = machine.page_size_bytes
    first, count = runs.array[:, 0], runs.array[:, 1]
    sizes = np.minimum(count, limits.MAX_BATCH_BYTES // page + 1) * np.uint64(page)
    ends = np.zeros(len(runs) + 1, np.uint64)
    ends[1:] = np.minimum(first, machine.region_ends[-1]) + sizes
    # The end of the last region that starts at or below the run; 0 if there is none.
    limit = machine.region_ends[np.searchsorted(machine.region_starts, first, "right")]
    is_too_large = (sizes == 0) | (np.cumsum(sizes) > limits.MAX_BATCH_BYTES)
    is_in_disorder = (first & np.uint64(page - 1) != 0) | (first < ends[:-1])
    is_bad = is_too_large | is_in_disorder | (ends[1:] > limit)
    if is_bad.any():
        number = int(is_bad.argmax())
        at = PAGES_HEAD.size + number * RUN.size
        if is_too_large[number]:
            raise _too_large(runs[number], page, at)
        if is_in_disorder[number]:
            raise _in_disorder(runs[number], page, int(ends[number]), at)
        raise _outside(runs[number], page, at)


def _too_large(run: Run, page: int, at: int) -> MalformedError:
    return MalformedError(
        f"a run of {run.page_count:#x} pages of {page:#x} bytes: there must be one, and in "
        f"all runs at most {limits.MAX_BATCH_BYTES:#x} bytes",
        offset=at + RUN.offsets["page_count"],
    )


def _in_disorder(run: Run, page: int, end: int, at: int) -> MalformedError:
    return MalformedError(
        f"a run at gpa {run.first_gpa:#x}, which must be a multiple of the page size "
        f"{page:#x} and at least {end:#x}, where the run before it ends",
        offset=at,
    )


def _outside(run: Run, page: int, at: int) -> MalformedError:
    end = run.first_gpa + run.page_count * page
    return MalformedError(f"pages [{run.first_gpa:#x}, {end:#x}) are not in one region", offset=at)


def _require_encodings(head: BatchHead, machine: MachineRecord, features: int) -> None:
    has_tags = machine.mte_version != 0
    if (head.tag_encoding is TagEncoding.ABSENT) == has_tags:
        raise _wrong(
            "tag_encoding",
            f"tag encoding {head.tag_encoding.name} on a machine "
            f"{'with' if has_tags else 'without'} tags",
        )
    if features & Feature.TAGS_IN_PLACE:
        raise _wrong("run_count", "pages in a stream whose tags are in place")
    if features & Feature.TAGS_ONLY and head.data_encoding is not DataEncoding.KEPT:
        raise _wrong(
            "data_encoding", f"{head.data_encoding.name} data in a stream that carries only tags"
        )
    if head.tag_encoding is TagEncoding.RUNS and not features & Feature.TAG_RUNS:
        raise _wrong("tag_encoding", "RUNS of tags, but the feature TAG_RUNS is not in use")
    if features & Feature.ZSTD:
        return
    if head.tag_encoding is TagEncoding.ZSTD:
        raise _wrong("tag_encoding", "ZSTD tags, but the feature ZSTD is not in use")
    if head.data_encoding is DataEncoding.ZSTD:
        raise _wrong("data_encoding", "ZSTD data, but the feature ZSTD is not in use")


def _require_tag_bytes(batch: Batch) -> None:
    encoding = batch.head.tag_encoding
    possible = {
        TagEncoding.ABSENT: (0, 0),
        TagEncoding.ZERO: (0, 0),
        TagEncoding.RAW: (batch.packed_bytes, batch.packed_bytes),
        TagEncoding.ZSTD: (1, batch.packed_bytes - 1),
        TagEncoding.UNIFORM: (batch.runs.page_count, batch.runs.page_count),
        TagEncoding.RUNS: (1, batch.packed_bytes - 1),
    }[encoding]
    _require_size(batch, "tag_bytes", f"{encoding.name} tags", possible)


def _require_data_bytes(batch: Batch) -> None:
    encoding = batch.head.data_encoding
    _require_room(batch, encoding)
    possible = {
        DataEncoding.RAW: (batch.ram_bytes, batch.ram_bytes),
        DataEncoding.ZERO: (0, 0),
        DataEncoding.ZSTD: (1, batch.ram_bytes - 1),
        DataEncoding.KEPT: (0, 0),
    }[encoding]
    _require_size(batch, "data_bytes", f"{encoding.name} data", possible)


def _require_room(batch: Batch, encoding: DataEncoding) -> None:
    """Raise if a receiver might need a larger buffer than it has promised."""
    is_raw = encoding is DataEncoding.RAW
    is_copied = batch.head.run_count > 1 if is_raw else encoding is DataEncoding.ZSTD
    if is_copied and batch.ram_bytes > limits.MAX_COPIED_BYTES:
        raise _wrong(
            "data_encoding",
            f"{batch.ram_bytes:#x} bytes of pages as {encoding.name} data, in "
            f"{batch.head.run_count:#x} runs: {limits.MAX_COPIED_BYTES:#x} are possible, more only "
            "uncompressed and in one run",
        )


def _require_size(batch: Batch, field: str, what: str, possible: tuple[int, int]) -> None:
    size_bytes, (smallest, largest) = getattr(batch.head, field), possible
    if not smallest <= size_bytes <= largest:
        raise _wrong(
            field,
            f"{size_bytes:#x} bytes of {what} for a batch of {batch.ram_bytes:#x} bytes, where "
            f"{smallest:#x} to {largest:#x} are possible",
        )


def _wrong(field: str, message: str) -> MalformedError:
    return MalformedError(message, offset=PAGES_HEAD.offsets[field])


@dataclass(frozen=True)
class EncodedTags:
    """A batch's tags as they are on the wire."""

    encoding: TagEncoding
    payload: Buffer


@dataclass(frozen=True)
class EncodedData:
    """A batch's data as they are on the wire, or will be."""

    encoding: DataEncoding
    size_bytes: int
    pieces: Sequence[Buffer] = ()


def encode_head(
    runs: Runs, tags: EncodedTags, data: EncodedData, machine: MachineRecord, features: int
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
