"""Serves the control socket: asyncio around sessions.

Everything happens in the event loop's thread, so replies and events leave in the order in
which they arose. A client that does not read is disconnected when more than MAX_UNSENT_BYTES
wait for it, so neither the VM nor other clients ever wait for it.
"""

import asyncio
import fcntl
import socket
import struct
import termios
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

from tagalong.qmp import messages
from tagalong.qmp.control_socket import control_socket
from tagalong.qmp.descriptors import DescriptorSocket
from tagalong.qmp.messages import Event
from tagalong.qmp.session import Commands, Session
from tagalong.socket_files import SocketFile

MAX_UNSENT_BYTES = 1024 * 1024

_FLUSH_TIMEOUT_S = 1.0
_FLUSH_POLL_S = 0.005
_ACCEPT_AGAIN_S = 0.5


class ControlServer:
    """The VM's QMP server on a unix socket.

    >>> server = ControlServer(commands)
    >>> await server.start(Path("vm.sock"))
    >>> server.broadcast(Event("STOP"))
    >>> await server.close()
    """

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._clients: set[_Client] = set()
        self._socket_file: SocketFile | None = None
        self._connecting: set[asyncio.Task[object]] = set()

    async def start(self, path: Path) -> None:
        """Create the socket and accept clients. Raises UsageError or HostError."""
        self.serve(control_socket(path))

    def serve(self, file: SocketFile) -> None:
        """Accept the clients of a control socket, which is this server's to remove from now on."""
        self._socket_file = file
        self._listen(file.socket)

    def _listen(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        # Not asyncio's own server: its connections read with recv(2), which drops descriptors.
        loop = asyncio.get_running_loop()
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # out of descriptors or memory: clients wait in the backlog
            loop.remove_reader(listener)
            loop.call_later(_ACCEPT_AGAIN_S, self._listen, listener)
            return
        connection = DescriptorSocket(fileno=accepted.detach())
        connection.setblocking(False)
        task: asyncio.Task[object] = loop.create_task(
            loop.connect_accepted_socket(partial(self._new_client, connection), connection)
        )
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def broadcast(self, event: Event) -> None:
        """Send `event` to every client that has finished negotiation."""
        line = messages.encode(event.to_json())
        for client in tuple(self._clients):
            client.notify(line)

    async def close(self) -> None:
        """Remove the socket file, let clients read what they were sent, disconnect.

        What a VM says last is what a client needs most: why it ended, and how a migration ended.
        A socket that is closed while a request waits in it is reset, and a client that gets a
        reset may throw away what it has not parsed yet. So each client sees the end of the stream
        first, its requests are read and ignored, and the socket is closed once the client has read
        everything; after a second at the latest.
        """
        if self._socket_file is not None:
            asyncio.get_running_loop().remove_reader(self._socket_file.socket)
            self._socket_file.socket.close()
            self._socket_file.remove()
            self._socket_file = None
        if self._connecting:
            await asyncio.wait(tuple(self._connecting), timeout=_FLUSH_TIMEOUT_S)
        clients = tuple(self._clients)
        for client in clients:
            client.finish()
        deadline = time.monotonic() + _FLUSH_TIMEOUT_S
        while any(client.has_unread for client in clients) and time.monotonic() < deadline:
            await asyncio.sleep(_FLUSH_POLL_S)
        for client in clients:
            client.abort()

    def _new_client(self, connection: DescriptorSocket) -> "_Client":
        return _Client(Session(self._commands, connection), self._clients)


class _Client(asyncio.Protocol):
    """One connection; a member of `clients` for as long as it lasts."""

    def __init__(self, session: Session, clients: "set[_Client]") -> None:
        self._session = session
        self._clients = clients
        self._transport: asyncio.Transport | None = None
        self._is_finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._clients.add(self)
        self._send(self._session.greeting())

    def data_received(self, data: bytes) -> None:
        if not self._is_finished:
            self._answer(self._session.receive(data))

    def _answer(self, replies: Iterator[bytes | asyncio.Future[bytes]]) -> None:
        """Send replies in order; read no further while a command takes its time."""
        for reply in replies:
            if isinstance(reply, asyncio.Future):
                self._pause()
                reply.add_done_callback(lambda done: self._go_on(done, replies))
                return
            self._send(reply)
        if self._session.finished:
            self.close()

    def _go_on(
        self,
        done: asyncio.Future[bytes],
        replies: Iterator[bytes | asyncio.Future[bytes]],
    ) -> None:
        if done.cancelled() or self._transport is None or self._transport.is_closing():
            return
        self._send(done.result())
        self._transport.resume_reading()
        self._answer(replies)

    def _pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's name)
        self._clients.discard(self)

    def notify(self, line: bytes) -> None:
        if self._session.negotiated:
            self._send(line)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def finish(self) -> None:
        """Send the end of the stream after what waits, and ignore further requests."""
        self._is_finished = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._transport.write_eof()

    @property
    def has_unread(self) -> bool:
        """Return whether the client is there and has not read all that it was sent."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        return transport.get_write_buffer_size() > 0 or _unread_bytes(transport) > 0

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _send(self, line: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        # Looked at before the write: one reply may be larger than what a client may leave unread.
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            transport.abort()
            return
        transport.write(line)


def _unread_bytes(transport: asyncio.Transport) -> int:
    """Return how much of what was sent the other end has not read: SIOCOUTQ, unix(7)."""
    answer = fcntl.ioctl(
        transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(struct.calcsize("i"))
    )
    return int(struct.unpack("i", answer)[0])
