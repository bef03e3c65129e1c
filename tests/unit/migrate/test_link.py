"""Links: waits with limits, the peer's ABORT as an error, and peers that misbehave."""

import threading
import time
from collections.abc import Iterator

import pytest

from tagalong.errors import (
    ConvergenceError,
    DigestMismatchError,
    HostError,
    MachineMismatchError,
    MigrationCancelledError,
    MigrationError,
    RemoteProtocolError,
    StateError,
)
from tagalong.migrate import Channel, Timeouts
from tagalong.migrate.link import Link, error_of, reason_of
from tagalong.wire import (
    Abort,
    AbortReason,
    Connection,
    Hello,
    KeepAlive,
    MachineRecord,
    Power,
    RegionEntry,
    Role,
    StateRecord,
    VcpuEntry,
)
from tests.support.migration import channel_pair
from tests.support.wire_session import MIGRATION_ID, joined

TIMEOUTS = Timeouts(idle_s=0.3, record_s=0.6, answer_s=1.0, farewell_s=0.3)
MACHINE = MachineRecord(4096, 1, 3, (RegionEntry(0, 4096),))


@pytest.fixture
def ends() -> Iterator[tuple[Link, Channel, Connection]]:
    """Return a source's link, and the destination as a bare channel and connection.

    Both have said HELLO, and the source has described its machine.
    """
    near, far = channel_pair(idle_s=0.3)
    link = Link(near, Connection(Role.SOURCE), TIMEOUTS)
    peer = Connection(Role.DESTINATION)
    with near, far:
        link.send(Hello(Role.SOURCE, MIGRATION_ID))
        hear(far, peer)
        far.send(peer.send(Hello(Role.DESTINATION, MIGRATION_ID)))
        link.expect(Hello)
        link.send(MACHINE)
        hear(far, peer)
        yield link, far, peer


def hear(channel: Channel, connection: Connection) -> object:
    target = bytearray(1000)
    count = channel.receive_into(memoryview(target))
    connection.receive_data(target[:count])
    return connection.next_record()


def test_receive_skips_keepalives(ends: tuple[Link, Channel, Connection]) -> None:
    link, far, peer = ends
    far.send(peer.send(KeepAlive()))
    far.send(peer.send(Abort(AbortReason.HOST, "no room")))

    with pytest.raises(MigrationError, match=r"the peer ended the migration \(HOST\): no room"):
        link.receive()

    assert link.was_aborted_by_peer


def test_receive_from_a_peer_that_only_keeps_alive_ends(
    ends: tuple[Link, Channel, Connection],
) -> None:
    link, far, peer = ends
    stop = threading.Event()

    def babble() -> None:
        while not stop.wait(0.1):
            far.send(peer.send(KeepAlive()))

    thread = threading.Thread(target=babble)
    thread.start()
    began = time.monotonic()
    try:
        with pytest.raises(HostError, match=r"sent too little|sent nothing|is too slow"):
            link.receive()
    finally:
        stop.set()
        thread.join(60)

    assert 0.8 < time.monotonic() - began < 60


def test_receive_from_a_peer_that_dribbles_ends(ends: tuple[Link, Channel, Connection]) -> None:
    link, far, peer = ends
    record = joined(peer.send(Abort(AbortReason.HOST, "x" * 1000)))
    stop = threading.Event()

    def dribble() -> None:
        for number in range(len(record)):
            if stop.wait(0.05):
                break
            far.send([record[number : number + 1]])

    thread = threading.Thread(target=dribble)
    thread.start()
    began = time.monotonic()
    try:
        with pytest.raises(HostError, match=r"sent too little|sent nothing|is too slow"):
            link.receive()
    finally:
        stop.set()
        thread.join(60)

    assert 0.4 < time.monotonic() - began < 60


def test_receive_from_a_peer_that_leaves_raises_with_the_offset(
    ends: tuple[Link, Channel, Connection],
) -> None:
    link, far, _ = ends
    far.close()

    with pytest.raises(RemoteProtocolError, match="DESCRIBED, between two records") as caught:
        link.receive()

    assert caught.value.offset == 16 + 64
    assert str(caught.value) == (
        "the destination is gone: it closed the connection (stream offset 0x50: the stream ends "
        "in DESCRIBED, between two records)"
    )


def test_receive_at_a_destination_whose_source_left_says_that_nothing_was_started() -> None:
    near, far = channel_pair(idle_s=0.3)
    link, source = Link(near, Connection(Role.DESTINATION), TIMEOUTS), Connection(Role.SOURCE)
    with near, far:
        far.send(source.send(Hello(Role.SOURCE, MIGRATION_ID)))
        link.expect(Hello)
        far.close()

        with pytest.raises(RemoteProtocolError) as caught:
            link.receive()

    assert str(caught.value).startswith(
        "the source is gone: it closed the connection; nothing was started here (stream offset "
    )


def test_receive_noise_raises_at_once(ends: tuple[Link, Channel, Connection]) -> None:
    link, far, _ = ends
    far.send([b"GET / HTTP/1.1\r\n\r\n"])

    with pytest.raises(RemoteProtocolError, match="0x4547 is not a record type"):
        link.receive()


def test_send_to_a_peer_that_aborted_raises_why(
    ends: tuple[Link, Channel, Connection],
) -> None:
    link, far, peer = ends
    far.send(peer.send(Abort(AbortReason.HOST, "out of memory")))
    far.close()

    with pytest.raises(MigrationError, match="out of memory"):
        link.send(KeepAlive())


def test_raise_abort_after_the_peer_has_left_raises_nothing(
    ends: tuple[Link, Channel, Connection],
) -> None:
    link, far, _ = ends
    far.close()
    with pytest.raises(RemoteProtocolError, match="between two records"):
        link.receive()

    link.raise_abort()

    assert link.is_lost
    assert not link.is_violated


def test_noise_marks_the_link_as_violated_and_not_as_lost(
    ends: tuple[Link, Channel, Connection],
) -> None:
    link, far, _ = ends
    far.send([b"GET / HTTP/1.1\r\n\r\n"])

    with pytest.raises(RemoteProtocolError):
        link.receive()

    assert link.is_violated
    assert not link.is_lost


def test_send_that_is_interrupted_sends_nothing_and_abort_still_follows(
    ends: tuple[Link, Channel, Connection],
) -> None:
    link, far, peer = ends
    cancel = threading.Event()
    link.cancel_with(cancel)
    cancel.set()

    with pytest.raises(MigrationCancelledError) as caught:
        link.send(KeepAlive())
    far.idle_s = 30.0
    aborting = threading.Thread(target=link.abort, args=(caught.value,))
    aborting.start()

    assert hear(far, peer) == Abort(AbortReason.CANCELLED, "the migration was cancelled")
    aborting.join(60)


def test_record_that_has_more_behind_it_leaves_with_the_next_one(
    ends: tuple[Link, Channel, Connection],
) -> None:
    link, far, peer = ends
    state = StateRecord((VcpuEntry(Power.ON, {}),))
    link.send(state, has_more=True)
    assert not far.is_readable()

    link.send(KeepAlive())

    assert hear(far, peer) == state
    assert peer.next_record() == KeepAlive()


def test_abort_follows_a_record_that_waited(ends: tuple[Link, Channel, Connection]) -> None:
    link, far, peer = ends
    state = StateRecord((VcpuEntry(Power.ON, {}),))
    link.send(state, has_more=True)
    far.idle_s = 30.0
    aborting = threading.Thread(target=link.abort, args=(HostError("no room"),))
    aborting.start()

    assert hear(far, peer) == state
    assert peer.next_record() == Abort(AbortReason.HOST, "no room")
    far.close()
    aborting.join(60)


def test_deadline_of_a_link_ends_every_wait(ends: tuple[Link, Channel, Connection]) -> None:
    link, far, peer = ends
    link.deadline = time.monotonic() - 1
    far.send(peer.send(KeepAlive()))

    with pytest.raises(HostError, match="the peer is too slow: its time is up"):
        link.receive()


def test_poll_peer_with_nothing_said_returns_at_once(
    ends: tuple[Link, Channel, Connection],
) -> None:
    link, far, peer = ends
    link._channel.idle_s = 60
    began = time.monotonic()
    link.poll_peer()
    far.send(peer.send(KeepAlive()))
    link.poll_peer()

    assert time.monotonic() - began < 30


def test_poll_peer_that_floods_returns_all_the_same(
    ends: tuple[Link, Channel, Connection],
) -> None:
    link, far, peer = ends
    for _ in range(150):
        far.send(peer.send(KeepAlive()))

    link.poll_peer()

    assert link._channel.is_readable()
    link.poll_peer()


def test_keep_alive_speaks_only_after_a_silence(ends: tuple[Link, Channel, Connection]) -> None:
    link, far, peer = ends
    link.keep_alive()
    assert not far.is_readable()
    link._last_sent -= 1.5

    link.keep_alive()

    assert hear(far, peer) == KeepAlive()


def test_abort_after_half_a_record_says_nothing_more(
    ends: tuple[Link, Channel, Connection],
) -> None:
    link, far, peer = ends
    link._channel.is_mid_record = True

    link.abort(MigrationCancelledError("enough"))

    assert far.receive_into(memoryview(bytearray(100))) == 0
    assert not link.was_aborted_by_peer
    del peer


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MachineMismatchError("x"), AbortReason.MACHINE_MISMATCH),
        (StateError("x"), AbortReason.STATE_REFUSED),
        (DigestMismatchError("x"), AbortReason.DIGEST_MISMATCH),
        (MigrationCancelledError("x"), AbortReason.CANCELLED),
        (ConvergenceError("x"), AbortReason.NOT_CONVERGED),
        (RemoteProtocolError("x", offset=0), AbortReason.PROTOCOL),
        (HostError("x"), AbortReason.HOST),
        (OSError("x"), AbortReason.HOST),
        (MemoryError("x"), AbortReason.HOST),
        (ZeroDivisionError("x"), AbortReason.INTERNAL),
        (KeyboardInterrupt(), AbortReason.INTERNAL),
    ],
)
def test_reason_of_an_error_is_the_one_in_abort(error: BaseException, reason: AbortReason) -> None:
    assert reason_of(error) is reason


@pytest.mark.parametrize("reason", list(AbortReason))
def test_error_of_an_abort_says_reason_and_text(reason: AbortReason) -> None:
    error = error_of(Abort(reason, "because"))

    assert str(error) == f"the peer ended the migration ({reason.name}): because"
    expected = {
        AbortReason.MACHINE_MISMATCH: MachineMismatchError,
        AbortReason.STATE_REFUSED: MachineMismatchError,
        AbortReason.DIGEST_MISMATCH: DigestMismatchError,
        AbortReason.CANCELLED: MigrationCancelledError,
        AbortReason.NOT_CONVERGED: ConvergenceError,
    }
    assert type(error) is expected.get(reason, MigrationError)
