"""The protocol over a channel: records out and in, with every wait limited. Both ends use it.

An ABORT of the peer becomes the error that the caller gets.

Deadlines and cancellation belong to progress, not to waiting. A peer that always has one more
KEEPALIVE, or takes one more byte, never lets a wait run out: so both are looked at with every
record, sent or received, and with every portion of one. Three limits apply at the same time, and
the nearest one counts:

- idle: the peer moves no byte;
- record and answer: one record, or one answer, is not complete;
- `Link.deadline`: the stage of the migration that this is part of is not over.
"""

import contextlib
import time
from collections.abc import Iterator
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
from tagalong.migrate.timeouts import Timeouts
from tagalong.migrate.transport.channel import Channel, Interrupt
from tagalong.migrate.transport.replay import LocalChannel
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
    Role,
    Runs,
)

_KEEPALIVE_S = 1.0
_STEPS_AT_ONCE = 100
_BULK_BYTES = 128 << 10

RecordT = TypeVar("RecordT", bound=Record)


class Link:
    """One end's connection to its peer over `channel`, which stays the caller's to close.

    `deadline` (of time.monotonic()) ends every wait, whatever the other timeouts allow. `is_lost`:
    the connection broke, or the peer left, in the middle of the conversation. `is_violated`: the
    peer sent what the protocol does not allow.
    """

    def __init__(self, channel: Channel, connection: Connection, timeouts: Timeouts) -> None:
        self.deadline = float("inf")
        self.is_lost = False
        self.is_violated = False
        self._channel = channel
        self._connection = connection
        self._timeouts = timeouts
        self._waiting: list[Buffer] = []
        self._last_sent = time.monotonic()

    @property
    def streams_pages(self) -> bool:
        """Return whether `stream_pages` is possible."""
        return self._channel.sends_pages

    @property
    def shares_host(self) -> bool:
        """Return whether the peer is on this host, over TCP."""
        return self._channel.shares_host

    def place_with(self, placement: Placement) -> None:
        """Receive batches into the memory that `placement` names from now on."""
        self._connection.placement = placement

    def allow_silence(self) -> None:
        """Wait for bytes as long as for an answer: another connection shows that the peer lives."""
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
        """Return the phase of the conversation."""
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
        """End waits and records with MigrationCancelledError once `cancel` is set; None: never."""
        self.interrupt_with(lambda: check_cancelled(cancel))

    def interrupt_with(self, interrupt: Interrupt) -> None:
        """Call `interrupt` with every record and during waits from now on; it may raise."""
        self._channel.interrupt = interrupt

    def send(self, record: Record, *, has_more: bool = False) -> None:
        """Send a record; with `has_more` it leaves with the next one, in the same system call.

        Raises HostError if the channel fails, or what `error_of` makes of an ABORT that explains
        why; the peer does not have the whole record then. Raises LocalProtocolError for a record
        that is not allowed, and what the interrupt raises, with nothing sent.
        """
        self._channel.interrupt()  # before the record counts as sent
        buffers = self._connection.send(record)
        if has_more:
            self._waiting += buffers
            return
        with self._sending():
            self._send_with_waiting(buffers)

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
        self._channel.interrupt()
        head = self._connection.begin_pages(runs, tags)
        with self._sending():
            self._send_with_waiting(head)
            digests = send_pages(self._channel, data, stage, self._within(self._timeouts.record_s))
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
        self._channel.interrupt()
        head = self._connection.begin_pages(runs, tags)
        with self._sending():
            self._send_with_waiting([*head, data])
        self._end_pages(digests)

    def _end_pages(self, digests: NDArray[np.uint64]) -> None:
        # The seal leaves with the next record: eight bytes of their own would cost a system call
        # here and a wake-up there.
        self._waiting = [self._connection.end_pages(digests)]
        self._channel.is_mid_record = False

    def flush(self) -> None:
        """Complete the last batch for the peer. Raises as `send`."""
        with self._sending():
            self._send_with_waiting([])

    def _send_with_waiting(self, buffers: list[Buffer]) -> None:
        deadline = self._within(self._timeouts.record_s)
        self._channel.send([*self._waiting, *buffers], deadline=deadline)
        self._waiting = []
        self._last_sent = time.monotonic()

    def _within(self, seconds: float) -> float:
        """Return the moment that ends a wait of at most so many seconds."""
        return min(self.deadline, time.monotonic() + seconds)

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        try:
            yield
        except HostError:
            self.is_lost = True
            self.raise_abort()
            raise

    def raise_abort(self) -> None:
        """Raise the error of an ABORT that has arrived: it says more than "broken pipe"."""
        # LocalProtocolError: an error of the peer was found before, so nothing more is received.
        with contextlib.suppress(HostError, RemoteProtocolError, LocalProtocolError):
            self.poll_peer()

    def keep_alive(self) -> None:
        """Send KEEPALIVE if nothing was sent for a second."""
        if time.monotonic() - self._last_sent > _KEEPALIVE_S:
            self.send(KeepAlive())

    def receive(self, deadline: float = float("inf")) -> Record:
        """Wait for the peer's next record other than KEEPALIVE, at most until `deadline`.

        Raises RemoteProtocolError if the peer breaks the protocol or leaves, HostError if it is
        too slow or the channel fails, what `error_of` makes of its ABORT, and what the interrupt
        raises.
        """
        deadline = min(deadline, self.answer_deadline())
        while True:
            record = self._receive_one(min(deadline, self._within(self._timeouts.record_s)))
            if not isinstance(record, KeepAlive):
                return record

    def answer_deadline(self) -> float:
        """Return the moment until which an answer to what was sent now may take."""
        return self._within(self._timeouts.answer_s)

    def expect(self, kind: type[RecordT], deadline: float = float("inf")) -> RecordT:
        """`receive` where the transition table allows nothing but `kind` (and ABORT)."""
        record = self.receive(deadline)
        assert isinstance(record, kind), f"{record} where only {kind} is possible"  # noqa: S101
        return record

    def _receive_one(self, deadline: float) -> Record:
        while True:
            self._channel.interrupt()
            record = self._parse()
            if record is not NEED_DATA:
                return record
            self._receive_bytes(deadline)

    def _parse(self) -> Record | NeedData:
        try:
            record = self._connection.next_record()
        except RemoteProtocolError:
            self.is_violated = not self.is_lost
            raise
        if isinstance(record, Abort):
            raise error_of(record, is_one_way=self._channel.is_one_way)
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
            if self._channel.end_cause is not None:
                raise self._channel.end_cause from None
            self._connection.receive_eof(self._why_it_ended())
            raise
        except HostError:
            self.is_lost = True
            raise

    def _why_it_ended(self) -> str:
        """Return what a stream that ends early means; only from COMMIT on may a VM be started."""
        role = self._connection.role
        why = f"the {role.peer.name.lower()} is gone: it closed the connection"
        if isinstance(self._channel, LocalChannel):
            why = f"{self._channel.name}: the stream is cut off"
        was_committed = self.phase in (Phase.COMMITTED, Phase.COMMITTED_AHEAD)
        is_safe = role is Role.DESTINATION and not was_committed
        return why + "; nothing was started here" * is_safe

    def _receive_into(self, buffer: memoryview, deadline: float) -> int:
        if len(buffer) < _BULK_BYTES or self._channel.incoming_path is None:
            return self._channel.receive_into(buffer, deadline=deadline)
        # Tags of a large batch come in many portions, which native code takes in one call.
        receive_bytes(self._channel, buffer, deadline)
        return len(buffer)

    def _receive_batch(self, deadline: float) -> bool:
        """Receive all data of a batch by native code, if they come next and that is possible."""
        landing = self._connection.awaited_data
        if not self._channel.receives_pages or not isinstance(landing, Segments):
            return False
        self._connection.data_received(receive_pages(self._channel, landing, deadline))
        return True

    def poll_peer(self) -> None:
        """Receive what the peer has sent unasked: KEEPALIVE, or an ABORT, which is raised.

        Does not wait for a record, and leaves the rest for the next time if there is too much.
        """
        for _ in range(_STEPS_AT_ONCE):
            if not self._channel.is_readable():
                return
            self._receive_bytes(self._within(self._timeouts.record_s))
            self._parse()

    def abort(self, error: BaseException) -> None:
        """Send ABORT with the reason, if the connection still allows it. Raises nothing."""
        abort = Abort(reason_of(error), str(error))
        deadline = time.monotonic() + self._timeouts.farewell_s
        self.cancel_with(None)
        if not self._channel.is_mid_record:
            try:
                self._channel.send(
                    [*self._waiting, *self._connection.send(abort)], deadline=deadline
                )
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
    """Return the reason by which the peer learns of `error`."""
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    return AbortReason.INTERNAL


def error_of(abort: Abort, *, is_one_way: bool = False) -> MigrationError:
    """Return the error that an ABORT of the peer means here.

    Where a stream goes one way, to a file or a command, there is no peer to speak of: the text
    is what this process itself could not do.
    """
    kind = _ERRORS.get(abort.reason, MigrationError)
    if is_one_way:
        return kind(abort.text)
    return kind(f"the peer ended the migration ({abort.reason.name}): {abort.text}")
