"""One end of a migration, without any I/O: records in, bytes out, and the other way round.

    source = Connection(Role.SOURCE)
    for buffer in source.send(Hello(Role.SOURCE, migration_id)):
        ...                                 # write it
    source.receive_data(...)                # what was read
    record = source.next_record()           # or NEED_DATA

To receive without a copy, ask `receive_buffer` where the next bytes belong, read into it, and
report that with `received`. The whole protocol is in docs/formats/stream.md.
"""

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.binary.layout import Buffer, MalformedError
from tagalong.errors import LocalProtocolError, RemoteProtocolError
from tagalong.mte import PACKED_RATIO
from tagalong.wire.codec import checked_header, encode_payload, encode_stream_header
from tagalong.wire.conversation import Conversation, Joining
from tagalong.wire.integrity import NO_DIGESTS, RecordHash, frame_digest, page_digests, seal
from tagalong.wire.placement import OwnMemory, Placement
from tagalong.wire.plane_codec import PlaneCodec
from tagalong.wire.planes import (
    PAGES_HEAD,
    SEAL_BYTES,
    DataEncoding,
    EncodedData,
    encode_head,
)
from tagalong.wire.reader import RecordReader
from tagalong.wire.records import NoBytes, Pages, Record, RecordType, Role, Runs
from tagalong.wire.states import Phase


class NeedData(Enum):
    """The type of NEED_DATA."""

    NEED_DATA = "NEED_DATA"


NEED_DATA: Final = NeedData.NEED_DATA
"""What `next_record` returns while the next record is not complete."""


class Connection:
    """One end of one conversation, in the role of source or destination.

    `joining`: the migration that this connection is one more of. `tags_only`: whether the stream
    is to carry tags without data, None for whatever the peer says. `placement` names the memory
    that batches are received into, by default new memory for each; it is asked only about
    pages inside the machine's regions, and may be replaced between two batches.
    `data_bytes_sent` counts what pages' data took so far. Belongs to one thread.
    """

    def __init__(
        self,
        role: Role,
        joining: Joining | None = None,
        placement: Placement | None = None,
        *,
        tags_only: bool | None = False,
    ) -> None:
        self.role = role
        self._conversation = Conversation(joining, tags_only=tags_only)
        self._reader = RecordReader(self._conversation, role.peer, placement or OwnMemory())
        self._planes = PlaneCodec()
        self._input: deque[memoryview] = deque()
        self._error: RemoteProtocolError | None = None
        self._ended_here = False
        self._open_batch: tuple[int, int] | None = None  # pages, checksum
        self.data_bytes_sent = 0
        self._records_sent = 0
        self._bytes_sent = 0

    @property
    def phase(self) -> Phase:
        """Return the state of the conversation."""
        return self._conversation.phase

    @property
    def version(self) -> int:
        """Return the version of the stream that both ends speak here."""
        return self._conversation.version

    @property
    def features(self) -> int:
        """Return the feature bits in use; none before both HELLOs."""
        return self._conversation.features

    @property
    def bytes_sent(self) -> int:
        """Return how many bytes `send` has returned so far."""
        return self._bytes_sent

    @property
    def bytes_received(self) -> int:
        """Return how many received bytes were parsed so far."""
        return self._reader.offset

    def send(self, record: Record) -> list[Buffer]:
        """Return the bytes to send for `record`: all of them, in this order, nothing in between.

        The planes of Pages are not copied; they must not change until they were sent.
        Raises LocalProtocolError if the record is not allowed now or is not sound; nothing
        has changed then.
        """
        with _Local(self):
            self._require_may_send(record.type)
            self._conversation.check(self.role, record)
            buffers = self._encode(record)
        self._conversation.advance(self.role, record)
        self._sent(buffers)
        return buffers

    def begin_pages(self, runs: Runs, tags: memoryview | NoBytes) -> list[Buffer]:
        """Return the bytes to send before the uncompressed data of a batch.

        The data of all runs follow, then what `end_pages` returns: so data need not be hashed
        before the first of them leave. `tags` are not copied. Raises as `send`.
        """
        with _Local(self):
            self._require_may_send(RecordType.PAGES)
            size_bytes = runs.page_count * self._conversation.machine.page_size_bytes
            head, checksum = self._encode_batch_head(
                runs, tags, EncodedData(DataEncoding.RAW, size_bytes)
            )
        self._open_batch = (runs.page_count, checksum)
        self._bytes_sent += sum(len(buffer) for buffer in head) + size_bytes
        return head

    def end_pages(self, digests: NDArray[np.uint64]) -> Buffer:
        """Return the bytes to send behind the data; `digests`: XXH3-64 of each page."""
        assert self._open_batch is not None  # noqa: S101 (begin_pages came before)
        page_count, checksum = self._open_batch
        self._open_batch = None
        tail = seal(self._records_sent, checksum, digests)
        self._conversation.advance_batch(self.role, page_count)
        self._sent([tail])
        return tail

    def _require_may_send(self, kind: RecordType) -> None:
        if self._open_batch is not None:
            raise MalformedError("the data of a batch are still to be sent")
        if self._error is not None and kind is not RecordType.ABORT:
            raise MalformedError(f"only ABORT may follow an error of the peer ({self._error})")
        self._conversation.require_allowed(self.role, kind)

    def _sent(self, buffers: list[Buffer]) -> None:
        self._ended_here = self.phase.is_final
        self._records_sent += 1
        self._bytes_sent += sum(len(buffer) for buffer in buffers)

    def _encode(self, record: Record) -> list[Buffer]:
        if isinstance(record, Pages):
            return self._encode_pages(record)
        payload = encode_payload(record)
        sealed = self._seal(checked_header(record.type, len(payload)), payload)
        prefix = b"" if self._records_sent else encode_stream_header(self.version)
        return [prefix + sealed + payload]

    def _encode_pages(self, pages: Pages) -> list[Buffer]:
        _require_data_bytes(pages, self._conversation.machine.page_size_bytes)
        data = self._planes.encode_data(pages, self.features)
        head, checksum = self._encode_batch_head(pages.runs, pages.tags, data)
        if data.encoding is DataEncoding.RAW:
            digests = page_digests(data.pieces, self._conversation.machine.page_size_bytes)
        else:
            digests = frame_digest(data.pieces[0]) if data.pieces else NO_DIGESTS
        return [*head, *data.pieces, seal(self._records_sent, checksum, digests)]

    def _encode_batch_head(
        self, runs: Runs, tags: memoryview | NoBytes, data: EncodedData
    ) -> tuple[list[Buffer], int]:
        """Return the bytes before the data, and the record's checksum."""
        machine, features = self._conversation.machine, self.features
        _require_tag_bytes(runs, tags, machine.page_size_bytes)
        encoded = self._planes.encode_tags(tags, machine.page_size_bytes, features)
        head, table = encode_head(runs, encoded, data, machine, features)
        self.data_bytes_sent += data.size_bytes
        size_bytes = (
            PAGES_HEAD.size + len(table) + len(encoded.payload) + data.size_bytes + SEAL_BYTES
        )
        checked = checked_header(RecordType.PAGES, size_bytes)
        prefix = b"" if self._records_sent else encode_stream_header(self.version)
        sealed = self._seal(checked, head, table, encoded.payload)
        checksum = int.from_bytes(sealed[-8:], "little")
        return [b"".join((prefix, sealed, head, table)), encoded.payload], checksum

    def _seal(self, checked: bytes, *payload: Buffer) -> bytes:
        record_hash = RecordHash(self._records_sent, checked)
        record_hash.update(*payload)
        return checked + record_hash.value().to_bytes(8, "little")

    def receive_data(self, data: Buffer) -> None:
        """Take bytes that arrived, in any portions; `next_record` parses them."""
        self._input.append(memoryview(bytes(data)))

    def receive_buffer(self) -> memoryview:
        """Return the memory that the next bytes belong into; it is never empty.

        Valid after `next_record` has returned NEED_DATA and until it is called again.
        Raises LocalProtocolError if nothing more is to be received.
        """
        buffer = self._reader.buffer()
        if self._error is not None or self.phase.is_final or self._input or not buffer:
            raise LocalProtocolError(
                f"no bytes can be taken in {self.phase.name}", offset=self._bytes_sent
            )
        return buffer

    @property
    def placement(self) -> Placement:
        """Return the object that names the memory for batches."""
        return self._reader.placement

    @placement.setter
    def placement(self, placement: Placement) -> None:
        self._reader.placement = placement

    @property
    def awaited_data(self) -> Sequence[memoryview] | None:
        """Return the memory that the next bytes, all data of a batch, belong into; else None.

        Valid after NEED_DATA. The caller may fill it by any means and report that with
        `data_received`, or continue with `receive_buffer` as for all other bytes.
        """
        return None if self._input else self._reader.awaited_data

    def data_received(self, digests: NDArray[np.uint64]) -> None:
        """Note that all of `awaited_data` was filled; `digests`: XXH3-64 of each page."""
        self._reader.data_received(digests)

    def received(self, count: int) -> None:
        """Note that the first `count` bytes of `receive_buffer` have been filled."""
        self._reader.filled(count)

    def pass_batch(self, page_count: int) -> None:
        """Note that the peer's next record is a batch of so many pages that is not received.

        For an end that leads the conversation about a stream whose pages go elsewhere, between
        two records. Raises RemoteProtocolError if the peer must not send pages now.
        """
        try:
            self._reader.pass_batch(page_count)
        except MalformedError as error:
            raise self._broken(str(error), self._reader.record_start) from error

    def next_record(self) -> Record | NeedData:
        """Return the next record that has arrived, or NEED_DATA.

        Raises RemoteProtocolError, now and for ever, if the peer broke the protocol: only
        ABORT can be sent then.
        """
        if self._error is not None:
            raise self._error
        try:
            return self._parse()
        except MalformedError as error:
            raise self._broken(str(error), self._reader.record_start + error.offset) from error

    def receive_eof(self, meaning: str = "") -> None:
        """Note that the peer has closed its stream.

        `meaning`: what the caller knows of why it ended early. Raises RemoteProtocolError unless
        the conversation was over.
        """
        if self._error is not None:
            raise self._error
        if self.phase.is_final:
            return
        inside = self._reader.offset - self._reader.record_start
        where = f"{inside:#x} bytes into a record" if inside else "between two records"
        what = f"the stream ends in {self.phase.name}, {where}"
        if self._reader.foreign:
            raise self._broken(self._reader.foreign, self._reader.offset)
        raise self._broken(what, self._reader.offset, meaning)

    def _parse(self) -> Record | NeedData:
        while not self.phase.is_final:
            record = self._reader.record()
            if record is not None:
                return record
            if not self._input:
                return NEED_DATA
            self._feed()
        if self._ended_here:
            # The peer may have spoken before it heard that all is over.
            self._input.clear()
        if any(self._input):
            raise MalformedError(f"bytes follow the last record ({self.phase.name})")
        return NEED_DATA

    def _feed(self) -> None:
        data = self._input.popleft()
        target = self._reader.buffer()
        count = min(len(data), len(target))
        target[:count] = data[:count]
        self._reader.filled(count)
        if count < len(data):
            self._input.appendleft(data[count:])

    def _broken(self, message: str, offset: int, meaning: str = "") -> RemoteProtocolError:
        self._error = RemoteProtocolError(message, offset=offset, meaning=meaning)
        return self._error


def _require_data_bytes(pages: Pages, page_bytes: int) -> None:
    """Raise unless the data have the size that the runs say."""
    if isinstance(pages.data, NoBytes):
        return
    given, expected = sum(piece.nbytes for piece in pages.data), pages.page_count * page_bytes
    if given != expected:
        raise MalformedError(f"{given:#x} bytes of data for a batch that has {expected:#x}")


def _require_tag_bytes(runs: Runs, tags: memoryview | NoBytes, page_bytes: int) -> None:
    """Raise unless the tags have the size that the runs say."""
    expected = runs.page_count * page_bytes // PACKED_RATIO
    if isinstance(tags, memoryview) and tags.nbytes != expected:
        raise MalformedError(f"{tags.nbytes:#x} bytes of tags for a batch that has {expected:#x}")


class _Local:
    """Turns a MalformedError into a LocalProtocolError with the offset of the next byte sent."""

    def __init__(self, connection: Connection) -> None:
        self._offset = connection.bytes_sent

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, MalformedError):
            raise LocalProtocolError(str(error), offset=self._offset) from error
