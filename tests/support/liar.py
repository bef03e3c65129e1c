"""A destination that behaves well up to one moment, and from there on as badly as a test wants.

It knows the protocol and holds nothing: it answers DIGEST with the source's own, so that every
moment of a migration can be reached.
"""

import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from pathlib import Path

from tagalong import wire
from tagalong.errors import TagalongError
from tagalong.wire import RecordType, Role
from tagalong.wire.codec import VERSION, encode_stream_header
from tests.support.relay import Relay
from tests.support.wire_session import joined, raw_record

_RESET = struct.pack("ii", 1, 0)
_HEADER_BYTES = 16


class Moment(Enum):
    """An answer that the source waits for."""

    HELLO = "the HELLO"
    ACCEPT = "the ACCEPT"
    CHANNEL = "the answer to CHANNEL"
    ROUND = "the answer to a ROUND"
    RESUME_HELLO = "the HELLO after a break"
    RESUMED = "the RESUMED"
    DIGEST = "the DIGEST"
    READY = "the READY"
    RUNNING = "the RUNNING"
    END = "the end of the channels"


class Conduct(Enum):
    """What comes instead of the answer."""

    SILENT = "silence"
    FLOOD = "KEEPALIVEs without a pause"
    DRIP = "a KEEPALIVE now and then"
    DRIBBLE = "the answer, a byte now and then"
    CUT = "an orderly end"
    RESET = "a reset"
    NOISE = "random bytes"
    ABORT = "an ABORT"
    WRONG = "an answer with one other bit"


class Liar(Relay):
    """Listens at the unix socket `path`; misbehaves at `moment` as `conduct` says.

    `reached` is called when the moment has come, in the connection's thread. With
    `cuts_every_round` each connection that is resumed is cut where its ROUND is to be answered.
    """

    def __init__(
        self,
        path: Path,
        moment: Moment,
        conduct: Conduct,
        *,
        reached: Callable[[], None] = lambda: None,
        cuts_every_round: bool = False,
    ) -> None:
        self.moment = moment
        self.conduct = conduct
        self.reached = reached
        self.cuts_every_round = cuts_every_round
        self.joining: wire.Joining | None = None
        self.rounds = 0
        self.breaks = moment in (Moment.RESUME_HELLO, Moment.RESUMED) or cuts_every_round
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(32)
        super().__init__(listener)

    def _accept(self) -> None:
        number = 0
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._sockets.append(sock)
                self._start(_Conversation(self, sock, number).run)
                number += 1


class _Conversation:
    """One connection of the source."""

    def __init__(self, liar: Liar, sock: socket.socket, number: int) -> None:
        self._liar = liar
        self._sock = sock
        self._number = number
        joining = replace(liar.joining, rounds=liar.rounds) if liar.joining else None
        self._wire = wire.Connection(Role.DESTINATION, joining=joining)
        self._hello: wire.Hello | None = None
        self._has_machine = False
        self._said = 0
        self._preview = False

    def run(self) -> None:
        with suppress(OSError, EOFError, TagalongError):
            while self._answer(self._hear()):
                pass
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _answer(self, record: wire.Record) -> bool:
        """Answer one record; return False once the conversation is over."""
        match record:
            case wire.Hello():
                return self._greet(record)
            case wire.MachineRecord():
                self._machine = record
            case wire.StateRecord():
                return self._state()
            case wire.Round():
                return self._round(record)
            case wire.Resume():
                return self._say(Moment.RESUMED, wire.Resumed(self._liar.rounds))
        simple = self._simple_answer(record)
        return self._say(*simple) if simple is not None else True

    def _simple_answer(self, record: wire.Record) -> tuple[Moment, wire.Record] | None:
        match record:
            case wire.Digest():
                return Moment.DIGEST, record
            case wire.Prepare():
                return Moment.READY, wire.Ready()
            case wire.Commit():
                return Moment.RUNNING, wire.Running()
            case wire.ChannelRecord():
                return Moment.CHANNEL, record
        return None

    def _greet(self, record: wire.Hello) -> bool:
        self._hello = record
        moment = Moment.RESUME_HELLO if self._liar.joining else Moment.HELLO
        answer = wire.Hello(
            Role.DESTINATION, record.migration_id,
            channels=record.channels, reconnect_s=record.reconnect_s,
        )  # fmt: skip
        return self._say(moment, answer)

    def _state(self) -> bool:
        if self._preview or self._hello is None or self._liar.joining is not None:
            return True
        self._preview = True
        # Before the answer: channels may come as soon as it is there.
        self._liar.joining = wire.Joining(
            self._hello.migration_id, self._machine, self._wire.features, rounds=0
        )
        return self._say(Moment.ACCEPT, wire.Accept())

    def _round(self, record: wire.Round) -> bool:
        liar = self._liar
        is_channel = self._hello is None
        if liar.breaks and not is_channel and (self._number == 0 or liar.cuts_every_round):
            return False
        if liar.moment is Moment.END and is_channel and record.number > 1:
            return self._say(Moment.END, record)
        answered = self._say(Moment.ROUND, record)
        if not is_channel:
            liar.rounds = record.number
        return answered

    def _say(self, moment: Moment, record: wire.Record) -> bool:
        if moment is not self._liar.moment:
            self._sock.sendall(joined(self._wire.send(record)))
            self._said += 1
            return True
        self._liar.reached()
        self._misbehave(joined(self._wire.send(record)) if moment is not Moment.END else b"")
        return False

    def _misbehave(self, answer: bytes) -> None:
        match self._liar.conduct:
            case Conduct.SILENT:
                self._until_closed()
            case Conduct.FLOOD:
                self._keep_alive(pause_s=0)
            case Conduct.DRIP:
                self._keep_alive(pause_s=0.05)
            case Conduct.DRIBBLE:
                for number in range(len(answer) - 1):
                    self._sock.sendall(answer[number : number + 1])
                    time.sleep(0.1)
                self._until_closed()
            case Conduct.RESET:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            case Conduct.WRONG:
                self._sock.sendall(self._changed(answer))
                self._until_closed()
            case Conduct.NOISE:
                self._sock.sendall(os.urandom(4096))
            case Conduct.ABORT:
                text = b"planted"
                payload = struct.pack("<II", wire.AbortReason.HOST, len(text)) + text
                self._sock.sendall(self._head + raw_record(self._said, RecordType.ABORT, payload))

    @property
    def _head(self) -> bytes:
        return b"" if self._said else encode_stream_header(VERSION)

    def _changed(self, answer: bytes) -> bytes:
        """Return the answer with right checksums and other content, or another type of record."""
        record = answer[len(self._head) :]
        if len(record) < _HEADER_BYTES + 1:
            return self._head + raw_record(self._said, RecordType.END, b"")
        kind = int.from_bytes(record[:2], "little")
        payload = bytearray(record[_HEADER_BYTES:])
        payload[0] ^= 1
        return self._head + raw_record(self._said, kind, bytes(payload))

    def _keep_alive(self, *, pause_s: float) -> None:
        self._sock.sendall(self._head)
        while True:
            self._sock.sendall(raw_record(self._said, RecordType.KEEPALIVE, b""))
            self._said += 1
            if pause_s:
                time.sleep(pause_s)

    def _until_closed(self) -> None:
        while self._sock.recv(1 << 16):
            pass

    def _hear(self) -> wire.Record:
        while True:
            record = self._wire.next_record()
            if isinstance(record, wire.NeedData):
                count = self._sock.recv_into(self._wire.receive_buffer())
                if not count:
                    raise EOFError
                self._wire.received(count)
            elif not isinstance(record, wire.KeepAlive):
                return record
