"""One end of a migration, without any I/O: records in, bytes out, and the other way round.

    source = Connection(Role.SOURCE)
    for buffer in source.send(Hello(Role.SOURCE, migration_id)):
        ...                                 # write it
    source.receive_data(...)                # what was read
    record = source.next_record()           # or NEED_DATA

A reader that wants no copy asks `receive_buffer` where the next bytes belong, reads into
it and reports with `received`. The whole protocol is in docs/formats/stream.md.
"""

from collections import deque
from enum import Enum
from typing import Final

from tagalong.errors import LocalProtocolError, RemoteProtocolError
from tagalong.wire.codec import checked_header, encode_payload, encode_stream_header
from tagalong.wire.conversation import Conversation
from tagalong.wire.integrity import RecordHash, head_check
from tagalong.wire.layout import Buffer, MalformedError
from tagalong.wire.planes import PAGES_HEAD, TagCodec, encode_head
from tagalong.wire.receiver import Placement, Receiver
from tagalong.wire.records import Abort, NoBytes, Pages, Record, RecordType, Role
from tagalong.wire.states import Phase


class NeedData(Enum):
    """The type of NEED_DATA."""

    NEED_DATA = "NEED_DATA"


NEED_DATA: Final = NeedData.NEED_DATA
"""What `next_record` returns while the next record is not complete."""


def own_memory(_gpa: int, size_bytes: int) -> memoryview:
    """Place received data in memory of their own, wherever they belong in the guest."""
    return memoryview(bytearray(size_bytes))


class Connection:
    """One end of one conversation, in the role of source or destination.

    `place` says where received data go (by gpa and size; it returns a writable memoryview
    of that size); it is asked only for ranges inside of the machine's regions. Without it
    every batch has memory of its own. Belongs to one thread.
    """

    def __init__(self, role: Role, place: Placement = own_memory) -> None:
        self.role = role
        self._conversation = Conversation()
        self._receiver = Receiver(self._conversation, role.peer, place)
        self._tags = TagCodec()
        self._input: deque[memoryview] = deque()
        self._error: RemoteProtocolError | None = None
        self._ended_here = False
        self._records_sent = 0
        self._bytes_sent = 0

    @property
    def phase(self) -> Phase:
        """Return where the conversation stands."""
        return self._conversation.phase

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
        return self._receiver.offset

    def send(self, record: Record) -> list[Buffer]:
        """Return the bytes to send for `record`: all of them, in this order, nothing between.

        The planes of Pages are not copied; they must not change until they were sent.
        Raises LocalProtocolError if the record is not allowed now or is not sound; nothing
        has changed then.
        """
        try:
            self._require_no_error(record)
            self._conversation.require_allowed(self.role, record.type)
            self._conversation.check(self.role, record)
            buffers = self._encode(record)
        except MalformedError as error:
            raise LocalProtocolError(str(error), offset=self._bytes_sent) from error
        self._conversation.advance(self.role, record)
        self._ended_here = self.phase.is_final
        self._records_sent += 1
        self._bytes_sent += sum(len(buffer) for buffer in buffers)
        return buffers

    def _require_no_error(self, record: Record) -> None:
        if self._error is not None and not isinstance(record, Abort):
            raise MalformedError(f"only ABORT may follow an error of the peer ({self._error})")

    def _encode(self, record: Record) -> list[Buffer]:
        if isinstance(record, Pages):
            return self._encode_pages(record)
        payload = encode_payload(record)
        sealed = self._seal(checked_header(record.type, len(payload)), payload)
        prefix = b"" if self._records_sent else encode_stream_header()
        return [prefix + sealed + payload]

    def _encode_pages(self, pages: Pages) -> list[Buffer]:
        conversation = self._conversation
        tags = self._tags.encode(pages.tags, conversation.features)
        head, runs = encode_head(pages, tags, conversation.machine, conversation.features)
        planes: list[Buffer] = [] if isinstance(pages.data, NoBytes) else [*pages.data]
        if tags.payload:
            planes.append(tags.payload)
        size_bytes = PAGES_HEAD.size + len(runs) + sum(len(plane) for plane in planes)
        checked = checked_header(RecordType.PAGES, size_bytes)
        check = head_check(self._records_sent, checked, head, runs)
        head += check.to_bytes(8, "little") + runs
        return [self._seal(checked, head, *planes) + head, *planes]

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
        buffer = self._receiver.buffer()
        if self._error is not None or self.phase.is_final or self._input or not buffer:
            raise LocalProtocolError(
                f"no bytes can be taken in {self.phase.name}", offset=self._bytes_sent
            )
        return buffer

    def received(self, count: int) -> None:
        """Note that the first `count` bytes of `receive_buffer` have been filled."""
        self._receiver.filled(count)

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
            raise self._broken(str(error), self._receiver.record_start + error.offset) from error

    def receive_eof(self) -> None:
        """Note that the peer has closed its stream.

        Raises RemoteProtocolError unless the conversation was over.
        """
        if self._error is not None:
            raise self._error
        if self.phase.is_final:
            return
        inside = self._receiver.offset - self._receiver.record_start
        where = f"{inside:#x} bytes into a record" if inside else "between two records"
        raise self._broken(f"the stream ends in {self.phase.name}, {where}", self._receiver.offset)

    def _parse(self) -> Record | NeedData:
        while not self.phase.is_final:
            record = self._receiver.record()
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
        target = self._receiver.buffer()
        count = min(len(data), len(target))
        target[:count] = data[:count]
        self._receiver.filled(count)
        if count < len(data):
            self._input.appendleft(data[count:])

    def _broken(self, message: str, offset: int) -> RemoteProtocolError:
        self._error = RemoteProtocolError(message, offset=offset)
        return self._error
