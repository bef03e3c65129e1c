"""The protocol over a channel: records out and in, with every wait limited.

Both ends use it. What the peer says with ABORT becomes the error that the caller sees;
KEEPALIVE is answered with patience, but not without end.
"""

import contextlib
import time
from dataclasses import dataclass
from typing import TypeVar

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
from tagalong.migrate.channel import Channel
from tagalong.migrate.monitor import CancelToken, check_cancelled
from tagalong.wire import (
    NEED_DATA,
    Abort,
    AbortReason,
    Connection,
    KeepAlive,
    NeedData,
    Phase,
    Record,
)

_KEEPALIVE_S = 1.0
_STEPS_AT_ONCE = 100

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
    """One end's connection to its peer over `channel`, which stays the caller's to close."""

    def __init__(self, channel: Channel, connection: Connection, timeouts: Timeouts) -> None:
        self._channel = channel
        self._connection = connection
        self._timeouts = timeouts
        self._last_sent = time.monotonic()

    @property
    def was_aborted_by_peer(self) -> bool:
        """Return whether the peer has ended the conversation with ABORT."""
        return self._connection.phase is Phase.ABORTED

    @property
    def bytes_sent(self) -> int:
        """Return how many bytes were sent so far."""
        return self._connection.bytes_sent

    def disturb(self, cancel: CancelToken | None) -> None:
        """Let `cancel` end waits from now on; None lets nobody."""
        self._channel.interrupt = lambda: check_cancelled(cancel)

    def send(self, record: Record) -> int:
        """Send a record; return its size in bytes.

        Raises HostError if the channel fails, or what `error_of` makes of an ABORT that
        explains why; the peer has not got the whole record then. Raises LocalProtocolError
        for a record that is not allowed.
        """
        before = self._connection.bytes_sent
        buffers = self._connection.send(record)
        try:
            self._channel.send(buffers, deadline=time.monotonic() + self._timeouts.record_s)
        except HostError:
            self._hear_why()
            raise
        self._last_sent = time.monotonic()
        return self._connection.bytes_sent - before

    def _hear_why(self) -> None:
        # A peer that closed the channel may have said ABORT before: better than "broken pipe".
        with contextlib.suppress(HostError, RemoteProtocolError):
            self.heed_peer()

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
        buffer = self._connection.receive_buffer()
        count = self._channel.receive_into(buffer, deadline=deadline)
        if count:
            self._connection.received(count)
        else:
            self._connection.receive_eof()

    def heed_peer(self) -> None:
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
        self.disturb(None)
        if not self._channel.is_mid_record:
            try:
                self._channel.send(self._connection.send(abort), deadline=deadline)
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
