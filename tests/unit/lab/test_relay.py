"""Bytes between sockets, callbacks and an input: all of them, in order, without a deadlock."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tagalong.lab.relay import Relay

MIB = 1 << 20
TIMEOUT_S = 60


@pytest.fixture
def relay() -> Iterator[Relay]:
    relay = Relay()
    yield relay
    relay.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def carry_to_the_end(relay: Relay) -> None:
    while not relay.is_over:
        assert relay.turn(TIMEOUT_S), f"nothing happened for {TIMEOUT_S} seconds"


def test_output_goes_to_its_sink_until_the_peer_closes(
    relay: Relay, pair: tuple[socket.socket, socket.socket]
) -> None:
    heard: list[bytes] = []
    relay.add_output(pair[0], heard.append)

    pair[1].sendall(b"one")
    assert relay.turn(TIMEOUT_S)
    pair[1].sendall(b"two")
    pair[1].close()
    carry_to_the_end(relay)

    assert heard == [b"one", b"two"]


def test_turn_with_nothing_to_do_says_so_when_the_time_is_over(
    relay: Relay, pair: tuple[socket.socket, socket.socket]
) -> None:
    relay.add_output(pair[0], lambda _: None)

    assert not relay.turn(0.01)
    assert not relay.turn(-1)
    assert not relay.is_over


def test_input_from_a_file_arrives_whole_and_with_its_end(
    relay: Relay, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    data = os.urandom(MIB)
    file = tmp_path / "input"
    file.write_bytes(data)
    echoed, received = bytearray(), bytearray()

    def echo() -> None:
        while chunk := pair[1].recv(4096):
            received.extend(chunk)
            pair[1].sendall(chunk)
        pair[1].close()

    peer = threading.Thread(target=echo)
    peer.start()
    with file.open("rb") as source:
        relay.add_output(pair[0], echoed.extend)
        relay.add_input(source.fileno(), pair[0])
        carry_to_the_end(relay)
    peer.join(TIMEOUT_S)

    assert received == data
    assert echoed == data


def test_input_whose_peer_is_gone_is_dropped(
    relay: Relay, pair: tuple[socket.socket, socket.socket]
) -> None:
    read_end, write_end = os.pipe()
    relay.add_output(pair[0], lambda _: None)
    relay.add_input(read_end, pair[0])
    pair[1].close()
    os.write(write_end, b"too late")

    carry_to_the_end(relay)
    turns = 0
    while relay.turn(0.01):
        turns += 1
        assert turns < 10, "the relay never comes to rest"
    os.write(write_end, b"and more")

    assert not relay.turn(0.01)
    assert os.read(read_end, 100) == b"and more"
    os.close(read_end)
    os.close(write_end)


def test_escape_on_a_terminal_interrupts_and_on_a_pipe_is_a_byte(
    relay: Relay, pair: tuple[socket.socket, socket.socket]
) -> None:
    person, terminal = os.openpty()
    relay.add_input(terminal, pair[0])
    os.write(person, b"\x1d\n")

    with pytest.raises(KeyboardInterrupt):
        relay.turn(TIMEOUT_S)

    read_end, write_end = os.pipe()
    other = Relay()
    other.add_input(read_end, pair[0])
    os.write(write_end, b"\x1d")
    assert other.turn(TIMEOUT_S)
    assert other.turn(TIMEOUT_S)
    other.close()
    assert pair[1].recv(10) == b"\x1d"
    for descriptor in (person, terminal, read_end, write_end):
        os.close(descriptor)
