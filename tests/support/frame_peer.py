"""The other end of a network card of kind unix: sends frames without end."""

import os
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

_BROADCAST = b"\xff" * 6
_OURS = bytes.fromhex("025400000001")
_UNKNOWN_TYPE = b"\x88\xb5"  # for local experiments: no protocol of the guest answers
_PAYLOAD_BYTES = 1200
_PAUSE_S = 0.004


class FramePeer:
    """Listens at `path`; each connection gets frames with fresh random bytes, until the end.

    The end of the `with` block closes all connections, also one whose reader takes nothing.
    """

    def __init__(self, path: Path) -> None:
        self.received: list[bytes] = []
        self._is_closed = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_closed.set()
            for each in (self._listener, *self._connections):
                with suppress(OSError):  # its other end has closed it already
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._connections):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.append(connected)
                if self._is_closed.is_set():
                    return
                for work in (self._send, self._read):
                    thread = threading.Thread(target=work, args=(connected,), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _send(self, connected: socket.socket) -> None:
        with suppress(OSError):
            while not self._is_closed.wait(_PAUSE_S):
                frame = _BROADCAST + _OURS + _UNKNOWN_TYPE + os.urandom(_PAYLOAD_BYTES)
                connected.sendall(struct.pack(">I", len(frame)) + frame)

    def _read(self, connected: socket.socket) -> None:
        with suppress(OSError), connected.makefile("rb") as stream:
            while head := stream.read(4):
                (length,) = struct.unpack(">I", head)
                self.received.append(stream.read(length))
