"""Keeps a stream: the peer of a source whose stream goes into a file, a command or a pipe.

The protocol is a conversation, and what goes one way does not answer. So a channel writes down what
the source says: exactly the source's stream (docs/formats/stream.md, section 8b). And a thread of
this process speaks the destination's part. It gets every record but the pages', which only pass by:
the source has hashed them on their way into the file, and nothing here would look at them again.
Source, destination and format know nothing of this, and its READY has an exact meaning: everything
before was handed to the kernel and, in a file, is on the disk. A file gets its name only after
COMMIT, so whatever has that name is whole.

From PREPARE on the thread writes down what comes, because a source that is cancelled must not wait
for a disk. Before that the source's own thread does.

Digests cannot be compared this way. A stream that is loaded twice is two VMs: that only one
of them runs is up to the operator.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong import wire
from tagalong.errors import HostError, LocalProtocolError, MigrationError, TagalongError
from tagalong.migrate.link import error_of, reason_of
from tagalong.migrate.transport.address import Address
from tagalong.migrate.transport.channel import Buffers, PageChannel
from tagalong.migrate.transport.replay import LocalChannel, stream_pair
from tagalong.migrate.transport.sink import Sink, open_sink
from tagalong.wire.bypass import Bypass
from tagalong.write_behind import PageDigest

_KEEPALIVE_S: Final = 1.0


def keep(address: Address, *, idle_s: float) -> LocalChannel:
    """Return a channel to a peer that keeps the stream at `address`.

    Raises HostError if it cannot be written there.
    """
    near, far = stream_pair()
    try:
        channel = _KeptChannel(near, str(address), idle_s=idle_s)
        sink = open_sink(address, channel.look_up, idle_s=idle_s)
        try:
            channel.begin(sink, _Keeper(far, sink, channel))
        except BaseException:  # no thread more can be had
            sink.discard()
            raise
    except BaseException:
        near.close()
        far.close()
        raise
    return channel


class _KeptChannel(LocalChannel, PageChannel):
    """The source's end: what it sends goes into a sink, and all but pages to a keeper."""

    is_one_way = True

    def __init__(self, sock: socket.socket, name: str, *, idle_s: float) -> None:
        super().__init__(sock, name, idle_s=idle_s)
        self._bypass = Bypass()
        self._deadline = float("inf")
        self._is_gone = False
        self._thread: threading.Thread | None = None
        self._sink_lock = threading.Lock()

    def begin(self, sink: Sink, keeper: "_Keeper") -> None:
        """Write to `sink` from now on, and let `keeper` answer."""
        self._sink, self._keeper = sink, keeper
        self._thread = threading.Thread(target=keeper.run, name="keeper", daemon=True)
        self._thread.start()

    def look_up(self) -> None:
        """End the wait of a sink by raising, if the migration was given up or takes too long."""
        if self._is_gone:
            raise HostError(f"{self.name}: the migration was given up")
        if threading.current_thread() is self._thread:
            return
        self.interrupt()
        if time.monotonic() > self._deadline:
            raise HostError(f"{self.name}: it took too little, and its time is up")

    def send(self, buffers: Buffers, *, deadline: float = float("inf")) -> None:
        """As Channel. Raises HostError, too, if the sink cannot be written to."""
        self._deadline = deadline
        self.is_mid_record = True
        for buffer in buffers:
            if len(buffer):
                self._send_one(memoryview(buffer).cast("B"))
        self.is_mid_record = False

    def _send_one(self, data: memoryview) -> None:
        if not self._bypass.has_prepare:
            with self._writing():
                self._sink.write(data)
        for item in self._bypass.feed(data):
            self._keeper.hear(item)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Use the sink; the keeper hears of it if that fails."""
        with self._sink_lock:
            if self._is_gone:
                raise HostError(f"{self.name}: the migration was given up")
            try:
                yield
            except HostError as error:
                self._keeper.hear(error)
                raise

    def move_pages(
        self, pieces: Sequence[memoryview], page_bytes: int, digest: PageDigest
    ) -> list[NDArray[np.uint64]]:
        """As PageChannel: write all pieces to the sink."""
        digests = []
        with self._writing():
            for piece in pieces:
                memory = np.frombuffer(piece, np.uint8)
                digests += self._sink.write_pages(memory, page_bytes, digest)
        self._bypass.skip(sum(len(piece) for piece in pieces))
        return digests

    def take_sink_away(self) -> None:
        """Write nothing more: the keeper discards the sink."""
        self._is_gone = True
        with self._sink_lock:
            pass

    def finish(self, deadline: float) -> None:
        """As Channel: the keeper hears nothing more."""
        self._keeper.hear(None)
        super().finish(deadline)

    def break_off(self) -> None:
        """As Channel."""
        self._is_gone = True
        super().break_off()

    def close(self) -> None:
        """As Channel; a stream that is not whole is discarded."""
        self._is_gone = True
        self._keeper.hear(None)
        super().close()


class _Keeper:
    """Speaks the destination's part over `sock`, and brings what is in `sink` to safety.

    `hear` takes, from any thread, what comes next: bytes of the stream, the number of pages in a
    batch that passed by, an error that ended it, None if nothing more comes.
    """

    def __init__(self, sock: socket.socket, sink: Sink, channel: _KeptChannel) -> None:
        self._sock = sock
        self._sink = sink
        self._channel = channel
        self._heard: SimpleQueue[bytes | int | HostError | None] = SimpleQueue()
        self._connection = wire.Connection(wire.Role.DESTINATION, tags_only=None)
        self._pages = self._states = 0
        self._is_prepared = self._has_commit = self._is_over = False

    def hear(self, item: bytes | int | HostError | None) -> None:
        """Take what comes next."""
        self._heard.put(item)

    def run(self) -> None:
        """Answer until the stream is whole, or was given up."""
        with self._sock:
            try:
                while not self._is_over:
                    self._take(self._heard.get())
            except Exception as error:  # noqa: BLE001 (else the source hears nothing of it)
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if not isinstance(error, TagalongError):
            error = HostError(f"{self._channel.name}: cannot be written: {error!r}")
        self._channel.take_sink_away()
        self._sink.discard()
        # Before the connection is closed: after COMMIT no ABORT can say it.
        self._channel.explain_end(HostError(str(error)))
        # ABORT promises that nothing can be started from what was written.
        if self._sink.is_revocable or not self._has_commit:
            with suppress(LocalProtocolError, OSError):
                self._say(wire.Abort(reason_of(error), str(error)))

    def _take(self, item: bytes | int | HostError | None) -> None:
        if item is None:
            raise HostError(f"{self._channel.name}: the migration was given up")
        if isinstance(item, HostError):
            raise item
        if isinstance(item, int):
            self._connection.pass_batch(item)
            self._pages += item
            return
        if self._is_prepared:
            self._sink.write(memoryview(item))
        self._connection.receive_data(item)
        while (record := self._connection.next_record()) is not wire.NEED_DATA:
            assert not isinstance(record, wire.NeedData)  # noqa: S101 (for mypy)
            self._answer(record)

    def _answer(self, record: wire.Record) -> None:
        match record:
            case wire.Hello():
                self._greet(record)
            case wire.StateRecord():
                self._states += 1
                if self._states == 1:  # the other one comes when the guest is paused
                    self._say(wire.Accept())
            case wire.Round():
                self._say(wire.Round(record.number, self._pages))
                self._pages = 0
            case wire.Verify():
                raise MigrationError("a stream that is kept cannot be verified before it is loaded")
            case wire.Prepare():
                self._is_prepared = True
                self._while_alive(self._sink.secure)
                self._say(wire.Ready())
            case wire.Commit():
                self._has_commit = True
                self._while_alive(self._sink.complete)
                self._is_over = True
                self._say(wire.Running())
            case wire.Abort():
                raise error_of(record, is_one_way=True)

    def _greet(self, hello: wire.Hello) -> None:
        self._say(
            wire.Hello(
                wire.Role.DESTINATION,
                hello.migration_id,
                mandatory_features=hello.offered_features & wire.Feature.TAGS_ONLY,
            )
        )

    def _say(self, record: wire.Record) -> None:
        """Send a record. Raises OSError if the source is gone."""
        self._sock.sendall(b"".join(self._connection.send(record)))

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
        thread.join(_KEEPALIVE_S)
        while thread.is_alive():
            with suppress(OSError):  # a source that has gone is noticed later
                self._say(wire.KeepAlive())
            thread.join(_KEEPALIVE_S)
        if failure:
            raise failure[0]
