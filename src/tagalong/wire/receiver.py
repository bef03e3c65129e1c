"""One incoming stream: from bytes to records, with every byte's place known.

The receiver always says into which memory the next bytes go and how many it needs there.
Data of PAGES thereby go straight into guest RAM, nothing is read ahead, and memory for a
payload grows with the bytes that arrive, not with the length that a header claims.
"""

from collections.abc import Callable

from tagalong.wire.codec import (
    RECORD_HEADER,
    STREAM_HEADER,
    check_stream_header,
    decode_payload,
    decode_record_header,
)
from tagalong.wire.conversation import Conversation
from tagalong.wire.integrity import RecordHash, head_check
from tagalong.wire.layout import MalformedError
from tagalong.wire.planes import (
    CHECKED_HEAD_BYTES,
    PAGES_HEAD,
    DataEncoding,
    TagCodec,
    decode_batch,
    decode_head,
)
from tagalong.wire.records import NoBytes, Pages, Record, RecordType, Role

Placement = Callable[[int, int], memoryview]
"""Returns the memory that the data of `[gpa, gpa + size)` are to be received into.

Asked only for batches of one run.
"""

_CHUNK_BYTES = 64 << 10


class Receiver:
    """Parses the stream that `sender` sends. Errors are MalformedErrors.

    Their offsets count from `record_start`, the place of the record being received.
    """

    def __init__(self, conversation: Conversation, sender: Role, place: Placement) -> None:
        self._conversation = conversation
        self._sender = sender
        self._place = place
        self._tags = TagCodec()
        self._sequence = 0
        self.offset = 0
        self.record_start = 0
        self._on_filled: Callable[[], Record | None] = self._stream_header
        self._expect(bytearray(STREAM_HEADER.size), self._stream_header)

    def buffer(self) -> memoryview:
        """Return where the next bytes go; not empty after `record` returned None."""
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

    def _expect(self, target: bytearray | memoryview, then: Callable[[], Record | None]) -> None:
        self._target = memoryview(target)
        self._filled = 0
        self._on_filled = then

    def _stream_header(self) -> None:
        check_stream_header(self._target)
        self._next_record()

    def _next_record(self) -> None:
        self.record_start = self.offset
        self._expect(bytearray(RECORD_HEADER.size), self._record_header)

    def _record_header(self) -> None:
        self._header = header = decode_record_header(self._target)
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
            record = decode_payload(self._header.type, self._payload)
        return self._complete(record)

    # --- PAGES ---

    def _pages_head(self) -> None:
        with _Base(RECORD_HEADER.size):
            self._head = decode_head(self._target)
        self._head_bytes = self._target
        self._expect(bytearray(self._head.run_bytes), self._pages_runs)

    def _pages_runs(self) -> None:
        runs = self._target
        with _Base(RECORD_HEADER.size):
            self._require_head_check(runs)
            self._batch = decode_batch(
                self._head, runs, self._conversation.machine, self._conversation.features
            )
        self._require_batch_size()
        self._hash.update(self._head_bytes, runs)
        if self._head.data_encoding is DataEncoding.ZERO:
            self._expect_tags()
        elif len(self._batch.runs) == 1:
            self._expect(
                self._place(self._batch.runs[0].first_gpa, self._batch.data_bytes), self._data
            )
        else:
            # One piece for many runs: a record of scattered pages would else be received
            # page by page.
            self._expect(bytearray(self._batch.data_bytes), self._data)

    def _require_head_check(self, runs: memoryview) -> None:
        head = self._head_bytes[:CHECKED_HEAD_BYTES]
        expected = head_check(self._sequence, self._header.checked, head, runs)
        if self._head.head_check != expected:
            raise MalformedError(
                f"head check {self._head.head_check:#018x} of record {self._sequence:#x} (PAGES) "
                f"should be {expected:#018x}: the record was damaged, lost, repeated or moved",
                offset=PAGES_HEAD.offsets["head_check"],
            )

    def _require_batch_size(self) -> None:
        given, expected = self._header.payload_bytes, self._batch.payload_bytes
        if given != expected:
            raise MalformedError(
                f"the batch takes a payload of {expected:#x} bytes, not {given:#x}",
                offset=RECORD_HEADER.offsets["payload_bytes"],
            )

    def _data(self) -> None:
        self._hash.update(self._target)
        self._received_data = self._target
        self._expect_tags()

    def _expect_tags(self) -> None:
        self._expect(bytearray(self._head.tag_bytes), self._batch_tags)

    def _batch_tags(self) -> Record:
        self._hash.update(self._target)
        self._require_checksum()
        with _Base(RECORD_HEADER.size + self._batch.tags_at):
            tags = self._tags.decode(self._batch, self._target)
        is_zero = self._head.data_encoding is DataEncoding.ZERO
        data = NoBytes.ZERO if is_zero else (self._received_data,)
        return self._complete(Pages(self._batch.runs, data, tags))

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


class _Base:
    """Shifts the offset of a MalformedError to count from the record's start."""

    def __init__(self, base: int) -> None:
        self._base = base

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, MalformedError):
            error.offset += self._base
