"""Forwards a migration's records between its ends, or changes them as a test asks."""

import socket
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial

from tagalong.wire import RecordType, Role
from tests.support.relay import Relay, shut

HEADER_BYTES = 16
_BACK = Role.DESTINATION


class Fate(Enum):
    """What happens to the connection instead of forwarding a record."""

    CUT = "cut"  # all connections are closed
    CUT_ONE = "cut one"  # this connection is closed
    CUT_MID_RECORD = "cut inside of a record"  # as CUT, after the record's first half
    CUT_FOR_EVER = "cut for ever"  # as CUT, and later connections are closed at once
    STALL = "stall"  # this direction forwards nothing more


Rule = Callable[[Role, int, RecordType, bytes], bytes | Fate]
"""Decides what is forwarded instead of record number n that `role` has sent."""


def forward(_role: Role, _number: int, _kind: RecordType, record: bytes) -> bytes:
    """Change nothing."""
    return record


class Proxy(Relay):
    """Listens at `uri` and forwards every connection to the TCP address of `target`."""

    def __init__(self, target: str, rule: Rule) -> None:
        host, port = target.removeprefix("tcp:").rsplit(":", 1)
        self._target = (host, int(port))
        self._rule = rule
        self._is_open = True
        listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        super().__init__(listener)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                source, _ = self._listener.accept()
                self._sockets.append(source)
                if not self._is_open:
                    shut(source)
                    continue
                destination = socket.create_connection(self._target)
                self._sockets.append(destination)
                for ends in ((source, destination, Role.SOURCE), (destination, source, _BACK)):
                    self._start(partial(self._pump, *ends))

    def _pump(self, incoming: socket.socket, outgoing: socket.socket, role: Role) -> None:
        with suppress(OSError, EOFError):
            outgoing.sendall(_read(incoming, HEADER_BYTES))
            number = 0
            while True:
                header = _read(incoming, HEADER_BYTES)
                record = header + _read(incoming, int.from_bytes(header[4:8], "little"))
                kind = RecordType(int.from_bytes(header[:2], "little"))
                result = self._rule(role, number, kind, record)
                if result is Fate.STALL:
                    return
                if isinstance(result, Fate):
                    self._break(result, record, incoming, outgoing)
                    return
                outgoing.sendall(result)
                number += 1
        with suppress(OSError):
            outgoing.shutdown(socket.SHUT_WR)

    def _break(
        self, fate: Fate, record: bytes, incoming: socket.socket, outgoing: socket.socket
    ) -> None:
        if fate is Fate.CUT_MID_RECORD:
            outgoing.sendall(record[: len(record) // 2])
        if fate is Fate.CUT_ONE:
            shut(incoming)
            shut(outgoing)
            return
        self._is_open = fate is not Fate.CUT_FOR_EVER
        self._cut()


def _read(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        portion = sock.recv(size - len(data))
        if not portion:
            raise EOFError
        data += portion
    return bytes(data)
