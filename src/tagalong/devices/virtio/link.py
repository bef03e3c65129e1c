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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from tagalong.devices.virtio.frames import (
    ROW_BYTES,
    length_of_first,
    read_tap,
    whole_bytes,
    write_tap,
)
from tagalong.errors import HostError, UsageError

Receive = Callable[[memoryview], int]
"""Takes frames from the start of a row; returns their bytes in it.

0: none now. `NetworkLink.supplied` says when to try again.
"""

Lost = Callable[[str], None]
"""Is told why the link is down; once."""

_SOCKET_BYTES: Final = 1 << 20
_SEND_TIMEOUT_S: Final = 0.05
_CONNECT_TIMEOUT_S: Final = 10.0
_TIMEVAL: Final = struct.Struct("@ll")
_TUNSETIFF: Final = 0x4004_54CA
_IFREQ: Final = struct.Struct("16sH22x")
_IFF_TAP_NO_PI: Final = 0x1002
_MAX_INTERFACE_NAME: Final = 15


class FrameChannel(Protocol):
    """Rows of frames (`frames`) over a descriptor that does not block."""

    def fileno(self) -> int:
        """Return the descriptor."""
        ...

    def read(self) -> memoryview:
        """Return the frames that are there, none if there is nothing yet; valid until the next.

        Raises OSError; ConnectionError if the peer is gone or sends what is no frame.
        """
        ...

    def send(self, row: memoryview) -> bool:
        """Send frames; return whether all of them will go. Raises OSError."""
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

    def send(self, row: memoryview) -> bool:
        """Send frames, from any thread; return whether all go. A link that is down drops them."""
        if not self.is_up:
            return False
        try:
            with self._sending:
                return self._channel.send(row)
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
            while not self._is_closed:
                self._wait()
                while not self._is_closed and (row := self._channel.read()):
                    self._pass_on(row)
        except OSError as error:
            self._go_down(error)

    def _wait(self) -> None:
        """Wait until there is something to read, or the link is to be closed."""
        poll = select.poll()  # takes descriptors of any number
        for descriptor in (self._channel.fileno(), self._wake):
            poll.register(descriptor, select.POLLIN)
        poll.poll()

    def _pass_on(self, row: memoryview) -> None:
        """Give frames to the receiver as soon as it takes them, until the link is closed."""
        assert self._receive is not None  # noqa: S101 (attached before it is resumed)
        while row and not self._is_closed:
            with self._changed:
                self._has_room = False
            if taken := self._receive(row):
                row = row[taken:]
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._has_room or self._is_closed)

    def _go_down(self, error: OSError) -> None:
        with self._changed:
            if not self.is_up or self._is_closed:
                return
            self.is_up = False
        if self._lost is not None:
            self._lost(error.strerror or str(error))


class StreamFrames:
    """Frames over a stream socket, as QEMU and passt have them there: a row without end."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)
        self._received = memoryview(bytearray(ROW_BYTES))
        self._whole = self._end = 0  # how much of that is frames to pass on, and in all
        self._unsent = b""

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def read(self) -> memoryview:
        """As FrameChannel.read."""
        rest = bytes(self._received[self._whole : self._end])
        self._received[: len(rest)] = rest
        self._whole, self._end = 0, len(rest)
        if not self._find_frames():
            self._receive()
            self._find_frames()
        return self._received[: self._whole]

    def _receive(self) -> None:
        try:
            count = self._socket.recv_into(self._received[self._end :])
        except BlockingIOError:
            return
        if not count:
            raise ConnectionResetError(errno.ECONNRESET, "the other end closed the connection")
        self._end += count

    def _find_frames(self) -> int:
        self._whole, wrong = whole_bytes(self._received, self._end)
        if wrong is not None and not self._whole:
            raise ConnectionAbortedError(
                errno.EPROTO, f"the other end sent a frame of {wrong} bytes"
            )
        return self._whole

    def send(self, row: memoryview) -> bool:
        """As FrameChannel.send. A frame that went in part is completed before the next.

        What does not go within a short time is dropped.
        """
        deadline = time.monotonic() + _SEND_TIMEOUT_S
        if self._unsent:
            self._unsent = self._unsent[self._push(memoryview(self._unsent), deadline) :]
            if self._unsent:
                return False
        sent = self._push(row, deadline)
        whole, _ = whole_bytes(row, sent)
        if whole < sent:
            end = whole + length_of_first(row[whole:])
            self._unsent = bytes(row[sent:end])
            whole = end
        return whole == len(row)

    def _push(self, data: memoryview, deadline: float) -> int:
        """Send what goes before the deadline; return how much that is."""
        sent = 0
        while sent < len(data):
            try:
                sent += self._socket.send(data[sent:], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if not self._wait(deadline - time.monotonic()):
                    break
        return sent

    def _wait(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return timeout_s > 0 and bool(poll.poll(timeout_s * 1000))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class TapFrames:
    """Frames of a tap device of the host."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._row = bytearray(ROW_BYTES)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def read(self) -> memoryview:
        """As FrameChannel.read."""
        return memoryview(self._row)[: read_tap(self._descriptor, self._row)]

    def send(self, row: memoryview) -> bool:
        """As FrameChannel.send; the device's own queue is the only one."""
        return not write_tap(self._descriptor, row)

    def close(self) -> None:
        """Close the device. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def connect_stream(path: Path, name: str) -> StreamFrames:
    """Return the connection to what listens at a Unix socket. Raises HostError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # For a peer that listens and accepts no one: its backlog is full.
        timeout = _TIMEVAL.pack(*divmod(int(_CONNECT_TIMEOUT_S * 1e6), 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        connection.connect(str(path))
        return StreamFrames(connection)
    except BlockingIOError as error:
        connection.close()
        raise HostError(
            f"cannot connect network {name!r} to {path}: what listens there has not accepted the "
            f"connection within {_CONNECT_TIMEOUT_S:g} s"
        ) from error
    except OSError as error:
        connection.close()
        raise HostError(
            f"cannot connect network {name!r} to {path}: {error.strerror or error}; something must "
            "listen there that takes frames as QEMU's stream does, such as passt"
        ) from error


def open_tap(interface: str, name: str) -> TapFrames:
    """Return an existing tap device of the host. Raises UsageError, HostError."""
    what = f"cannot connect network {name!r} to tap device {interface!r}"
    name_bytes = os.fsencode(interface)
    if not 1 <= len(name_bytes) <= _MAX_INTERFACE_NAME or "/" in interface:
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
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(name_bytes, _IFF_TAP_NO_PI))
    except OSError as error:
        os.close(descriptor)
        reason = "it is no tap device" if error.errno == errno.EINVAL else error.strerror
        raise HostError(f"{what}: {reason}") from error
    return TapFrames(descriptor)
