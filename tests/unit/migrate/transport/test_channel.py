"""Channels: addresses, connecting, and the promise that no wait is without an end."""

import contextlib
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tagalong.errors import HostError, MigrationCancelledError, UsageError
from tagalong.migrate import (
    Channel,
    ExecAddress,
    FdAddress,
    FileAddress,
    TcpAddress,
    UnixAddress,
    connect,
    listen,
    parse_address,
)
from tests.support.migration import channel_pair


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    one, other = channel_pair(idle_s=0.3)
    with one, other:
        yield one, other


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("tcp:localhost:4444", TcpAddress("localhost", 4444)),
        ("tcp:192.0.2.7:0", TcpAddress("192.0.2.7", 0)),
        ("tcp:[::1]:65535", TcpAddress("::1", 65535)),
        ("unix:/run/in.sock", UnixAddress(Path("/run/in.sock"))),
        ("unix:relative:odd", UnixAddress(Path("relative:odd"))),
        ("fd:5", FdAddress("5")),
        ("fd:mig-0.a", FdAddress("mig-0.a")),
        ("exec:gzip -c > 'a b.gz'", ExecAddress("gzip -c > 'a b.gz'")),
        ("file:/srv/vm,1", FileAddress(Path("/srv/vm,1"))),
        ("file:/srv/vm,offset=0x1000", FileAddress(Path("/srv/vm"), 4096)),
    ],
)
def test_address_parsed_gives_its_uri_again(uri: str, address: object) -> None:
    assert parse_address(uri) == address
    assert str(parse_address(uri)) == uri


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "'' is not a migration address"),
        ("localhost:4444", "is not a migration address: it must be tcp:HOST:PORT"),
        ("exec: ", "is not a migration address"),
        ("fd:", "'fd:' names no descriptor: it must be fd:NUMBER or fd:NAME"),
        ("fd:-1", "'-1' cannot be a descriptor's name"),
        ("fd:a b", "'a b' cannot be a descriptor's name: it must begin with a letter"),
        ("fd:" + "n" * 65, "cannot be a descriptor's name"),
        ("fd:2147483648", "'2147483648' is not a valid descriptor"),
        ("file:", "is not a migration address"),
        ("file:,offset=1", "names no file"),
        ("file:a,offset=0x", "'0x' is not a valid offset"),
        ("file:a,offset=-1", "'-1' is not a valid offset"),
        (
            "file:a,offset=0xffffffffffffffff",
            "is not a valid offset, which is 0 to 9223372036854775807",
        ),
        ("unix:", "is not a migration address"),
        ("tcp::4444", "names no host"),
        ("tcp:4444", "names no host"),
        ("tcp:[]:4444", "names no host"),
        ("tcp:::1:4444", "put an IPv6 address in brackets"),
        ("tcp:host.example:", "'' is not a valid port, which is 0 to 65535"),
        ("tcp:host.example:65536", "'65536' is not a valid port"),
        ("tcp:host.example:-1", "'-1' is not a valid port"),
        ("tcp:host.example:http", "'http' is not a valid port"),
        ("tcp:host.example:\u0661", "is not a valid port"),
    ],
)
def test_address_that_is_none_is_refused(uri: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(uri)

    assert message in str(caught.value)


def test_address_that_is_no_text_or_has_a_nul_is_refused() -> None:
    wrong: list[Any] = [None, 7, b"file:/srv/vm", Path("/srv/vm"), "file:/srv/\0vm", "unix:\0"]
    for uri in wrong:
        with pytest.raises(UsageError) as caught:
            parse_address(uri)

        assert str(caught.value) == (
            f"{uri!r} is not a migration address: it must be a text without NUL"
        )


@pytest.mark.parametrize("uri", ["tcp:127.0.0.1:0", "tcp:[::1]:0", "unix:{folder}/in.sock"])
def test_listener_and_connect_carry_bytes_both_ways(uri: str, tmp_path: Path) -> None:
    with listen(parse_address(uri.format(folder=tmp_path))) as listener:
        near = connect(listener.address, timeout_s=60, idle_s=60)
        far = listener.accept(idle_s=60, timeout_s=60)

    with near, far:
        near.send([b"to ", b"", bytearray(b"the "), memoryview(b"far end")])
        target = bytearray(100)
        count = far.receive_into(memoryview(target))
        far.send([b"back"])
        back = near.receive_into(memoryview(bytearray(100)))

    assert target[:count] == b"to the far end"
    assert back == 4


def test_address_takes_an_offset_in_decimal_too() -> None:
    assert parse_address("file:vm,offset=4096") == FileAddress(Path("vm"), 4096)


def test_channel_sends_more_buffers_than_one_system_call_takes(
    pair: tuple[Channel, Channel],
) -> None:
    pair[0].send([bytes([number & 0xFF]) for number in range(3000)])

    target = memoryview(bytearray(4000))
    assert pair[1].receive_into(target) == 3000
    assert bytes(target[:3000]) == bytes(number & 0xFF for number in range(3000))


def test_listener_at_port_0_tells_its_real_port() -> None:
    with listen(TcpAddress("127.0.0.1", 0)) as listener:
        assert isinstance(listener.address, TcpAddress)
        assert listener.address.port > 0


def test_listener_at_a_unix_socket_is_the_owners_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"

    with listen(UnixAddress(path)) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.close()

    assert not path.exists()


def test_listener_at_a_path_in_use_raises_and_leaves_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    path.write_text("another file")

    with pytest.raises(HostError, match=r"cannot listen: .*in.sock exists and is not a"):
        listen(UnixAddress(path))

    assert path.read_text() == "another file"


def test_listener_at_a_path_where_another_listens_raises(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"

    with (
        listen(UnixAddress(path)),
        pytest.raises(HostError, match=r"cannot listen: another process listens on .*in.sock: end"),
    ):
        listen(UnixAddress(path))

    assert not path.exists()


def test_listener_replaces_the_socket_of_a_process_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    with listen(UnixAddress(path)) as listener, connect(listener.address, timeout_s=60, idle_s=60):
        listener.accept(idle_s=60).close()


def test_listener_without_a_peer_gives_up_in_time() -> None:
    with (
        listen(TcpAddress("127.0.0.1", 0)) as listener,
        pytest.raises(HostError, match=r"no peer connected in 0.1 s"),
    ):
        listener.accept(idle_s=1, timeout_s=0.1)


def test_connect_without_a_listener_raises(tmp_path: Path) -> None:
    with listen(TcpAddress("127.0.0.1", 0)) as listener:
        free = listener.address
    for address in (free, UnixAddress(tmp_path / "none")):
        with pytest.raises(HostError, match=r"cannot connect: .*; see whether a destination waits"):
            connect(address, timeout_s=60, idle_s=60)


def test_connect_to_a_host_that_does_not_exist_raises() -> None:
    with pytest.raises(HostError, match="cannot find the host"):
        connect(TcpAddress("no.such.host.invalid", 1), timeout_s=60, idle_s=60)


def test_receive_from_a_silent_peer_raises_in_time(pair: tuple[Channel, Channel]) -> None:
    began = time.monotonic()

    with pytest.raises(HostError, match=r"one: the peer sent nothing for 0\.\d s"):
        pair[0].receive_into(memoryview(bytearray(1)))

    assert 0.25 < time.monotonic() - began < 60


def test_receive_stops_at_the_deadline_though_idle_would_allow_more(
    pair: tuple[Channel, Channel],
) -> None:
    pair[0].idle_s = 60

    with pytest.raises(HostError, match="one: the peer sent too little, and its time is up"):
        pair[0].receive_into(memoryview(bytearray(1)), deadline=time.monotonic() + 0.1)


def test_send_to_a_peer_that_takes_nothing_raises_and_is_mid_record(
    pair: tuple[Channel, Channel],
) -> None:
    with pytest.raises(HostError, match=r"one: the peer took nothing for 0\.\d s"):
        pair[0].send([bytes(64 << 20)])

    assert pair[0].is_mid_record


def test_send_to_a_peer_that_left_raises_and_is_not_mid_record(
    pair: tuple[Channel, Channel],
) -> None:
    pair[1].close()

    with pytest.raises(HostError, match=r"one: cannot send: .*Broken pipe"):
        pair[0].send([b"x"])

    assert not pair[0].is_mid_record


def test_send_of_more_than_the_buffers_hold_arrives_whole(pair: tuple[Channel, Channel]) -> None:
    content = [bytes([number]) * 3_000_001 for number in range(4)]
    received = bytearray()

    def drain() -> None:
        target = memoryview(bytearray(1 << 20))
        while count := pair[1].receive_into(target):
            received.extend(target[:count])

    thread = threading.Thread(target=drain)
    thread.start()
    pair[0].send(content)
    pair[0].finish(time.monotonic() + 0.1)
    pair[0].close()
    thread.join(60)

    assert received == b"".join(content)


def test_receive_from_a_peer_that_left_gives_nothing(pair: tuple[Channel, Channel]) -> None:
    pair[1].close()

    assert pair[0].receive_into(memoryview(bytearray(1))) == 0


def test_receive_after_a_reset_raises() -> None:
    with listen(TcpAddress("127.0.0.1", 0)) as listener:
        assert isinstance(listener.address, TcpAddress)
        with socket.create_connection(("127.0.0.1", listener.address.port)) as peer:
            linger = b"\1\0\0\0\0\0\0\0"  # reset instead of an orderly end
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            channel = listener.accept(idle_s=60, timeout_s=60)
        with channel, pytest.raises(HostError, match=r"cannot receive: .*reset by peer"):
            channel.receive_into(memoryview(bytearray(1)))


def test_interrupt_ends_a_wait_early(pair: tuple[Channel, Channel]) -> None:
    began = time.monotonic()
    pair[0].idle_s = 60

    def interrupt() -> None:
        if time.monotonic() - began > 0.2:
            raise MigrationCancelledError("enough")

    pair[0].interrupt = interrupt
    with pytest.raises(MigrationCancelledError, match="enough"):
        pair[0].receive_into(memoryview(bytearray(1)))

    assert time.monotonic() - began < 60


def test_is_readable_tells_bytes_and_the_end(pair: tuple[Channel, Channel]) -> None:
    assert not pair[0].is_readable()
    pair[1].send([b"x"])
    assert pair[0].is_readable()
    assert pair[0].receive_into(memoryview(bytearray(9))) == 1
    pair[1].close()
    assert pair[0].is_readable()


def test_finish_lets_the_peer_hear_the_last_word() -> None:
    with listen(TcpAddress("127.0.0.1", 0)) as listener:
        near = connect(listener.address, timeout_s=60, idle_s=60)
        far = listener.accept(idle_s=60, timeout_s=60)
    with near, far:
        near.send([bytes(100_000)])  # never read: closing now would reset the connection
        far.send([b"last word"])
        closer = threading.Thread(target=far.finish, args=(time.monotonic() + 2,))
        closer.start()
        target = bytearray(100)
        count = near.receive_into(memoryview(target))
        near.close()
        closer.join(60)

    assert not closer.is_alive()
    assert target[:count] == b"last word"


def test_finish_ends_in_time_although_the_peer_never_stops(pair: tuple[Channel, Channel]) -> None:
    is_over = threading.Event()

    def flood() -> None:
        with contextlib.suppress(HostError):
            while not is_over.is_set():
                pair[1].send([bytes(1 << 16)])

    thread = threading.Thread(target=flood)
    thread.start()
    began = time.monotonic()
    pair[0].finish(began + 0.3)
    took_s = time.monotonic() - began
    is_over.set()
    pair[0].close()
    thread.join()

    assert took_s < 3
