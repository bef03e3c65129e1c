"""Pages through TLS in native code: what arrives, and what peers do that is not as it should be."""

import contextlib
import ctypes
import errno
import os
import select
import socket
import ssl
import struct
import threading
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong._native import OpenSsl, PageStream, TlsStream, library
from tagalong.errors import AuthenticationError, HostError, MigrationCancelledError
from tagalong.migrate import TlsCredentials
from tagalong.migrate.pages.pump import (
    PeerClosedError,
    Segments,
    receive_bytes,
    receive_pages,
    send_pages,
)
from tagalong.migrate.transport import openssl, tls
from tagalong.migrate.transport.tls import TlsChannel
from tagalong.wire.integrity import page_digests
from tests.support.certificates import Authority
from tests.support.tls_pairs import channel_and_peer, channels, tcp_pair

PAGE = 4096
FOREVER = float("inf")
RECORD = 16 << 10


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> TlsCredentials:
    return TlsCredentials(Authority(tmp_path_factory.mktemp("tls")).folder)


def random_bytes(size: int) -> NDArray[np.uint8]:
    return np.frombuffer(np.random.default_rng(7).bytes(size), np.uint8).copy()


def pieces(memory: NDArray[np.uint8], *runs: tuple[int, int]) -> Segments:
    array = np.array([(memory.ctypes.data + at * PAGE, n * PAGE) for at, n in runs], np.uint64)
    return Segments(array, PAGE, memory)


def whole(memory: NDArray[np.uint8]) -> Segments:
    return pieces(memory, (0, memory.size // PAGE))


def record_sizes(encrypted: bytes) -> list[int]:
    sizes = []
    while encrypted:
        (size,) = struct.unpack(">H", encrypted[3:5])
        sizes.append(size)
        encrypted = encrypted[5 + size :]
    return sizes


@pytest.mark.parametrize("is_staged", [False, True])
@pytest.mark.parametrize(
    "runs",
    [
        [(0, 600)],
        [(0, 1), (2, 3), (9, 70), (199, 1), (300, 5), *((400 + 2 * n, 1) for n in range(90))],
    ],
    ids=["one run", "scattered"],
)
def test_pages_arrive_and_hash_to_what_they_are(
    ours: TlsCredentials, runs: list[tuple[int, int]], is_staged: bool
) -> None:
    memory, target = random_bytes(600 * PAGE), np.zeros(600 * PAGE, np.uint8)
    stage = np.empty(64 * PAGE, np.uint8) if is_staged else None
    near, far = channels(ours)
    sent: list[NDArray[np.uint64]] = []
    with near, far:
        source = pieces(memory, *runs)
        sender = threading.Thread(
            target=lambda: sent.append(send_pages(near, source, stage, FOREVER))
        )
        sender.start()
        received = receive_pages(far, pieces(target, *runs), FOREVER)
        sender.join(60)

    data = b"".join(bytes(piece) for piece in source)
    assert b"".join(bytes(piece) for piece in pieces(target, *runs)) == data
    assert received.tolist() == sent[0].tolist()
    assert received.tolist() == page_digests((memoryview(data),), PAGE).tolist()


def test_small_pieces_leave_in_whole_records(ours: TlsCredentials) -> None:
    memory = random_bytes(64 * PAGE)
    channel, peer = channel_and_peer(ours)
    with channel, peer.sock:
        send_pages(channel, pieces(memory, *((2 * n, 1) for n in range(8))), None, FOREVER)
        encrypted = peer.sock.recv(1 << 20)

    assert record_sizes(encrypted) == [RECORD + 17, RECORD + 17]


@pytest.mark.parametrize("ends", ["native, Python", "Python, native", "Python, Python"])
def test_both_ways_speak_to_each_other(
    ours: TlsCredentials, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    content = random_bytes(600 * PAGE).tobytes()
    native = iter([kind == "native" for kind in ends.split(", ")])
    monkeypatch.setattr(
        tls, "native_tls", lambda sock: openssl.native_tls(sock) if next(native) else None
    )
    near, far = channels(ours)
    received = bytearray()
    with near, far:
        assert (near.incoming_path is not None) == ends.startswith("native")
        assert (far.outgoing_path is not None) == ends.endswith("native")
        sender = threading.Thread(target=near.send, args=([content[:5], content[5:]],))
        sender.start()
        target = memoryview(bytearray(100_000))
        while len(received) < len(content):
            received += target[: far.receive_into(target)]
        sender.join(60)

    assert received == content


@pytest.mark.parametrize("size", [1, 4097, RECORD - 1, RECORD])
def test_records_of_any_size_fill_pages(ours: TlsCredentials, size: int) -> None:
    memory, target = random_bytes(3 * PAGE), np.zeros(3 * PAGE, np.uint8)
    content, channel_peer = memory.tobytes(), channel_and_peer(ours)
    channel, peer = channel_peer
    with channel, peer.sock:

        def send() -> None:
            peer.sock.setblocking(True)
            for at in range(0, len(content), size):
                peer.sock.sendall(peer.encrypted(content[at : at + size]))

        sender = threading.Thread(target=send)
        sender.start()
        digests = receive_pages(channel, whole(target), FOREVER)
        sender.join(60)

    assert target.tobytes() == content
    assert digests.tolist() == page_digests((memory.data,), PAGE).tolist()


def test_end_of_a_batch_arrives_although_openssl_holds_a_part_of_its_record(
    ours: TlsCredentials,
) -> None:
    """It must not wait for more bytes than the socket will ever have again."""
    target = np.zeros(40 * PAGE, np.uint8)
    content = random_bytes(target.size).tobytes()
    channel, peer = channel_and_peer(ours, tcp_pair())
    with channel, peer.sock:
        peer.sock.setblocking(True)
        records = [
            peer.encrypted(content[at : at + RECORD]) for at in range(0, len(content), RECORD)
        ]

        def send() -> None:
            peer.sock.sendall(b"".join(records[:-1]) + records[-1][:-9])
            time.sleep(0.2)  # meanwhile the receiver takes all of it, and waits
            peer.sock.sendall(records[-1][-9:])

        sender = threading.Thread(target=send)
        sender.start()
        receive_bytes(channel, target.data, FOREVER)
        sender.join(60)

    assert target.tobytes() == content


@pytest.mark.parametrize("left", [0, 3, 5, 1000], ids=lambda left: f"{left} bytes of a record")
def test_stream_that_ends_anywhere_is_a_peer_that_has_left(ours: TlsCredentials, left: int) -> None:
    target = np.zeros(16 * PAGE, np.uint8)
    channel, peer = channel_and_peer(ours)
    with channel:
        record = peer.encrypted(bytes(5000))
        peer.sock.sendall(record + peer.encrypted(bytes(5000))[:left])
        peer.sock.close()

        with pytest.raises(PeerClosedError, match="closed the connection inside of a batch"):
            receive_pages(channel, whole(target), FOREVER)
        with pytest.raises(PeerClosedError):
            receive_pages(channel, whole(target), FOREVER)


def test_changed_record_is_rejected_and_its_sender_told(ours: TlsCredentials) -> None:
    target = np.zeros(16 * PAGE, np.uint8)
    channel, peer = channel_and_peer(ours)
    with channel, peer.sock:
        record = bytearray(peer.encrypted(bytes(5000)))
        record[100] ^= 1
        peer.sock.sendall(record)

        with pytest.raises(AuthenticationError, match="decryption failed or bad record mac"):
            receive_pages(channel, whole(target), FOREVER)
        with pytest.raises(AuthenticationError, match="decryption failed or bad record mac"):
            channel.receive_into(memoryview(bytearray(10)))
        with pytest.raises(ssl.SSLError, match="bad record mac"):
            peer.decrypted()

    assert not target.any()


@pytest.mark.parametrize(
    "bytes_sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x17\x03\x03\xff\xff" + bytes(70_000)]
)
def test_bytes_that_are_no_record_are_rejected(ours: TlsCredentials, bytes_sent: bytes) -> None:
    target = np.zeros(16 * PAGE, np.uint8)
    channel, peer = channel_and_peer(ours)
    with channel, peer.sock:
        peer.sock.sendall(bytes_sent)

        with pytest.raises(AuthenticationError, match=r"no TLS 1\.3 with the peer"):
            receive_pages(channel, whole(target), FOREVER)


@pytest.mark.parametrize("wants_answer", [0, 1], ids=["new keys", "new keys of both"])
def test_new_keys_in_the_middle_of_a_batch_change_nothing(
    ours: TlsCredentials, wants_answer: int
) -> None:
    """KeyUpdate (RFC 8446, 4.6.3), which GnuTLS sends by itself after some hundreds of GiB."""
    memory, target = random_bytes(64 * PAGE), np.zeros(64 * PAGE, np.uint8)
    near, far = channels(ours)
    functions = openssl._functions()
    assert functions is not None
    assert near.incoming_path is not None
    with near, far:
        for number in range(4):
            assert near._native is not None
            address = ctypes.c_void_p(near._native.stream.ssl)
            assert functions.SSL_key_update(address, wants_answer) == 1
            half = pieces(memory, (16 * number, 16))
            send_pages(near, half, None, FOREVER)
            receive_pages(far, pieces(target, (16 * number, 16)), FOREVER)
            near.is_mid_record = False
            far.send([b"answer"])
            answer = bytearray(10)
            assert near.receive_into(memoryview(answer)) == 6

    assert target.tobytes() == memory.tobytes()


def test_alert_that_joins_what_has_not_left_is_no_error_of_its_own(ours: TlsCredentials) -> None:
    """Of what is encrypted, a smaller part has left then: less than was told of before."""
    near, far = channels(ours)
    assert near._native is not None
    content = memoryview(random_bytes(4 << 20).tobytes())
    with near, far:
        near.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50 << 10)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += near._native.send([content[sent:]])
        told_of = near._native.stream.reported
        assert told_of  # a part of a portion

        os.write(far.sock.fileno(), b"no record of TLS")
        with pytest.raises(AuthenticationError):
            near.receive_into(memoryview(bytearray(20)))

        with pytest.raises(BlockingIOError):
            near._native.send([content[sent:]])
        assert near._native.stream.reported == told_of


def test_peer_that_always_has_a_record_without_a_byte_does_not_keep_its_reader() -> None:
    """Its reader looks at deadlines and at a cancellation every tenth of a second."""
    wants_read, is_over, gives_up = 2, 6, time.monotonic() + 10
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)

    read_nothing = function(lambda *_: -1)
    say_why = function(lambda *_: wants_read if time.monotonic() < gives_up else is_over)

    def address_of(each: object) -> int | None:
        return ctypes.cast(each, ctypes.c_void_p).value  # type: ignore[arg-type]

    functions = OpenSsl(
        ssl_read=address_of(read_nothing),
        ssl_get_error=address_of(say_why),
        err_clear_error=address_of(read_nothing),
    )
    near, far = socket.socketpair()
    target = np.zeros(PAGE, np.uint8)
    array = np.array([(target.ctypes.data, PAGE)], np.uint64)
    with near, far:
        far.send(b"what poll tells of")
        records = TlsStream(openssl=ctypes.pointer(functions), fd=near.fileno())
        stream = PageStream(
            fd=near.fileno(), page_bytes=PAGE, tls=ctypes.addressof(records),
            segments=array.ctypes.data, segment_count=1, total_bytes=PAGE,
        )  # fmt: skip

        assert library().ta_receive_pages(ctypes.byref(stream), 50) == 0


def test_key_is_replaced_before_it_has_encrypted_too_much(
    ours: TlsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = random_bytes(32 * PAGE)
    monkeypatch.setattr(openssl, "_RECORDS_PER_KEY", 3)
    channel, peer = channel_and_peer(ours)
    with channel, peer.sock:
        for half in (0, 16):
            send_pages(channel, pieces(memory, (half, 16)), None, FOREVER)
        sizes = record_sizes(peer.sock.recv(1 << 20, socket.MSG_PEEK))
        received = peer.decrypted()

    assert received == memory.tobytes()
    key_update = 5 + 1 + 16  # RFC 8446, 4.6.3: a handshake message of five bytes
    after = [number for number, size in enumerate(sizes) if size == key_update]
    assert after == [3, 7]


def test_peer_that_takes_nothing_ends_the_send_and_gets_nothing_later(
    ours: TlsCredentials,
) -> None:
    memory = random_bytes(1024 * PAGE)
    channel, peer = channel_and_peer(ours)
    channel.idle_s = 0.3
    with channel, peer.sock:
        with pytest.raises(HostError, match=r"bytes of a batch moved in .* none in the last"):
            send_pages(channel, whole(memory), None, FOREVER)
        assert channel.is_mid_record
        before = peer.sock.recv(1 << 24, socket.MSG_PEEK)
        channel.is_readable()
        channel.finish(time.monotonic() + 0.1)
        channel.close()
        received = bytearray()
        while portion := peer.sock.recv(1 << 16):
            received += portion

    assert received.startswith(before)
    assert len(received) < memory.size


def test_cancelled_wait_for_pages_ends(ours: TlsCredentials) -> None:
    channel, peer = channel_and_peer(ours)

    def cancel() -> None:
        raise MigrationCancelledError("cancelled")

    channel.interrupt = cancel
    with channel, peer.sock, pytest.raises(MigrationCancelledError):
        receive_pages(channel, whole(np.zeros(16 * PAGE, np.uint8)), FOREVER)


def test_deadline_ends_a_batch_that_comes_byte_by_byte(ours: TlsCredentials) -> None:
    channel, peer = channel_and_peer(ours)
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.02):
            with contextlib.suppress(OSError):
                peer.sock.sendall(peer.encrypted(b"x"))

    thread = threading.Thread(target=trickle)
    with channel, peer.sock:
        thread.start()
        try:
            with pytest.raises(HostError, match="bytes of a batch moved"):
                receive_pages(channel, whole(np.zeros(16 * PAGE, np.uint8)), time.monotonic() + 0.4)
        finally:
            stop.set()
            thread.join(60)


def test_reset_connection_is_an_error_with_its_reason(ours: TlsCredentials) -> None:
    near, far = channels(ours, tcp_pair())
    with far:
        near.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        near.close()
        poller = select.poll()
        poller.register(far.sock, 0)
        poller.poll()

        with pytest.raises(HostError, match="cannot move pages: Connection reset by peer"):
            receive_pages(far, whole(np.zeros(16 * PAGE, np.uint8)), FOREVER)
        with pytest.raises(HostError, match="cannot send"):
            far.send([b"x"])


def test_closed_channel_moves_nothing_over_a_descriptor_that_others_have(
    ours: TlsCredentials,
) -> None:
    channel, peer = channel_and_peer(ours)
    path = channel.incoming_path
    assert path is not None
    channel.close()
    near, far = socket.socketpair()  # one of them has its number now
    with near, far, peer.sock:
        for action in (
            lambda: channel.send([b"x"]),
            lambda: channel.receive_into(memoryview(bytearray(1))),
        ):
            with pytest.raises(HostError) as caught:
                action()
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == errno.EBADF
        assert not select.select([near, far], [], [], 0)[0]


def test_what_was_looked_at_is_received_by_native_code(ours: TlsCredentials) -> None:
    target = np.zeros(PAGE, np.uint8)
    content = random_bytes(PAGE)
    channel, peer = channel_and_peer(ours)
    with channel, peer.sock:
        assert not channel.is_readable()
        peer.sock.sendall(peer.encrypted(content.tobytes()))
        assert channel.is_readable()
        receive_pages(channel, whole(target), FOREVER)
        assert not channel.is_readable()
        peer.sock.close()
        assert channel.is_readable()

    assert target.tobytes() == content.tobytes()


def test_address_that_is_not_certain_is_not_used(ours: TlsCredentials) -> None:
    """The words around it must be those of this very socket and its context."""
    near, far = channels(ours)
    with near, far:
        one, other = near.sock, far.sock
        assert isinstance(one, ssl.SSLSocket)
        assert isinstance(other, ssl.SSLSocket)
        assert openssl.address_of(one) is not None
        assert openssl.address_of(one) != openssl.address_of(other)
        one._sslobj, other._sslobj = other._sslobj, one._sslobj  # type: ignore[attr-defined]
        assert openssl.address_of(one) is None


def test_unknown_openssl_leaves_tls_to_python(
    ours: TlsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    openssl._functions.cache_clear()
    openssl._table.cache_clear()
    monkeypatch.setattr(ssl, "OPENSSL_VERSION", "LibreSSL 4.0.0")
    try:
        near, far = channels(ours)
    finally:
        openssl._functions.cache_clear()
        openssl._table.cache_clear()
    with near, far:
        assert near.incoming_path is None
        near.send([b"hello"])
        target = bytearray(10)
        assert far.receive_into(memoryview(target)) == 5


def test_native_way_is_used_here(ours: TlsCredentials) -> None:
    near, far = channels(ours)
    with near, far:
        assert isinstance(near, TlsChannel)
        assert near.outgoing_path is not None
        assert near.outgoing_path.tls
