"""Console output that never holds up the guest."""

import os
import re
import threading
import time
from collections.abc import Callable

from tagalong.vmm import console
from tagalong.vmm.console import QueuedWriter


def read_all(descriptor: int) -> tuple[threading.Thread, bytearray]:
    collected = bytearray()

    def run() -> None:
        while data := os.read(descriptor, 65536):
            collected.extend(data)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, collected


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_write_then_close_delivers_everything_in_order() -> None:
    reader, writer = os.pipe()
    thread, collected = read_all(reader)
    output = QueuedWriter(writer)

    for number in range(1000):
        output.write(b"%d\n" % number)
    output.close()
    os.close(writer)
    thread.join()
    os.close(reader)

    assert bytes(collected) == b"".join(b"%d\n" % number for number in range(1000))


def test_write_is_seen_without_close() -> None:
    reader, writer = os.pipe()
    output = QueuedWriter(writer)

    output.write(b"now")

    assert os.read(reader, 10) == b"now"
    output.close()
    os.close(writer)
    os.close(reader)


def test_write_to_a_stuck_reader_returns_and_says_what_it_dropped() -> None:
    reader, writer = os.pipe()
    output = QueuedWriter(writer)
    kibibyte = b"x" * 1024
    pieces = console.MAX_WAITING_BYTES // len(kibibyte) + 2000

    for _ in range(pieces):
        output.write(kibibyte)
    thread, collected = read_all(reader)
    until(lambda: not output._waiting)
    output.write(b"after")
    output.close()
    os.close(writer)
    thread.join()
    os.close(reader)

    notice = rb"\n\[tagalong: (\d+) bytes of console output dropped\]\n"
    dropped = sum(int(number) for number in re.findall(notice, collected))
    kept = re.sub(notice, b"", bytes(collected))
    assert dropped > 0
    assert kept == b"x" * (pieces * len(kibibyte) - dropped) + b"after"


def test_write_after_the_reader_went_is_no_error() -> None:
    reader, writer = os.pipe()
    output = QueuedWriter(writer)
    os.close(reader)

    output.write(b"lost")
    until(lambda: output.broken)
    output.write(b"lost too")
    output.close()

    os.close(writer)
    assert not output._waiting


def test_close_does_not_wait_for_ever_for_a_stuck_reader() -> None:
    reader, writer = os.pipe()
    output = QueuedWriter(writer)
    output.write(b"x" * 200_000)

    begin = time.monotonic()
    output.close(timeout_s=0.05)

    assert time.monotonic() - begin < 60
    os.close(reader)
    until(lambda: output.broken)
    os.close(writer)


def test_output_that_fails_is_said_once_and_the_writer_takes_what_comes() -> None:
    said: list[str] = []
    unwritable = os.open("/dev/null", os.O_RDONLY)
    output = QueuedWriter(unwritable, said.append)

    output.write(b"one")
    until(lambda: output.broken and bool(said))
    output.write(b"two")
    output.close()
    os.close(unwritable)

    assert said == [
        "cannot write the guest's console to standard output: Bad file descriptor; the VM runs on, "
        "and what it prints is dropped"
    ]


def test_reader_that_went_away_is_not_worth_a_message() -> None:
    said: list[str] = []
    reader, writer = os.pipe()
    os.close(reader)
    output = QueuedWriter(writer, said.append)

    output.write(b"one")
    until(lambda: output.broken)
    output.close()
    os.close(writer)

    assert said == []


def test_descriptor_that_does_not_block_delivers_everything() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    output = QueuedWriter(writer)
    output.write(bytes(300_000))
    thread, collected = read_all(reader)

    output.close(timeout_s=10)
    os.close(writer)
    thread.join()

    assert collected == bytes(300_000)


def test_close_says_what_was_dropped_if_nothing_came_after() -> None:
    reader, writer = os.pipe()
    output = QueuedWriter(writer, what="messages")

    output.write(bytes(console.MAX_WAITING_BYTES + 1))
    closed = output.close(timeout_s=10)
    os.close(writer)

    assert closed
    dropped = console.MAX_WAITING_BYTES + 1
    with open(reader, "rb") as stream:
        assert stream.read() == b"\n[tagalong: %d bytes of messages dropped]\n" % dropped


def test_close_with_a_stuck_reader_returns_that_bytes_wait() -> None:
    reader, writer = os.pipe()
    output = QueuedWriter(writer)
    output.write(bytes(200_000))

    assert not output.close(timeout_s=0.05)

    os.close(reader)
    until(lambda: output.broken)
    os.close(writer)
