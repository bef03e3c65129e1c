"""Where the threads of a transfer run: they move, and stay free to be moved."""

import ctypes
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest

from tagalong._native import library
from tagalong.migrate.pages.pump import Segments, receive_pages, send_pages
from tagalong.migrate.transport.channel import Channel, shares_host
from tagalong.migrate.transport.connector import tune

DEADLINE_S = 60.0
PAGE = 4096
SO_INCOMING_CPU = 49  # Linux, include/uapi/asm-generic/socket.h


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return two ends of a TCP connection of this host to itself."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as near,
    ):
        far, _ = server.accept()
        with far:
            yield near, far


def here() -> int:
    cpu: int = ctypes.CDLL(None).sched_getcpu()
    return cpu


def in_a_thread(function: Callable[[], object]) -> object:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def arrives(go: Callable[[], None], cpu: int) -> bool:
    """Return whether `go` brings the calling thread to `cpu`; the scheduler may move it again."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        go()
        if here() == cpu:
            return True
    return False


def test_threads_that_start_apart_begin_on_each_processor_in_turn() -> None:
    cpus = sorted(os.sched_getaffinity(0))

    for number in range(2 * len(cpus)):
        start = partial(library().ta_start_apart, number)
        assert in_a_thread(partial(arrives, start, cpus[number % len(cpus)]))


def test_thread_that_starts_apart_may_use_what_it_could_before() -> None:
    def start_on_the_last() -> tuple[set[int], set[int]]:
        os.sched_setaffinity(0, {last})
        library().ta_start_apart(12345)
        one = os.sched_getaffinity(0)
        os.sched_setaffinity(0, allowed)
        library().ta_start_apart(1)
        return one, os.sched_getaffinity(0)

    allowed = os.sched_getaffinity(0)
    last = max(allowed)

    assert in_a_thread(start_on_the_last) == ({last}, allowed)


def test_thread_that_follows_packets_comes_to_their_sender(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    near, far = tcp

    def send_and_follow(cpu: int) -> tuple[bool, set[int]]:
        def follow() -> None:
            os.sched_setaffinity(0, {cpu})
            near.send(b"x")
            os.sched_setaffinity(0, allowed)
            far.recv(1)
            library().ta_follow_packets(far.fileno())

        def was_followed() -> bool:
            follow()
            return here() == far.getsockopt(socket.SOL_SOCKET, SO_INCOMING_CPU)

        deadline = time.monotonic() + DEADLINE_S
        while not (came := was_followed()) and time.monotonic() < deadline:
            pass
        return came, os.sched_getaffinity(0)

    allowed = os.sched_getaffinity(0)
    for cpu in sorted(allowed):
        assert in_a_thread(partial(send_and_follow, cpu)) == (True, allowed)


def test_what_has_no_packets_is_not_followed() -> None:
    readable, writable = os.pipe()
    near, far = socket.socketpair()
    with near, far, os.fdopen(readable), os.fdopen(writable, "w"):
        before = os.sched_getaffinity(0)
        for descriptor in (readable, near.fileno(), -1):
            library().ta_follow_packets(descriptor)
        after = os.sched_getaffinity(0)

    assert after == before


def test_receiver_that_follows_packets_receives_the_same(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    near, far = (Channel(sock, "a pair", idle_s=DEADLINE_S) for sock in tcp)
    far.follows_packets = True
    data = np.frombuffer(np.random.default_rng(1).bytes(2048 * PAGE), np.uint8).copy()
    target = np.zeros_like(data)
    before = os.sched_getaffinity(0)
    sent: list[object] = []
    source, sink = (
        Segments(np.array([[it.ctypes.data, it.size]], np.uint64), PAGE, it)
        for it in (data, target)
    )
    sender = threading.Thread(
        target=lambda: sent.append(send_pages(near, source, None, float("inf")).tolist())
    )

    sender.start()
    digests = receive_pages(far, sink, float("inf"))
    sender.join()

    assert sent == [digests.tolist()]
    assert np.array_equal(target, data)
    assert os.sched_getaffinity(0) == before


def test_peer_is_on_this_host_if_both_ends_have_one_address(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    near, far = socket.socketpair()
    with near, far:
        assert [shares_host(sock) for sock in (*tcp, near)] == [True, True, False]


def test_peer_that_is_reached_at_another_address_is_on_another_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as sock:
        sock.bind(("127.0.0.2", 0))  # as seen from the socket: two hosts
        sock.connect(server.getsockname())
        kernels = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        tune(sock)

        assert not shares_host(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == kernels


def test_channel_of_a_connection_that_is_gone_shares_no_host(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    channel = Channel(tcp[0], "a pair", idle_s=DEADLINE_S)
    assert channel.shares_host

    channel.close()

    assert not channel.shares_host


def test_way_within_a_host_holds_what_fits_into_a_cache(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    for sock in tcp:
        tune(sock)

    # The kernel counts twice what was asked for, for its own records (socket(7)).
    sizes = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for sock in tcp]
    assert sizes == [1 << 20] * 2
