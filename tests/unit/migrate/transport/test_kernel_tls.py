"""TLS by the kernel: OpenSSL hands it the keys, and what the source sends is encrypted there.

The lab's kernels have the module `tls`. The certificates beside this file are valid until the year
3000 and known to everybody: nothing but tests may trust them.
"""

import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from tagalong.migrate import TlsCredentials
from tagalong.migrate.pages.pump import Segments, receive_pages, send_pages
from tagalong.migrate.transport.openssl import is_encrypted_by_kernel
from tests.support.tls_pairs import channel_and_peer, channels, tcp_pair

PAGE = 4096
OURS = TlsCredentials(Path(__file__).with_name("pki"))


def whole(memory: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> Segments:
    return Segments(np.array([[memory.ctypes.data, memory.size]], np.uint64), PAGE, memory)


@pytest.mark.lab
def test_kernel_encrypts_pages_that_native_code_sends_plainly() -> None:
    content = np.frombuffer(np.random.default_rng(5).bytes(2 << 20), np.uint8).copy()
    target = np.zeros_like(content)
    near, far = channels(OURS, tcp_pair())
    with near, far:
        assert is_encrypted_by_kernel(near.sock)
        assert near.outgoing_path is not None
        assert not near.outgoing_path.tls
        sender = threading.Thread(target=send_pages, args=(near, whole(content), None, 1e18))
        sender.start()
        digests = receive_pages(far, whole(target), 1e18)
        sender.join(60)
        near.is_mid_record = False
        far.send([b"taken, ", b"all of it"])
        answer = bytearray(100)
        assert near.receive_into(memoryview(answer)) == 16

    assert digests.size == content.size // PAGE
    assert target.tobytes() == content.tobytes()


@pytest.mark.lab
def test_bytes_on_the_wire_are_records_of_the_kernel() -> None:
    channel, peer = channel_and_peer(OURS, tcp_pair())
    with channel, peer.sock:
        assert is_encrypted_by_kernel(channel.sock)
        channel.send([b"COMMIT", b" and more"])
        peer.sock.setblocking(True)
        record = peer.sock.recv(100, socket.MSG_PEEK)
        assert record[:3] == b"\x17\x03\x03"
        assert b"COMMIT" not in record
        peer.sock.setblocking(False)
        assert peer.decrypted() == b"COMMIT and more"


def test_kernel_that_cannot_leaves_it_to_openssl() -> None:
    """A Unix socket has no TLS in any kernel."""
    near, far = channels(OURS)
    with near, far:
        assert not is_encrypted_by_kernel(near.sock)
        assert near.outgoing_path is not None
        assert near.outgoing_path.tls
