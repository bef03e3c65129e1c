"""Pages between memory and sockets: what arrives, what it hashes to, and ends of all kinds."""

import socket
import threading
import time

import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray

from tagalong._native import library
from tagalong.errors import HostError, MigrationCancelledError
from tagalong.migrate.pages.pump import (
    PeerClosedError,
    Segments,
    receive_bytes,
    receive_pages,
    send_pages,
)
from tagalong.migrate.transport.channel import Channel
from tagalong.wire.integrity import page_digests
from tests.support.migration import channel_pair

PAGES = (4096, 16384, 65536)
TAGS_OF_PAGES = tuple(page // 32 for page in PAGES)
FOREVER = float("inf")


def random_bytes(size: int, seed: int = 1) -> NDArray[np.uint8]:
    return np.frombuffer(np.random.default_rng(seed).bytes(size), np.uint8).copy()


def pieces(memory: NDArray[np.uint8], page: int, *runs: tuple[int, int]) -> Segments:
    array = np.array([(memory.ctypes.data + at * page, n * page) for at, n in runs], np.uint64)
    return Segments(array, page, memory)


def python_digests(data: bytes, page: int) -> list[int]:
    return [xxhash.xxh3_64_intdigest(data[at : at + page]) for at in range(0, len(data), page)]


@pytest.mark.parametrize("page", PAGES + TAGS_OF_PAGES)
def test_page_digests_equal_the_librarys(page: int) -> None:
    data = random_bytes(17 * page)

    digests = page_digests((data.data,), page)

    assert digests.tolist() == python_digests(data.tobytes(), page)


@pytest.mark.parametrize("page", PAGES + TAGS_OF_PAGES)
def test_page_digests_are_the_same_in_registers_of_all_widths(page: int) -> None:
    data = random_bytes(5 * page)
    expected, variant = python_digests(data.tobytes(), page), 0

    while True:
        digests = np.zeros(5, np.uint64)
        arguments = data.ctypes.data, 5, page, digests.ctypes.data
        if not library().ta_hash_pages_as(variant, *arguments):
            break
        assert digests.tolist() == expected
        variant += 1

    assert variant >= 1


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("is_staged", [False, True])
def test_scattered_pages_arrive_where_they_belong(page: int, is_staged: bool) -> None:
    memory, target = random_bytes(200 * page), np.zeros(200 * page, np.uint8)
    runs = [(0, 1), (2, 3), (9, 70), (199, 1), *((100 + 2 * n, 1) for n in range(40))]
    stage = np.empty(4 * 65536, np.uint8) if is_staged else None
    near, far = channel_pair(idle_s=10)
    sent: list[NDArray[np.uint64]] = []
    with near, far:
        source = pieces(memory, page, *runs)
        sender = threading.Thread(
            target=lambda: sent.append(send_pages(near, source, stage, FOREVER))
        )
        sender.start()
        received = receive_pages(far, pieces(target, page, *runs), FOREVER)
        sender.join()

    rows, target_rows = memory.reshape(-1, page), target.reshape(-1, page)
    chosen = np.concatenate([np.arange(at, at + n) for at, n in runs])
    assert (target_rows[chosen] == rows[chosen]).all()
    assert not np.delete(target_rows, chosen, axis=0).any()
    expected = python_digests(rows[chosen].tobytes(), page)
    assert received.tolist() == sent[0].tolist() == expected


def test_what_is_written_behind_a_staged_send_is_not_sent_half() -> None:
    page = 4096
    memory, target = random_bytes(512 * page), np.zeros(512 * page, np.uint8)
    near, far = channel_pair(idle_s=10)
    stop = threading.Event()

    def scribble() -> None:
        while not stop.is_set():
            memory[::8] += 1

    threads = [
        threading.Thread(target=scribble),
        threading.Thread(
            target=lambda: digests.append(
                send_pages(
                    near, pieces(memory, page, (0, 512)), np.empty(1 << 18, np.uint8), FOREVER
                )
            )
        ),
    ]
    digests: list[NDArray[np.uint64]] = []
    with near, far:
        for thread in threads:
            thread.start()
        received = receive_pages(far, pieces(target, page, (0, 512)), FOREVER)
        stop.set()
        for thread in threads:
            thread.join()

    assert received.tolist() == digests[0].tolist() == python_digests(target.tobytes(), page)


def test_receive_from_a_peer_that_leaves_raises() -> None:
    near, far = channel_pair()
    with near, far:
        near.send([bytes(5000)])
        near.close()

        with pytest.raises(PeerClosedError, match="the peer closed the connection inside"):
            receive_pages(far, pieces(np.zeros(8192, np.uint8), 4096, (0, 2)), FOREVER)


def test_send_to_a_peer_that_has_left_raises() -> None:
    near, far = channel_pair()
    with near:
        far.close()

        with pytest.raises(HostError, match="cannot move pages: Broken pipe"):
            send_pages(near, pieces(random_bytes(8192), 4096, (0, 2)), None, FOREVER)


@pytest.mark.parametrize("which", ["idle", "deadline"])
def test_move_that_takes_too_long_raises(which: str) -> None:
    near, far = channel_pair(idle_s=0.3 if which == "idle" else 60)
    deadline = FOREVER if which == "idle" else time.monotonic() + 0.3
    with near, far:
        began = time.monotonic()
        with pytest.raises(HostError, match="0x0 of 0x1000 bytes of a batch moved"):
            receive_pages(far, pieces(np.zeros(4096, np.uint8), 4096, (0, 1)), deadline)

    assert 0.2 < time.monotonic() - began < 60


def test_move_is_interrupted() -> None:
    near, far = channel_pair(idle_s=60)

    def interrupt() -> None:
        raise MigrationCancelledError("enough")

    with near, far:
        far.interrupt = interrupt
        with pytest.raises(MigrationCancelledError, match="enough"):
            receive_pages(far, pieces(np.zeros(4096, np.uint8), 4096, (0, 1)), FOREVER)


def test_more_bytes_than_the_batch_has_stay_in_the_socket() -> None:
    one, other = socket.socketpair()
    near, far = Channel(one, "one", idle_s=5), Channel(other, "other", idle_s=5)
    with near, far:
        near.send([bytes(8192), b"next"])
        receive_pages(far, pieces(np.ones(8192, np.uint8), 4096, (0, 2)), FOREVER)
        rest = bytearray(10)

        assert far.receive_into(memoryview(rest)) == 4
        assert rest[:4] == b"next"


def test_bytes_that_are_no_pages_arrive_whole() -> None:
    data, target = random_bytes(300_001).tobytes(), bytearray(300_001)
    near, far = channel_pair(idle_s=10)
    with near, far:
        sender = threading.Thread(target=lambda: near.send([data]))
        sender.start()
        receive_bytes(far, memoryview(target), FOREVER)
        sender.join()

    assert bytes(target) == data


def test_bytes_that_are_no_pages_end_early_with_the_peer() -> None:
    near, far = channel_pair(idle_s=10)
    with far:
        near.send([b"few"])
        near.close()

        with pytest.raises(PeerClosedError, match="the peer closed the connection"):
            receive_bytes(far, memoryview(bytearray(200_000)), FOREVER)
