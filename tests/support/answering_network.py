"""A network of one host that answers ARP and ping, for cards whose backing is a Unix socket.

It can send each card frames of fresh random bytes without end, which a card stores to guest RAM.
Frames travel as QEMU's stream has them: a length of 32 bits, big-endian, then the frame.
"""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

ADDRESS: Final = "10.9.0.1"

_MAC: Final = bytes.fromhex("5254000000fe")
_IP: Final = socket.inet_aton(ADDRESS)
_LENGTH: Final = struct.Struct(">I")
_ARP, _IPV4, _RARP = b"\x08\x06", b"\x08\x00", b"\x80\x35"
_NOISE: Final = b"\xff" * 6 + _MAC + b"\x88\xb5"  # for local experiments: no protocol answers
_NOISE_BYTES: Final = 1200
_PAUSE_S: Final = 0.004
_ETHERNET_BYTES: Final = 14
_ARP_BYTES: Final = 28
_IP_BYTES: Final = 20
_ICMP: Final = 1
_ECHO_REQUEST: Final = 8


class AnsweringNetwork:
    """Answers at `path`.

    Per connection, `answers` has the number of pings answered, `announcements` that of the frames
    by which a VM announces itself.
    """

    def __init__(self, path: Path, *, makes_noise: bool) -> None:
        self.path = path
        self._works = (self._answer, self._make_noise) if makes_noise else (self._answer,)
        self.answers: list[int] = []
        self.announcements: list[int] = []
        self._is_closed = threading.Event()
        self._connections: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()

    def serve(self) -> None:
        """Serve one connection after the other in threads, until the network is closed."""
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self.answers.append(0)
                self.announcements.append(0)
                number, sending = len(self.answers) - 1, threading.Lock()
                for work in self._works:
                    threading.Thread(
                        target=work, args=(connection, sending, number), daemon=True
                    ).start()

    def hang_up(self) -> None:
        """Close all connections, as a network does that goes away."""
        for connection in self._connections:
            with suppress(OSError):  # its other end has closed it already
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._is_closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _answer(self, connection: socket.socket, sending: threading.Lock, number: int) -> None:
        with connection, suppress(OSError):
            frames = connection.makefile("rb")
            while head := frames.read(_LENGTH.size):
                frame = frames.read(*_LENGTH.unpack(head))
                self.announcements[number] += frame[12:14] == _RARP
                answer = answer_to(frame)
                if answer is not None:
                    self.answers[number] += answer[12:14] == _IPV4
                    _send(connection, sending, answer)

    def _make_noise(self, connection: socket.socket, sending: threading.Lock, _: int) -> None:
        with suppress(OSError):
            while not self._is_closed.wait(_PAUSE_S):
                _send(connection, sending, _NOISE + os.urandom(_NOISE_BYTES))


@contextmanager
def answering_network(path: Path, *, makes_noise: bool) -> Iterator[AnsweringNetwork]:
    """Serve a network at `path` for the time of a `with` block."""
    network = AnsweringNetwork(path, makes_noise=makes_noise)
    thread = threading.Thread(target=network.serve, daemon=True)
    thread.start()
    try:
        yield network
    finally:
        network.close()
        thread.join()


def _send(connection: socket.socket, sending: threading.Lock, frame: bytes) -> None:
    with sending:
        connection.sendall(_LENGTH.pack(len(frame)) + frame)


def answer_to(frame: bytes) -> bytes | None:
    """Return the frame that answers `frame`, None if it asks for nothing."""
    kind, rest = frame[12:_ETHERNET_BYTES], frame[_ETHERNET_BYTES:]
    ethernet = frame[6:12] + _MAC + kind
    if kind == _ARP and rest[24:_ARP_BYTES] == _IP and rest[7] == 1:
        return ethernet + rest[:6] + b"\0\2" + _MAC + _IP + rest[8:18]
    if kind == _IPV4 and rest[9] == _ICMP and rest[16:_IP_BYTES] == _IP:
        message = rest[_IP_BYTES:]
        if message[0] == _ECHO_REQUEST:
            return ethernet + rest[:12] + _IP + rest[12:16] + _reply(message)
    return None


def _reply(request: bytes) -> bytes:
    """Return an ICMP echo reply; its checksum differs by what the type does."""
    checksum = int.from_bytes(request[2:4], "big") + (_ECHO_REQUEST << 8)
    return b"\0\0" + ((checksum & 0xFFFF) + (checksum >> 16)).to_bytes(2, "big") + request[4:]
