"""Both ends of a TLS connection in one thread, and a peer whose records are at hand."""

import contextlib
import socket
import ssl
from collections.abc import Callable

from tagalong.migrate import TlsCredentials
from tagalong.migrate.transport.tls import Handshake, TlsChannel, TlsRole

HOST = "127.0.0.1"  # what the certificates of tests.support.certificates are for


class RecordPeer:
    """A client that speaks TLS through memory: what it sends is seen, cut and changed first."""

    def __init__(self, credentials: TlsCredentials, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = credentials.context(TlsRole.CLIENT)
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)

    def step(self) -> bool:
        """Go on with the handshake; return whether it is done."""
        with contextlib.suppress(BlockingIOError):
            self._incoming.write(self.sock.recv(1 << 16))
        is_done = True
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            is_done = False
        self.sock.sendall(self._outgoing.read())
        return is_done

    def encrypted(self, data: bytes) -> bytes:
        """Return a record with `data`, at most 16 KiB, as it would be sent."""
        assert self._tls.write(data) == len(data)
        return self._outgoing.read()

    def decrypted(self) -> bytes:
        """Return what has arrived. Raises ssl.SSLError with the other end's alert."""
        with contextlib.suppress(BlockingIOError):
            while received := self.sock.recv(1 << 16):
                self._incoming.write(received)
        content = bytearray()
        with contextlib.suppress(ssl.SSLWantReadError):
            while True:
                content += self._tls.read(1 << 16)
        return bytes(content)


Sockets = tuple[socket.socket, socket.socket]


def tcp_pair() -> Sockets:
    """Return both ends of a connection over loopback."""
    with socket.create_server((HOST, 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


def channel_and_peer(
    credentials: TlsCredentials, sockets: Sockets | None = None
) -> tuple[TlsChannel, RecordPeer]:
    """Return a destination's channel and its peer, by default over a Unix socket."""
    near, far = sockets or socket.socketpair()
    shake, peer = _server(credentials, near), RecordPeer(credentials, far)
    _until_done(lambda: shake.step() is None, peer.step)
    return shake.channel(idle_s=20), peer


def channels(
    credentials: TlsCredentials, sockets: Sockets | None = None
) -> tuple[TlsChannel, TlsChannel]:
    """Return the channels of a source and of a destination, by default over a Unix socket."""
    near, far = sockets or socket.socketpair()
    context = credentials.context(TlsRole.CLIENT)
    source = Handshake(near, credentials, context, server_name=HOST, name="source")
    destination = _server(credentials, far)
    _until_done(lambda: source.step() is None, lambda: destination.step() is None)
    return source.channel(idle_s=20), destination.channel(idle_s=20)


def _server(credentials: TlsCredentials, sock: socket.socket) -> Handshake:
    context = credentials.context(TlsRole.SERVER)
    return Handshake(sock, credentials, context, server_name=None, name="destination")


def _until_done(one: Callable[[], bool], other: Callable[[], bool]) -> None:
    is_done = other_is_done = False
    while not (is_done and other_is_done):
        is_done = is_done or one()
        other_is_done = other_is_done or other()
