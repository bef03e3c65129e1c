"""A destination that waits for its source: other peers cost it little and hold up none."""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tagalong import wire
from tagalong.errors import HostError, MigrationCancelledError, TagalongError
from tagalong.machine import RunState
from tagalong.migrate import (
    Listener,
    MigrationOptions,
    TcpAddress,
    Timeouts,
    TlsCredentials,
    UnixAddress,
    connect,
    listen,
    migrate_to,
    receive_from,
)
from tagalong.migrate.transport import refusals
from tagalong.migrate.transport.listener import MAX_PENDING
from tests.support.caller import call, greeting, ring_off, said
from tests.support.certificates import Authority
from tests.support.fake_machine import FakeMachine, contents, describe

ANY = TcpAddress("127.0.0.1", 0)
TIMEOUTS = Timeouts(farewell_s=0.3)
HURRIED = Timeouts(idle_s=0.4, farewell_s=0.3)


class Destination:
    """Waits for a VM in a thread; remembers whom it turned away."""

    def __init__(self, listener: Listener, timeouts: Timeouts) -> None:
        self.address = listener.address
        self.arrived: list[FakeMachine] = []
        self.error: TagalongError | None = None
        self._listener = listener
        self._timeouts = timeouts
        self.cancel = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            arrival = receive_from(
                self._listener, FakeMachine, timeouts=self._timeouts, cancel=self.cancel
            )
        except TagalongError as error:
            self.error = error
        else:
            assert isinstance(arrival.machine, FakeMachine)
            self.arrived.append(arrival.machine)

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), "the destination hangs"

    def close(self) -> None:
        if self._thread.is_alive():
            ring_off(self.address)
        self.join()
        self._listener.close()
        for machine in self.arrived:
            machine.close()


@pytest.fixture
def refused() -> list[HostError]:
    return []


@pytest.fixture
def start(refused: list[HostError]) -> Iterator[Callable[..., Destination]]:
    started: list[Destination] = []

    def begin(
        timeouts: Timeouts = TIMEOUTS, address: object = ANY, tls: TlsCredentials | None = None
    ) -> Destination:
        listener = listen(address, tls=tls, refused=refused.append)  # type: ignore[arg-type]
        started.append(Destination(listener, timeouts))
        return started[-1]

    yield begin
    for destination in started:
        destination.close()


Start = Callable[..., Destination]


def wait_for(condition: Callable[[], object], patience_s: float = 60.0) -> None:
    deadline = time.monotonic() + patience_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def assert_moves_to(destination: Destination, tls: TlsCredentials | None = None) -> None:
    source = FakeMachine(describe(0x40_0000))
    source.memory.regions[0].raw_data[:0x8000] = 0x5A
    source.memory.regions[0].raw_tags[:0x400] = 0x37
    source.resume()
    options = MigrationOptions(verify=True, timeouts=TIMEOUTS, tls=tls)

    report = migrate_to(str(destination.address), source, options)

    destination.join()
    assert report.verified
    assert contents(destination.arrived[0]) == contents(source)
    assert source.run_state is RunState.PAUSED
    source.close()


OTHER_VERSION = b"TAGALONG" + struct.pack("<II", 9, 0) + greeting()[16:]
CHANNEL_OF_NOBODY = said(
    wire.ChannelRecord(bytes(16), 1),
    joining=wire.Joining(
        bytes(16),
        wire.MachineRecord(4096, 1, 3, (wire.RegionEntry(0, 4096),)),
        features=0,
        rounds=0,
    ),
)

STRAYS = {
    b"GET / HTTP/1.1\r\n\r\n": "does not start a tagalong stream",
    bytes(range(256)) * 4096: "does not start a tagalong stream",
    b"": "the peer closed the connection before it sent anything",
    greeting()[:20]: "the stream ends in START, 0x4 bytes into a record",
    OTHER_VERSION: "version 0x9",
    CHANNEL_OF_NOBODY: "no migration is under way",
    said(wire.Abort(wire.AbortReason.CANCELLED, "wrong number")): "migration (CANCELLED): wrong",
    greeting()[:16] + bytes(64): "0x0 is not a record type",
}


@pytest.mark.parametrize("said_first", STRAYS, ids=lambda said: STRAYS[said].replace(" ", "-"))
def test_peer_that_is_no_source_is_rejected_and_the_source_accepted(
    start: Start, refused: list[HostError], said_first: bytes
) -> None:
    destination = start()
    with suppress(ConnectionError), call(destination.address) as peer:
        name = f"127.0.0.1:{peer.getsockname()[1]}"
        peer.sendall(said_first)
    wait_for(lambda: refused)

    assert STRAYS[said_first] in str(refused[0])
    assert str(refused[0]).startswith(f"{destination.address} (from {name}): ")
    assert_moves_to(destination)


def test_peer_that_resets_is_rejected(start: Start, refused: list[HostError]) -> None:
    destination = start()
    with call(destination.address) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: refused)

    assert "reset by peer" in str(refused[0])
    assert_moves_to(destination)


def test_peers_that_reset_at_any_moment_end_no_wait_with_or_without_tls(
    start: Start, refused: list[HostError], tmp_path: Path
) -> None:
    tls = TlsCredentials(Authority(tmp_path).folder)
    # A byte and a reset before the destination looks: TLS then cannot even begin.
    starts = (b"", b"\x16", b"\x16\x03\x01", b"T", greeting()[:40], b"GET / HTTP/1.1\r\n")
    for credentials in (tls, None):
        destination = start(tls=credentials)
        for said_first in starts * 4:
            with suppress(OSError), call(destination.address) as peer:
                peer.sendall(said_first)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert_moves_to(destination, credentials)

    assert refused


def test_silent_peer_holds_up_no_source(start: Start) -> None:
    destination = start()
    with call(destination.address):
        began = time.monotonic()
        assert_moves_to(destination)

    assert time.monotonic() - began < TIMEOUTS.idle_s / 2


def test_silent_peer_is_rejected_in_time(start: Start, refused: list[HostError]) -> None:
    destination = start(HURRIED)
    with call(destination.address) as peer:
        wait_for(lambda: refused)
        assert heard(peer).text == "no HELLO came in time"

    assert "no HELLO came in time" in str(refused[0])


def test_peer_that_dribbles_is_rejected_in_time(start: Start, refused: list[HostError]) -> None:
    destination = start(HURRIED)
    sent = 0
    with suppress(OSError), call(destination.address) as peer:
        for byte in greeting():
            peer.sendall(bytes([byte]))
            sent += 1
            time.sleep(HURRIED.idle_s / 8)
            if refused:
                break

    assert "no HELLO came in time" in str(refused[0])
    assert sent < len(greeting())


def test_rejected_peer_hears_why(start: Start) -> None:
    with call(start().address) as peer:
        peer.sendall(OTHER_VERSION)

        assert "version 0x9" in heard(peer).text


def heard(peer: socket.socket) -> wire.Abort:
    """Return the ABORT that a destination sends to who has sent nothing that it could take."""
    connection = wire.Connection(wire.Role.SOURCE)
    while isinstance(record := connection.next_record(), wire.NeedData):
        connection.receive_data(peer.recv(4096))
    assert isinstance(record, wire.Abort)
    return record


def test_many_silent_peers_take_few_places_and_no_threads_and_the_source_is_accepted(
    start: Start, refused: list[HostError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_PERIOD_S", 0.2)
    destination = start()
    others = set(threading.enumerate())
    count = 3 * MAX_PENDING
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(call(destination.address))
        wait_for(lambda: accepted(destination) >= MAX_PENDING)

        assert len(set(threading.enumerate()) - others) <= 1  # the lab may have begun one
        began = time.monotonic()
        assert_moves_to(destination)
        assert time.monotonic() - began < TIMEOUTS.idle_s / 2
        assert accepted(destination) <= MAX_PENDING

    wait_for(lambda: rejected(refused) >= count - MAX_PENDING)
    assert "no HELLO yet, and too many others connect" in str(refused[0])


def rejected(refused: list[HostError]) -> int:
    """Return how many peers were rejected, summed up or not."""
    said = " ".join(map(str, refused))
    return len(refused) + sum(int(n) - 1 for n in re.findall(r"(\d+) more connections in", said))


def accepted(destination: Destination) -> int:
    """Return how many connections of the destination are accepted and open (proc_net_tcp(5)).

    Those that wait in the backlog, and those that were closed, have no inode.
    """
    port = f":{destination.address.port:04X}"  # type: ignore[union-attr]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(port) and row[3] != "0A" and row[9] != "0" for row in rows)


def test_flood_of_peers_does_not_keep_the_source_out(start: Start) -> None:
    destination = start()
    is_over = threading.Event()

    def flood() -> None:
        while not is_over.is_set():
            with suppress(OSError), call(destination.address, timeout_s=0.3) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\n\r\n")

    floods = [threading.Thread(target=flood) for _ in range(4)]
    for thread in floods:
        thread.start()
    try:
        assert_moves_to(destination)
    finally:
        is_over.set()
        for thread in floods:
            thread.join()


def test_first_hello_counts_and_others_hear_so(start: Start) -> None:
    destination = start()
    with call(destination.address) as other:
        other.sendall(greeting()[:-1])
        assert_moves_to(destination)

        assert heard(other).text == "another source was faster: its migration has begun"


def test_migration_that_has_begun_and_fails_ends_the_wait(
    start: Start, refused: list[HostError]
) -> None:
    destination = start()
    with call(destination.address) as source:
        source.sendall(greeting())
        assert len(source.recv(4096)) == len(greeting())
    destination.join()

    assert destination.error is not None
    assert "the stream ends in AGREED" in str(destination.error)
    assert not refused


def test_wait_that_is_cancelled_ends(start: Start, refused: list[HostError]) -> None:
    destination = start()
    with call(destination.address) as peer:
        peer.sendall(greeting()[:1])
        with call(destination.address) as later:  # heard after the one before
            later.sendall(b"rubbish" * 3)
            wait_for(lambda: refused)
        destination.cancel.set()
        destination.join()
        assert heard(peer).text == "the destination does not wait for a source any more"

    assert isinstance(destination.error, MigrationCancelledError)


def test_silent_peers_at_a_unix_socket_hold_up_no_source(start: Start, tmp_path: Path) -> None:
    destination = start(address=UnixAddress(tmp_path / "in"))
    with call(destination.address), call(destination.address) as noisy:
        noisy.sendall(b"rubbish" * 100)
        assert_moves_to(destination)


def test_peer_that_tls_accepts_but_is_no_source_is_rejected(
    start: Start, refused: list[HostError], tmp_path: Path
) -> None:
    tls = TlsCredentials(Authority(tmp_path).folder)
    destination = start(tls=tls)
    with connect(destination.address, timeout_s=3, idle_s=3, tls=tls) as silent:
        with connect(destination.address, timeout_s=3, idle_s=3, tls=tls) as noisy:
            noisy.send([b"GET / HTTP/1.1\r\n\r\n"])
            wait_for(lambda: refused)
        assert_moves_to(destination, tls)
        assert not silent.is_closed

    assert "does not start a tagalong stream" in str(refused[0])


def test_many_without_tls_do_not_keep_the_source_out(start: Start, tmp_path: Path) -> None:
    tls = TlsCredentials(Authority(tmp_path).folder)
    destination = start(tls=tls)
    with ExitStack() as stack:
        for _ in range(2 * MAX_PENDING):
            stack.enter_context(call(destination.address))
        began = time.monotonic()
        assert_moves_to(destination, tls)

    assert time.monotonic() - began < TIMEOUTS.idle_s / 2
