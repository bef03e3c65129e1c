"""Splits what one end sends: what its peer must hear, and pages that may pass the peer by."""

from collections.abc import Callable, Iterator

import numpy as np

from tagalong.binary.layout import Buffer
from tagalong.wire.codec import RECORD_HEADER, STREAM_HEADER, decode_record_header
from tagalong.wire.planes import PAGES_HEAD, RUN, decode_head
from tagalong.wire.records import RecordType, Runs


class Bypass:
    """Follows a stream that this process writes itself, from its first byte on.

    `feed` yields the bytes of the stream's header and of every record but PAGES, each when it is
    whole, and of PAGES the number of pages. Data of pages need not come through here: `skip` says
    how much of them went by. `has_prepare`: PREPARE came.

    Raises MalformedError for what is no stream.
    """

    def __init__(self) -> None:
        self.has_prepare = False
        self._collected = bytearray()
        self._wanted = STREAM_HEADER.size
        self._then: Callable[[], bytes | int | None] = self._next_record
        self._left = 0  # bytes of a batch that nobody has to see
        self._pages = 0
        self._payload_bytes = 0

    def feed(self, data: Buffer) -> Iterator[bytes | int]:
        """Take the next bytes of the stream; yield what they complete."""
        view = memoryview(data).cast("B")
        while view:
            if self._left:
                passed = min(self._left, len(view))
                view = view[passed:]
                self.skip(passed)
                if not self._left:
                    yield self._pages
                continue
            taken = view[: self._wanted - len(self._collected)]
            self._collected += taken
            view = view[len(taken) :]
            while len(self._collected) == self._wanted and not self._left:
                found = self._then()
                if found is not None:
                    yield found

    def skip(self, size_bytes: int) -> None:
        """Note that so many bytes of a batch passed by; never its last ones, which are a seal."""
        assert size_bytes <= self._left  # noqa: S101 (the head of the batch came before)
        self._left -= size_bytes

    def _next_record(self) -> bytes:
        """Return what was collected, and begin anew."""
        whole = bytes(self._collected)
        self._collected.clear()
        self._wanted, self._then = RECORD_HEADER.size, self._record_header
        return whole

    def _record_header(self) -> None:
        header = decode_record_header(self._collected)
        self._payload_bytes = header.payload_bytes
        self.has_prepare = self.has_prepare or header.type is RecordType.PREPARE
        if header.type is RecordType.PAGES:
            self._wanted, self._then = self._wanted + PAGES_HEAD.size, self._batch_head
        else:
            self._wanted, self._then = self._wanted + self._payload_bytes, self._next_record

    def _batch_head(self) -> None:
        head = decode_head(self._collected[RECORD_HEADER.size :])
        self._wanted, self._then = self._wanted + head.run_bytes, self._batch_runs

    def _batch_runs(self) -> None:
        at = RECORD_HEADER.size + PAGES_HEAD.size
        runs = Runs(np.frombuffer(bytes(self._collected[at:]), "<u8"))
        self._pages = runs.page_count
        self._left = self._payload_bytes - PAGES_HEAD.size - len(runs) * RUN.size
        self._next_record()
