"""The other end of the card's socket: answers ARP, takes frames, and floods the guest on demand."""

import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

_MAC = bytes.fromhex("025400000001")
_IP = bytes((10, 9, 9, 1))
_ARP, _IPV4, _ICMP = 0x0806, 0x0800, 1
FLOOD_BYTES, END_BYTES = 100, 200
"""The sizes of the pings that begin and end a flood."""

_PING_HEAD_BYTES = 28
_FRAME_BYTES = 1414
_FRAMES_AT_ONCE = 64


class BenchPeer:
    """Listens at `path` for one card, within a `with` block.

    A ping of FLOOD_BYTES begins a flood of broadcast frames, one of END_BYTES ends it. Afterwards
    `taken_bytes` counts the frames that the card sent.
    """

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._card: socket.socket | None = None
        self._floods = threading.Event()
        self._is_closed = False
        self.taken_bytes = 0
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._flood)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self._floods.set()
        for each in (self._listener, self._card):
            if each is not None:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _read(self) -> None:
        with suppress(OSError):
            self._card, _ = self._listener.accept()
            with self._card, self._card.makefile("rb", buffering=1 << 20) as stream:
                while head := stream.read(4):
                    (length,) = struct.unpack(">I", head)
                    self._take(stream.read(length))

    def _take(self, frame: bytes) -> None:
        self.taken_bytes += len(frame)
        (kind,) = struct.unpack_from(">H", frame, 12)
        if kind == _ARP and frame[38:42] == _IP:
            asker = frame[22:32]
            head = struct.pack(">HHBBH", 1, _IPV4, 6, 4, 2)
            reply = frame[6:12] + _MAC + struct.pack(">H", _ARP) + head + _MAC + _IP + asker
            self._send([reply.ljust(60, b"\0")])
        elif kind == _IPV4 and frame[23] == _ICMP:
            (length,) = struct.unpack_from(">H", frame, 16)
            if length == FLOOD_BYTES + _PING_HEAD_BYTES:
                self._floods.set()
            elif length == END_BYTES + _PING_HEAD_BYTES:
                self._floods.clear()

    def _flood(self) -> None:
        frame = (b"\xff" * 6 + _MAC + b"\x88\xb5").ljust(_FRAME_BYTES, b"\x55")
        with suppress(OSError):
            while self._floods.wait() and not self._is_closed:
                self._send([frame] * _FRAMES_AT_ONCE)

    def _send(self, frames: list[bytes]) -> None:
        assert self._card is not None
        data = b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)
        self._card.sendall(data)
