"""A destination that follows the protocol, but for one thing that takes as long as it likes."""

import socket
import threading
import time
from contextlib import suppress

from tagalong import wire
from tagalong.migrate import Channel
from tagalong.wire import RecordType, Role

_AT_ONCE = 64
_A_LITTLE = 256
_WORK_S = 0.8


class FloodingDestination:
    """Answers a source over `near` until `instead_of` is due; then `is_flooding` is set.

    It never stops: there is always another KEEPALIVE to receive. Without `instead_of` it reads
    what follows the first round a little at a time, and never stops that either. Memory and
    digests are not looked at.
    """

    def __init__(self, instead_of: RecordType | None) -> None:
        self.is_flooding = threading.Event()
        self._is_over = threading.Event()
        self.heard: list[RecordType] = []
        self._instead_of = instead_of
        one, self._sock = socket.socketpair()
        self.near = Channel(one, "near", idle_s=30.0)
        self._connection = wire.Connection(Role.DESTINATION)
        self._pages = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End what takes so long."""
        self._is_over.set()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._sock.close()
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with suppress(OSError, EOFError):
            while not self._connection.phase.is_final:
                answer = self._answer(self._receive())
                if answer is None:
                    continue
                if answer.type is self._instead_of:
                    self._flood()
                self._send(answer)

    def _answer(self, record: wire.Record) -> wire.Record | None:
        self.heard.append(record.type)
        answer: wire.Record | None = None
        match record:
            case wire.Hello():
                answer = wire.Hello(Role.DESTINATION, record.migration_id)
            case wire.StateRecord() if self.heard.count(RecordType.STATE) == 1:
                answer = wire.Accept()
            case wire.Pages():
                self._pages += record.page_count
            case wire.Round():
                answer, self._pages = wire.Round(record.number, self._pages), 0
            case wire.Verify():
                time.sleep(_WORK_S)
                answer = wire.KeepAlive()
            case wire.Digest():
                answer = wire.Digest(record.digest)
            case wire.Prepare():
                answer = wire.Ready()
            case wire.Commit():
                answer = wire.Running()
        return answer

    def _receive(self) -> wire.Record:
        while isinstance(record := self._connection.next_record(), wire.NeedData):
            buffer = self._connection.receive_buffer()
            if self._instead_of is None and RecordType.ROUND in self.heard:
                if self._is_over.wait(0.01):
                    raise EOFError
                buffer = buffer[:_A_LITTLE]
            count = self._sock.recv_into(buffer)
            if not count:
                raise EOFError
            self._connection.received(count)
        return record

    def _flood(self) -> None:
        self._send(wire.KeepAlive())
        self.is_flooding.set()
        while True:
            records = [self._connection.send(wire.KeepAlive()) for _ in range(_AT_ONCE)]
            self._sock.sendall(b"".join(bytes(part) for parts in records for part in parts))

    def _send(self, record: wire.Record) -> None:
        self._sock.sendall(b"".join(bytes(part) for part in self._connection.send(record)))
