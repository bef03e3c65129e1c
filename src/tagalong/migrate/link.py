"""The protocol over a channel: records out and in, with every wait limited.

Both ends use it. What the peer says with ABORT becomes the error that the caller sees;
KEEPALIVE is answered with patience, but not without end.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import (
    ConvergenceError,
    DigestMismatchError,
    HostError,
    LocalProtocolError,
    MachineMismatchError,
    MigrationCancelledError,
    MigrationError,
    RemoteProtocolError,
    StateError,
)
from tagalong.migrate.cancellation import check_cancelled
from tagalong.migrate.pages.pump import (
    PeerClosedError,
    Segments,
    receive_bytes,
    receive_pages,
    send_pages,
)
from tagalong.migrate.transport.channel import Channel, Interrupt
from tagalong.progress import CancelToken
from tagalong.wire import (
    NEED_DATA,
    Abort,
    AbortReason,
    Buffer,
    Connection,
    KeepAlive,
    NeedData,
    NoBytes,
    Phase,
    Placement,
    Record,
    Runs,
)

_KEEPALIVE_S = 1.0
_STEPS_AT_ONCE = 100
_BULK_BYTES = 128 << 10

RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a peer, in seconds.

    connect: until a connection stands. idle: without one byte, in or out. record: until a
    record that is awaited, or being sent, is complete. answer: while nothing but KEEPALIVE
    comes. farewell: for the peer to hear an ABORT.
    """

    connect_s: float = 10.0
    idle_s: float = 10.0
    record_s: float = 60.0
    answer_s: float = 300.0
    farewell_s: float = 1.0


class Link:
    """One end's connection to its peer over `channel`, which stays the caller's to close.

    `is_lost` tells whether the connection broke or the peer has left, in the middle of things.
    """

    def __init__(self, channel: Channel, connection: Connection, timeouts: Timeouts) -> None:
        self.is_lost = False
        self._channel = channel
        self._connection = connection
        self._timeouts = timeouts
        self._seal: list[Buffer] = []
        self._last_sent = time.monotonic()

    @property
    def streams_pages(self) -> bool:
        """Return whether `send_pages` is possible."""
        return self._channel.plain_descriptor is not None

    def place_with(self, placement: Placement) -> None:
        """Receive batches into the memory that `placement` names from now on."""
        self._connection.placement = placement

    def allow_silence(self) -> None:
        """Wait for bytes as long as for an answer: another connection tells of life."""
        self._channel.idle_s = self._timeouts.answer_s

    def close(self) -> None:
        """Close the channel. Safe to call twice."""
        self._channel.close()

    @property
    def was_aborted_by_peer(self) -> bool:
        """Return whether the peer has ended the conversation with ABORT."""
        return self._connection.phase is Phase.ABORTED

    @property
    def phase(self) -> Phase:
        """Return where the conversation stands."""
        return self._connection.phase

    @property
    def version(self) -> int:
        """Return the version of the stream that both ends speak."""
        return self._connection.version

    @property
    def features(self) -> int:
        """Return the feature bits in use."""
        return self._connection.features

    @property
    def bytes_sent(self) -> int:
        """Return how many bytes were sent so far."""
        return self._connection.bytes_sent

    @property
    def data_bytes_sent(self) -> int:
        """Return how many of those were data of pages."""
        return self._connection.data_bytes_sent

    def cancel_with(self, cancel: CancelToken | None) -> None:
        """Let `cancel` end waits from now on; None lets nobody."""
        self.interrupt_with(lambda: check_cancelled(cancel))

    def interrupt_with(self, interrupt: Interrupt) -> None:
        """Let `interrupt` end waits from now on, by raising."""
        self._channel.interrupt = interrupt

    def send(self, record: Record) -> None:
        """Send a record.

        Raises HostError if the channel fails, or what `error_of` makes of an ABORT that
        explains why; the peer has not got the whole record then. Raises LocalProtocolError
        for a record that is not allowed.
        """
        buffers = self._connection.send(record)
        with self._sending():
            self._send_behind_seal(buffers)

    def stream_pages(
        self,
        runs: Runs,
        tags: memoryview | NoBytes,
        data: Segments,
        stage: NDArray[np.uint8] | None,
    ) -> NDArray[np.uint64]:
        """Send a batch from where its data are; return the pages' digests.

        Only where `streams_pages`. `stage`: as in `pump.send_pages`. The batch is complete for
        the peer when the next record, or `flush`, is sent. Raises as `send`.
        """
        head = self._connection.begin_pages(runs, tags)
        with self._sending():
            self._send_behind_seal(head)
            deadline = time.monotonic() + self._timeouts.record_s
            digests = send_pages(self._channel, data, stage, deadline)
        self._end_pages(digests)
        return digests

    def send_pages(
        self,
        runs: Runs,
        tags: memoryview | NoBytes,
        data: memoryview,
        digests: NDArray[np.uint64],
    ) -> None:
        """Send a batch from a copy of its data. Else as `stream_pages`.

        `digests`: of the pages in `data`.
        """
        head = self._connection.begin_pages(runs, tags)
        with self._sending():
            self._send_behind_seal([*head, data])
        self._end_pages(digests)

    def _end_pages(self, digests: NDArray[np.uint64]) -> None:
        # Eight bytes of their own would cost a system call here and a wake-up there.
        self._seal = [self._connection.end_pages(digests)]
        self._channel.is_mid_record = False

    def flush(self) -> None:
        """Complete the last batch for the peer. Raises as `send`."""
        with self._sending():
            self._send_behind_seal([])

    def _send_behind_seal(self, buffers: list[Buffer]) -> None:
        deadline = time.monotonic() + self._timeouts.record_s
        self._channel.send([*self._seal, *buffers], deadline=deadline)
        self._seal = []
        self._last_sent = time.monotonic()

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        try:
            yield
        except HostError:
            self.is_lost = True
            self.raise_abort()
            raise

    def raise_abort(self) -> None:
        """Raise what the peer has said with ABORT, if it did: better than "broken pipe"."""
        with contextlib.suppress(HostError, RemoteProtocolError):
            self.poll_peer()

    def keep_alive(self) -> None:
        """Tell the peer that we are at work, if it has not heard from us for a while."""
        if time.monotonic() - self._last_sent > _KEEPALIVE_S:
            self.send(KeepAlive())

    def receive(self) -> Record:
        """Wait for the peer's next record other than KEEPALIVE.

        Raises RemoteProtocolError if the peer breaks the protocol or leaves, HostError if
        it stalls or the channel fails, and what `error_of` makes of its ABORT.
        """
        patience = time.monotonic() + self._timeouts.answer_s
        while True:
            deadline = min(patience, time.monotonic() + self._timeouts.record_s)
            record = self._receive_one(deadline)
            if not isinstance(record, KeepAlive):
                return record

    def expect(self, kind: type[RecordT]) -> RecordT:
        """`receive` where the transition table allows nothing but `kind` (and ABORT)."""
        record = self.receive()
        assert isinstance(record, kind), f"{record} where only {kind} is possible"  # noqa: S101
        return record

    def _receive_one(self, deadline: float) -> Record:
        while True:
            record = self._parse()
            if record is not NEED_DATA:
                return record
            self._receive_bytes(deadline)

    def _parse(self) -> Record | NeedData:
        record = self._connection.next_record()
        if isinstance(record, Abort):
            raise error_of(record)
        return record

    def _receive_bytes(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise HostError(f"{self._channel.name}: the peer is too slow: its time is up")
        try:
            if not self._receive_batch(deadline):
                buffer = self._connection.receive_buffer()
                count = self._receive_into(buffer, deadline)
                self._connection.received(count)
                if not count:
                    raise PeerClosedError(f"{self._channel.name}: the peer closed the connection")
        except PeerClosedError:
            self.is_lost = True
            self._connection.receive_eof()
            raise
        except HostError:
            self.is_lost = True
            raise

    def _receive_into(self, buffer: memoryview, deadline: float) -> int:
        if len(buffer) < _BULK_BYTES or not self.streams_pages:
            return self._channel.receive_into(buffer, deadline=deadline)
        # Tags of a large batch come in many portions, which native code takes in one call.
        receive_bytes(self._channel, buffer, deadline)
        return len(buffer)

    def _receive_batch(self, deadline: float) -> bool:
        """Receive all data of a batch by native code, if they come next and that is possible."""
        landing = self._connection.awaited_data
        if not self.streams_pages or not isinstance(landing, Segments):
            return False
        self._connection.data_received(receive_pages(self._channel, landing, deadline))
        return True

    def poll_peer(self) -> None:
        """Take in what the peer has said unasked: KEEPALIVE, or an ABORT, which is raised.

        Never waits, and leaves the rest for the next time if the peer says too much.
        """
        for _ in range(_STEPS_AT_ONCE):
            if not self._channel.is_readable():
                return
            self._receive_bytes(time.monotonic() + self._timeouts.record_s)
            self._parse()

    def abort(self, error: BaseException) -> None:
        """Tell the peer why it ends here, if it can still be told. Raises nothing."""
        abort = Abort(reason_of(error), str(error))
        deadline = time.monotonic() + self._timeouts.farewell_s
        self.cancel_with(None)
        if not self._channel.is_mid_record:
            try:
                self._channel.send([*self._seal, *self._connection.send(abort)], deadline=deadline)
            except (HostError, LocalProtocolError):
                return
        self._channel.finish(deadline)


_REASONS: tuple[tuple[type[BaseException], AbortReason], ...] = (
    (MachineMismatchError, AbortReason.MACHINE_MISMATCH),
    (StateError, AbortReason.STATE_REFUSED),
    (DigestMismatchError, AbortReason.DIGEST_MISMATCH),
    (MigrationCancelledError, AbortReason.CANCELLED),
    (ConvergenceError, AbortReason.NOT_CONVERGED),
    (RemoteProtocolError, AbortReason.PROTOCOL),
    (HostError, AbortReason.HOST),
    (OSError, AbortReason.HOST),
    (MemoryError, AbortReason.HOST),
)

_ERRORS: dict[AbortReason, type[MigrationError]] = {
    AbortReason.MACHINE_MISMATCH: MachineMismatchError,
    AbortReason.STATE_REFUSED: MachineMismatchError,
    AbortReason.DIGEST_MISMATCH: DigestMismatchError,
    AbortReason.CANCELLED: MigrationCancelledError,
    AbortReason.NOT_CONVERGED: ConvergenceError,
}


def reason_of(error: BaseException) -> AbortReason:
    """Return the reason that tells the peer about `error`."""
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    return AbortReason.INTERNAL


def error_of(abort: Abort) -> MigrationError:
    """Return the error that a peer's ABORT means here."""
    kind = _ERRORS.get(abort.reason, MigrationError)
    return kind(f"the other end gave up ({abort.reason.name}): {abort.text}")
