"""What a network card is connected to: a Unix socket, or a tap device of the host.

A link has a thread that reads frames. A frame for which the driver has no buffer waits, and with it
the socket: its sender slows down. The other way nothing may wait for long, because a machine that
is to be paused waits for it: a frame that cannot be sent soon is dropped, as networks do.
"""

import errno
import fcntl
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from tagalong.errors import HostError, UsageError

MAX_FRAME_BYTES: Final = 65535
MIN_FRAME_BYTES: Final = 14

Receive = Callable[[bytes], bool]
"""Takes a frame; returns whether it was taken. `NetworkLink.supplied` says when to try again."""

Lost = Callable[[str], None]
"""Is told why the link is down; once."""

_LENGTH: Final = struct.Struct(">I")
_READ_BYTES: Final = 1 << 17
_SOCKET_BYTES: Final = 1 << 20
_SEND_TIMEOUT_MS: Final = 50
_TUNSETIFF: Final = 0x4004_54CA
_IFREQ: Final = struct.Struct("16sH22x")
_IFF_TAP_NO_PI: Final = 0x1002
_MAX_INTERFACE_NAME: Final = 15


class FrameChannel(Protocol):
    """Frames over a descriptor that does not block."""

    def fileno(self) -> int:
        """Return the descriptor."""
        ...

    def read(self) -> Sequence[bytes]:
        """Return the frames that are there, none if there is nothing yet.

        Raises OSError; ConnectionError if the peer is gone or sends what is no frame.
        """
        ...

    def send(self, frame: Sequence[memoryview]) -> bool:
        """Send a frame; return whether all of it will go. Raises OSError."""
        ...

    def close(self) -> None:
        """Close it. Safe to call twice."""
        ...


class NetworkLink:
    """A network card's connection: reads frames of `channel`, which is closed with it.

    It begins with the first `resume`. `name` is its thread's.
    """

    def __init__(self, channel: FrameChannel, name: str) -> None:
        self.is_up = True
        self._channel = channel
        self._name = name
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._is_closed = False
        self._has_room = False
        self._thread: threading.Thread | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._receive: Receive | None = None
        self._lost: Lost | None = None

    def attach(self, receive: Receive, lost: Lost) -> None:
        """Take who gets frames, once."""
        self._receive, self._lost = receive, lost

    def resume(self) -> None:
        """Read frames, and try again to pass one on that was not taken."""
        with self._changed:
            if self._thread is None and self.is_up:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        self.supplied()

    def supplied(self) -> None:
        """Try again to pass a frame on that was not taken."""
        with self._changed:
            self._has_room = True
            self._changed.notify_all()

    def send(self, frame: Sequence[memoryview]) -> bool:
        """Send a frame, from any thread; return whether it goes. A link that is down drops it."""
        if not self.is_up:
            return False
        try:
            with self._sending:
                return self._channel.send(frame)
        except OSError as error:
            self._go_down(error)
            return False

    def close(self) -> None:
        """End the thread and the connection. Safe to call twice."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        os.eventfd_write(self._wake, 1)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self.is_up = False
        os.close(self._wake)
        self._channel.close()

    def _run(self) -> None:
        try:
            for frame in self._frames():
                if not self._pass_on(frame):
                    return
        except OSError as error:
            self._go_down(error)

    def _frames(self) -> Iterator[bytes]:
        while not self._is_closed:
            select.select((self._channel.fileno(), self._wake), (), ())
            yield from self._channel.read()

    def _pass_on(self, frame: bytes) -> bool:
        """Give `frame` to the receiver as soon as it takes it; False when the link is closed."""
        assert self._receive is not None  # noqa: S101 (attached before it is resumed)
        while not self._is_closed:
            with self._changed:
                self._has_room = False
            if self._receive(frame):
                return True
            with self._changed:
                self._changed.wait_for(lambda: self._has_room or self._is_closed)
        return False

    def _go_down(self, error: OSError) -> None:
        with self._changed:
            if not self.is_up or self._is_closed:
                return
            self.is_up = False
        if self._lost is not None:
            self._lost(error.strerror or str(error))


class StreamFrames:
    """Frames over a stream socket: be32 length, then the frame, as QEMU and passt do it."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)
        self._received = bytearray()
        self._unsent = b""

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def read(self) -> list[bytes]:
        """As FrameChannel.read."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the other end closed the connection")
        self._received += data
        return list(self._take_frames())

    def _take_frames(self) -> Iterator[bytes]:
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if not MIN_FRAME_BYTES <= length <= MAX_FRAME_BYTES:
                raise ConnectionAbortedError(
                    errno.EPROTO, f"the other end sent a frame of {length} bytes"
                )
            end = _LENGTH.size + length
            if len(self._received) < end:
                return
            frame = bytes(self._received[_LENGTH.size : end])
            del self._received[:end]
            yield frame

    def send(self, frame: Sequence[memoryview]) -> bool:
        """As FrameChannel.send. A frame that went in part is completed before the next."""
        if self._unsent and not self._send_rest():
            return False
        length = sum(map(len, frame))
        parts = [memoryview(_LENGTH.pack(length)), *frame]
        sent = self._try(lambda: self._socket.sendmsg(parts, (), socket.MSG_NOSIGNAL))
        if sent == 0 and self._wait():
            sent = self._try(lambda: self._socket.sendmsg(parts, (), socket.MSG_NOSIGNAL))
        if 0 < sent < length + _LENGTH.size:
            self._unsent = b"".join(parts)[sent:]
        return sent > 0

    def _send_rest(self) -> bool:
        self._wait()
        rest = self._unsent
        self._unsent = rest[self._try(lambda: self._socket.send(rest, socket.MSG_NOSIGNAL)) :]
        return not self._unsent

    def _try(self, send: Callable[[], int]) -> int:
        try:
            return send()
        except BlockingIOError:
            return 0

    def _wait(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(_SEND_TIMEOUT_MS))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class TapFrames:
    """Frames of a tap device of the host."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def read(self) -> list[bytes]:
        """As FrameChannel.read."""
        try:
            frame = os.read(self._descriptor, MAX_FRAME_BYTES)
        except BlockingIOError:
            return []
        return [frame] if len(frame) >= MIN_FRAME_BYTES else []

    def send(self, frame: Sequence[memoryview]) -> bool:
        """As FrameChannel.send; the device's own queue is the only one."""
        try:
            os.writev(self._descriptor, frame)
        except BlockingIOError:
            return False
        except OSError as error:
            # An interface that is down, or a frame that it cannot take: it is dropped.
            if error.errno in (errno.EIO, errno.EINVAL, errno.ENOBUFS):
                return False
            raise
        return True

    def close(self) -> None:
        """Close the device. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def connect_stream(path: Path, name: str) -> StreamFrames:
    """Return the connection to what listens at a Unix socket. Raises HostError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
        return StreamFrames(connection)
    except OSError as error:
        connection.close()
        raise HostError(
            f"cannot connect network {name!r} to {path}: {error.strerror or error}; something must "
            "listen there that takes frames as QEMU's stream does, such as passt"
        ) from error


def open_tap(interface: str, name: str) -> TapFrames:
    """Return an existing tap device of the host. Raises UsageError, HostError."""
    what = f"cannot connect network {name!r} to tap device {interface!r}"
    if not 1 <= len(interface.encode()) <= _MAX_INTERFACE_NAME or "/" in interface:
        raise UsageError(f"{what}: no network interface has such a name")
    # Not by /sys: that shows the namespace in which it was mounted, not ours.
    if interface not in {name for _, name in socket.if_nameindex()}:
        raise UsageError(
            f"{what}: there is none; make it first: ip tuntap add {interface} mode tap user $USER"
        )
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{what}: cannot open /dev/net/tun: {error.strerror}") from error
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(interface.encode(), _IFF_TAP_NO_PI))
    except OSError as error:
        os.close(descriptor)
        raise HostError(f"{what}: {error.strerror}") from error
    return TapFrames(descriptor)
