"""One incoming stream: from bytes to records, with every byte's place known.

The reader always names the memory for the next bytes, and how many it needs there. So data of
PAGES go straight into guest RAM, nothing is read ahead, and memory for a payload grows with
the bytes that arrive, not with the length that a header claims.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tagalong.binary.layout import Buffer, MalformedError
from tagalong.wire.codec import (
    RECORD_HEADER,
    STREAM_HEADER,
    decode_payload,
    decode_record_header,
    decode_stream_header,
)
from tagalong.wire.conversation import Conversation
from tagalong.wire.foreign import describe_foreign
from tagalong.wire.integrity import (
    NO_DIGESTS,
    RecordHash,
    frame_digest,
    page_digests,
    seal,
)
from tagalong.wire.placement import Placement
from tagalong.wire.plane_codec import PlaneCodec
from tagalong.wire.planes import (
    PAGES_HEAD,
    SEAL_BYTES,
    DataEncoding,
    decode_batch,
    decode_head,
)
from tagalong.wire.records import NoBytes, Pages, Record, RecordType, Role

_CHUNK_BYTES = 64 << 10


class RecordReader:
    """Parses the stream that `sender` sends. Errors are MalformedErrors.

    Their offsets count from `record_start`, the place of the record being received.
    """

    def __init__(
        self,
        conversation: Conversation,
        sender: Role,
        placement: Placement,
    ) -> None:
        self.placement = placement
        self._conversation = conversation
        self._sender = sender
        self._tags = PlaneCodec()
        self._sequence = 0
        self.offset = 0
        self.record_start = 0
        self._awaits_data = False
        self._frames = bytearray()
        self._received_data: Sequence[memoryview] | NoBytes = NoBytes.KEPT
        self._on_filled: Callable[[], Record | None] = self._stream_header
        self._expect(bytearray(STREAM_HEADER.size), self._stream_header)

    def buffer(self) -> memoryview:
        """Return where the next bytes go; not empty after `record` returned None."""
        self._awaits_data = False
        return self._target[self._filled :]

    def filled(self, count: int) -> None:
        """Note that the first `count` bytes of `buffer` were received."""
        self._filled += count
        self.offset += count

    def record(self) -> Record | None:
        """Return the next record if its last byte has come."""
        while self._filled == len(self._target):
            record = self._on_filled()
            if record is not None:
                return record
        return None

    @property
    def awaited_data(self) -> Sequence[memoryview] | None:
        """Return the memory that all uncompressed data of a batch belong into, if they come next.

        None once the first of them were asked for with `buffer`.
        """
        return self._landing if self._awaits_data else None

    def data_received(self, digests: NDArray[np.uint64]) -> None:
        """Note that `awaited_data` was filled by other means, and the digest of each page."""
        self._awaits_data = False
        self.offset += self._batch.ram_bytes
        self._have_data(digests)

    def pass_batch(self, page_count: int) -> None:
        """Note that a whole PAGES record passed by, with that many pages, and was not received.

        Only between two records. Raises MalformedError if the record is not allowed.
        """
        self._conversation.require_allowed(self._sender, RecordType.PAGES)
        self._conversation.advance_batch(self._sender, page_count)
        self._sequence += 1

    @property
    def foreign(self) -> str | None:
        """Return what the stream is if so far only its header came, and that is not ours."""
        is_at_start = self._on_filled == self._stream_header
        return describe_foreign(bytes(self._target[: self._filled])) if is_at_start else None

    def _expect(self, target: bytearray | memoryview, then: Callable[[], Record | None]) -> None:
        self._target = memoryview(target)
        self._filled = 0
        self._on_filled = then

    def _stream_header(self) -> None:
        self._conversation.open_stream(self._sender, decode_stream_header(self._target))
        self._next_record()

    def _next_record(self) -> None:
        self.record_start = self.offset
        self._expect(bytearray(RECORD_HEADER.size), self._record_header)

    def _record_header(self) -> None:
        self._header = header = decode_record_header(self._target, self._conversation.version)
        self._conversation.require_allowed(self._sender, header.type)
        self._hash = RecordHash(self._sequence, header.checked)
        if header.type is RecordType.PAGES:
            self._expect(bytearray(PAGES_HEAD.size), self._pages_head)
        else:
            self._payload = bytearray()
            self._next_chunk()

    # --- any record but PAGES ---

    def _next_chunk(self) -> None:
        left = self._header.payload_bytes - len(self._payload)
        self._expect(bytearray(min(left, _CHUNK_BYTES)), self._chunk)

    def _chunk(self) -> Record | None:
        self._payload += self._target
        if len(self._payload) < self._header.payload_bytes:
            self._next_chunk()
            return None
        self._hash.update(self._payload)
        self._require_checksum()
        with _Base(RECORD_HEADER.size):
            record = decode_payload(self._header.type, self._payload, self._conversation.version)
        return self._complete(record)

    # --- PAGES ---

    def _pages_head(self) -> None:
        with _Base(RECORD_HEADER.size):
            self._head = decode_head(self._target)
        self._head_bytes = self._target
        self._expect(bytearray(self._head.run_bytes), self._pages_runs)

    def _pages_runs(self) -> None:
        runs = self._target
        self._hash.update(self._head_bytes, runs)
        with _Base(RECORD_HEADER.size):
            self._batch = decode_batch(
                self._head, runs, self._conversation.machine, self._conversation.features
            )
        self._require_batch_size()
        self._expect(self.placement.tags(self._head.tag_bytes), self._batch_tags)

    def _require_batch_size(self) -> None:
        given, expected = self._header.payload_bytes, self._batch.payload_bytes
        if given != expected:
            raise MalformedError(
                f"the batch takes a payload of {expected:#x} bytes, not {given:#x}",
                offset=RECORD_HEADER.offsets["payload_bytes"],
            )

    def _batch_tags(self) -> None:
        # Data land only where a head says whose checksum is right.
        self._hash.update(self._target)
        self._require_checksum()
        with _Base(RECORD_HEADER.size + self._batch.tags_at):
            self._received_tags = self._tags.decode_tags(self._batch, self._target)
        self._digests = NO_DIGESTS
        encoding = self._head.data_encoding
        if encoding is DataEncoding.RAW:
            self._land_data()
        elif encoding is DataEncoding.ZSTD:
            self._expect(self._frame_memory(self._head.data_bytes), self._frame)
        else:
            self._received_data = NoBytes.ZERO if encoding is DataEncoding.ZERO else NoBytes.KEPT
            self._expect_seal()

    def _land_data(self) -> None:
        self._landing = self.placement.data(self._batch)
        self._pieces: Iterator[memoryview] = iter(self._landing)
        self._piece_digests: list[NDArray[np.uint64]] = []
        self._next_piece()
        self._awaits_data = True

    def _next_piece(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            self._have_data(np.concatenate(self._piece_digests))
        else:
            self._expect(piece, self._piece)

    def _piece(self) -> None:
        self._piece_digests.append(page_digests((self._target,), self._batch.page_size_bytes))
        self._next_piece()

    def _have_data(self, digests: NDArray[np.uint64]) -> None:
        self._digests = digests
        self._received_data = self._landing
        self._expect_seal()

    def _frame_memory(self, size_bytes: int) -> memoryview:
        """Return memory for a frame, the same for each: new memory would cost page faults."""
        if len(self._frames) < size_bytes:
            self._frames = bytearray(size_bytes)
        return memoryview(self._frames)[:size_bytes]

    def _frame(self) -> None:
        self._digests = frame_digest(self._target)
        self._received_data = (self._target,)
        self._expect_seal()

    def _expect_seal(self) -> None:
        self._expect(bytearray(SEAL_BYTES), self._seal)

    def _seal(self) -> Record:
        expected = seal(self._sequence, self._header.checksum, self._digests)
        if self._target != expected:
            raise MalformedError(
                f"seal {_number(self._target):#018x} of record {self._sequence:#x} (PAGES) should "
                f"be {_number(expected):#018x}: its data were damaged",
                offset=RECORD_HEADER.size + self._batch.payload_bytes - SEAL_BYTES,
            )
        data = self._received_data
        if self._head.data_encoding is DataEncoding.ZSTD and not isinstance(data, NoBytes):
            with _Base(RECORD_HEADER.size + self._batch.data_at):
                landing = self.placement.data(self._batch)
                data = self._tags.decode_data(self._batch, data[0], landing)
        return self._complete(Pages(self._batch.runs, data, self._received_tags))

    # --- every record ---

    def _require_checksum(self) -> None:
        given, expected = self._header.checksum, self._hash.value()
        if given != expected:
            raise MalformedError(
                f"checksum {given:#018x} of record {self._sequence:#x} "
                f"({self._header.type.name}) should be {expected:#018x}: the record was "
                "damaged, lost, repeated or moved",
                offset=RECORD_HEADER.offsets["checksum"],
            )

    def _complete(self, record: Record) -> Record:
        with _Base(RECORD_HEADER.size):
            self._conversation.check(self._sender, record)
        self._conversation.advance(self._sender, record)
        self._sequence += 1
        self._next_record()
        return record


def _number(seal_bytes: Buffer) -> int:
    return int.from_bytes(seal_bytes, "little")


class _Base:
    """Shifts the offset of a MalformedError to count from the record's start."""

    def __init__(self, base: int) -> None:
        self._base = base

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, MalformedError):
            error.offset += self._base
