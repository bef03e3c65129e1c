"""Keeps a stream: the peer of a source whose stream goes into a file, a command or a pipe.

The protocol is a conversation, and what goes one way does not answer. So a thread of this process
speaks the destination's part and writes down what the source says: exactly the source's stream
(docs/formats/stream.md, section 8b). Source, destination and format know nothing of it, and its
READY has an exact meaning: everything before was handed to the kernel and, in a file, is on
the disk. A file gets its name only after COMMIT, so whatever has that name is whole.

Digests cannot be compared this way. A stream that is loaded twice is two VMs: that only one
of them runs is up to the operator.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Final

from tagalong import wire
from tagalong.errors import HostError, MigrationError, TagalongError
from tagalong.migrate.link import Link
from tagalong.migrate.timeouts import Timeouts
from tagalong.migrate.transport.address import Address
from tagalong.migrate.transport.channel import Channel
from tagalong.migrate.transport.replay import LocalChannel, stream_pair
from tagalong.migrate.transport.sink import Sink, open_sink

_WORK_STEP_S: Final = 0.5

# The source is in this process: it may take as long as it likes between two records.
_PATIENT: Final = Timeouts(idle_s=float("inf"), record_s=float("inf"), answer_s=float("inf"))


def keep(address: Address, *, idle_s: float) -> Channel:
    """Return a channel to a peer that keeps the stream at `address`.

    Raises HostError if it cannot be written there.
    """
    near, far = stream_pair()
    gone = threading.Event()

    def interrupt() -> None:
        if gone.is_set():
            raise HostError(f"{address}: the migration was given up")

    try:
        sink = open_sink(address, interrupt)
    except BaseException:
        near.close()
        far.close()
        raise
    channel = _OneWayChannel(near, str(address), idle_s=idle_s, on_close=gone.set)
    keeper = _Keeper(far, sink, str(address), channel.explain_end)
    threading.Thread(target=keeper.run, name="keeper", daemon=True).start()
    return channel


class _OneWayChannel(LocalChannel):
    """The source's end; it tells when it is closed."""

    is_one_way = True

    def __init__(
        self, sock: socket.socket, name: str, *, idle_s: float, on_close: Callable[[], None]
    ) -> None:
        super().__init__(sock, name, idle_s=idle_s)
        self._on_close = on_close

    def close(self) -> None:
        self._on_close()
        super().close()


class _Tee(Channel):
    """A channel whose incoming bytes go into a sink before they are parsed."""

    def __init__(self, sock: socket.socket, name: str, sink: Sink) -> None:
        super().__init__(sock, name, idle_s=float("inf"))
        self._sink: Sink | None = sink

    @property
    def incoming_path(self) -> None:
        """Return None: the bytes must come through here."""
        return

    def _receive_some(self, target: memoryview) -> int:
        count = super()._receive_some(target)
        if self._sink is not None:
            self._sink.write(target[:count])
        return count

    def forget_sink(self) -> None:
        """Write no more bytes down: the sink is closed."""
        self._sink = None


class _Keeper:
    """Speaks the destination's part, and writes everything down.

    `explain_end` is called with the error that ends it, before the connection is closed: after
    COMMIT no ABORT can say it.
    """

    def __init__(
        self, sock: socket.socket, sink: Sink, name: str, explain_end: Callable[[HostError], None]
    ) -> None:
        self._sink = sink
        self._name = name
        self._explain_end = explain_end
        self._channel = _Tee(sock, name, sink)
        connection = wire.Connection(wire.Role.DESTINATION, tags_only=None)
        self._link = Link(self._channel, connection, _PATIENT)
        self._has_commit = False

    def run(self) -> None:
        with self._channel:
            try:
                self._keep()
            except Exception as error:  # noqa: BLE001 (else the source hears nothing of it)
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if not isinstance(error, TagalongError):
            error = HostError(f"{self._name}: cannot be written: {error!r}")
        self._channel.forget_sink()
        self._sink.discard()
        self._explain_end(HostError(str(error)))
        # ABORT promises that nothing can be started from what was written.
        if self._sink.is_revocable or not self._has_commit:
            self._link.abort(error)

    def _keep(self) -> None:
        hello = self._link.expect(wire.Hello)
        self._link.send(
            wire.Hello(
                wire.Role.DESTINATION,
                hello.migration_id,
                mandatory_features=hello.offered_features & wire.Feature.TAGS_ONLY,
            )
        )
        self._link.expect(wire.MachineRecord)
        self._link.expect(wire.StateRecord)
        self._link.send(wire.Accept())
        self._take_all()
        self._while_alive(self._sink.secure)
        self._link.send(wire.Ready())
        self._link.expect(wire.Commit)
        self._has_commit = True
        self._channel.forget_sink()
        self._while_alive(self._sink.complete)
        self._link.send(wire.Running())

    def _take_all(self) -> None:
        """Take in everything up to PREPARE."""
        pages = 0
        while not isinstance(record := self._link.receive(), wire.Prepare):
            match record:
                case wire.Pages():
                    pages += record.page_count
                case wire.Round():
                    self._link.send(wire.Round(record.number, pages))
                    pages = 0
                case wire.Verify():
                    raise MigrationError(
                        "a stream that is kept cannot be verified before it is loaded"
                    )

    def _while_alive(self, work: Callable[[], None]) -> None:
        """Do what may take long, and let the source hear from us. Raises what `work` raises."""
        failure: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 (raised below, in the other thread)
                failure.append(error)

        thread = threading.Thread(target=run, name="keeper-disk", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_WORK_STEP_S)
            with contextlib.suppress(HostError):  # a source that has gone is noticed later
                self._link.keep_alive()
        if failure:
            raise failure[0]
