"""Forwards a migration between its ends and lets one thing go wrong, at one place.

A place is a record of one stream, by its number, and a byte in it: the same place in every
migration of the same shape, whatever the records hold. A place is not a time, so a fault hits the
same thing on any computer at any load.
"""

import random
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from tagalong.wire import Role
from tests.support.relay import Relay

HEADER_BYTES = 16
_NEXT_RECORD_S = 0.1
_DELAY_S = 0.05


class Kind(Enum):
    """What goes wrong."""

    CUT = "cut"  # both directions end at once, with a reset
    TRUNCATE = "truncate"  # this direction ends in an orderly way
    STALL = "stall"  # this direction forwards nothing more
    DELAY = "delay"  # the rest comes later: harmless
    DUPLICATE = "duplicate"  # the record passes twice
    REORDER = "reorder"  # the next record passes first
    DROP = "drop"  # the record passes without some of its bytes
    FLIP = "flip"  # one bit is another one
    KILL = "kill"  # a callback runs when everything before it has passed


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    In record `number` that `role` sends over connection `connection` (-1: at the stream's
    header), `place` of its bytes having passed; a place behind its end means its end. `seed`
    decides what else there is to decide.
    """

    kind: Kind
    role: Role
    number: int
    place: int = 0
    seed: int = 0
    connection: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kind.value} at byte {self.place:#x} of record {self.number} from "
            f"{self.role.name.lower()} on connection {self.connection} (seed {self.seed})"
        )


Observer = Callable[[Role, int, bytes], None]
"""Called with each record that passes: its sender, its number, the record."""


class FaultProxy(Relay):
    """Listens at the unix socket `path` and forwards to the unix socket `target`.

    `has_struck` says whether the fault's place was reached.
    """

    def __init__(
        self,
        path: str,
        target: str,
        fault: Fault | None,
        *,
        kill: Callable[[], None] = lambda: None,
        observe: Observer = lambda *_: None,
    ) -> None:
        self.has_struck = False
        self._target = target
        self._fault = fault
        self._kill = kill
        self._observe = observe
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(8)
        super().__init__(listener)

    def _accept(self) -> None:
        number = 0
        with suppress(OSError):
            while True:
                source, _ = self._listener.accept()
                destination = socket.socket(socket.AF_UNIX)
                self._sockets += [source, destination]
                destination.connect(self._target)
                self._start(_Pump(self, Role.SOURCE, source, destination, number).run)
                self._start(_Pump(self, Role.DESTINATION, destination, source, number).run)
                number += 1

    # --- what a pump asks for ---

    def fault_in(self, role: Role, connection: int, number: int) -> Fault | None:
        fault = self._fault
        if fault is not None and (fault.role, fault.connection, fault.number) == (
            role,
            connection,
            number,
        ):
            self.has_struck = True
            return fault
        return None

    def note(self, role: Role, connection: int, number: int, record: bytes) -> None:
        if connection == 0:
            self._observe(role, number, record)

    def cut(self) -> None:
        self._cut()

    def kill(self) -> None:
        self._kill()


class _Pump:
    """Forwards one direction of one connection, record by record."""

    def __init__(
        self,
        proxy: FaultProxy,
        role: Role,
        incoming: socket.socket,
        outgoing: socket.socket,
        connection: int,
    ) -> None:
        self._proxy = proxy
        self._role = role
        self._in = incoming
        self._out = outgoing
        self._connection = connection

    def run(self) -> None:
        with suppress(OSError, EOFError):
            if not self._pass_on(-1, _read(self._in, HEADER_BYTES)):
                return
            number = 0
            while self._pass_on(number, self._next_record()):
                number += 1
            return
        with suppress(OSError):
            self._out.shutdown(socket.SHUT_WR)

    def _next_record(self) -> bytes:
        header = _read(self._in, HEADER_BYTES)
        return header + _read(self._in, int.from_bytes(header[4:8], "little"))

    def _pass_on(self, number: int, record: bytes) -> bool:
        """Forward a record, or what becomes of it; return False if that was the last."""
        self._proxy.note(self._role, self._connection, number, record)
        fault = self._proxy.fault_in(self._role, self._connection, number)
        if fault is None:
            self._out.sendall(record)
            return True
        place = min(fault.place, len(record))
        self._out.sendall(record[:place] if fault.kind in _PARTIAL else b"")
        match fault.kind:
            case Kind.CUT:
                self._proxy.cut()
                return False
            case Kind.TRUNCATE:
                self._out.shutdown(socket.SHUT_WR)
                return False
            case Kind.STALL:
                return False
            case Kind.KILL:
                self._proxy.kill()
                self._out.sendall(record[place:])
            case Kind.DELAY:
                time.sleep(_DELAY_S)
                self._out.sendall(record[place:])
            case _:
                self._out.sendall(self._changed(fault, record, place))
        return True

    def _changed(self, fault: Fault, record: bytes, place: int) -> bytes:
        draw = random.Random(fault.seed)
        match fault.kind:
            case Kind.DUPLICATE:
                return record + record
            case Kind.REORDER:
                if not select.select([self._in], [], [], _NEXT_RECORD_S)[0]:
                    return record  # the sender waits for an answer to this one
                return self._next_record() + record
            case Kind.DROP:
                count = draw.choice([1, 8, len(record)])
                return record[:place] + record[place + count :]
        place = min(place, len(record) - 1)
        flipped = record[place] ^ 1 << draw.randrange(8)
        return record[:place] + bytes([flipped]) + record[place + 1 :]


_PARTIAL = {Kind.CUT, Kind.TRUNCATE, Kind.STALL, Kind.KILL, Kind.DELAY}


def _read(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        portion = sock.recv(size - len(data))
        if not portion:
            raise EOFError
        data += portion
    return bytes(data)
