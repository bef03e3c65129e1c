"""TLS: who is let in, who is not, and that nothing leaves after a send that failed."""

import contextlib
import gc
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tagalong.errors import (
    AuthenticationError,
    HostError,
    MigrationError,
    TagalongError,
    UsageError,
)
from tagalong.migrate import (
    Channel,
    MigrationOptions,
    TcpAddress,
    TlsCredentials,
    UnixAddress,
    connect,
    listen,
    migrate_to,
    parse_address,
    receive_from,
)
from tagalong.migrate.transport.tls import Handshake, TlsRole
from tests.support.certificates import Authority
from tests.support.fake_machine import FakeMachine, contents, describe
from tests.support.migration import PATIENT

ANY = TcpAddress("127.0.0.1", 0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def ours(authority: Authority) -> TlsCredentials:
    return TlsCredentials(authority.folder)


class TlsDestination:
    """A destination that accepts one peer in a thread, and remembers whom it refused."""

    def __init__(self, tls: TlsCredentials | None, address: object = ANY) -> None:
        self.refused: list[HostError] = []
        self.channels: list[Channel] = []
        self.listener = listen(address, tls=tls, refused=self.refused.append)  # type: ignore[arg-type]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(HostError, StopIteration):
            self.channels.append(self.listener.accept(idle_s=2, interrupt=self._look_up))

    def _look_up(self) -> None:
        if self._stop.is_set():
            raise StopIteration

    def __enter__(self) -> "TlsDestination":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self.listener.close()
        for channel in self.channels:
            channel.close()

    def wait(self) -> Channel:
        self._thread.join(60)
        return self.channels[0]

    def wait_for_refusal(self) -> HostError:
        for _ in range(3000):
            if self.refused:
                break
            time.sleep(0.02)
        return self.refused[0]


def reach(destination: TlsDestination, tls: TlsCredentials | None) -> Channel:
    return connect(destination.listener.address, timeout_s=3, idle_s=3, tls=tls)


@contextlib.contextmanager
def connected(ours: TlsCredentials, idle_s: float = 2) -> Iterator[tuple[Channel, Channel]]:
    with TlsDestination(ours) as destination, reach(destination, ours) as near:
        near.idle_s = idle_s
        yield near, destination.wait()


def test_channel_carries_bytes_both_ways(ours: TlsCredentials) -> None:
    content = bytes(range(256)) * 20_000
    received = bytearray()
    with connected(ours) as (near, far):

        def drain() -> None:
            target = memoryview(bytearray(1 << 20))
            while count := far.receive_into(target):
                received.extend(target[:count])

        thread = threading.Thread(target=drain)
        thread.start()
        near.send([content[:3], b"", content[3:]])
        far.send([b"back"])
        target = bytearray(10)
        assert near.receive_into(memoryview(target)) == 4
        near.finish(time.monotonic() + 0.1)
        near.close()
        thread.join(60)

    assert received == content
    assert near.incoming_path is not None


def test_migration_over_tls_arrives_verified(ours: TlsCredentials) -> None:
    source = FakeMachine(describe(0x40_0000))
    source.memory.regions[0].raw_data[:0x8000] = 0x5A
    source.memory.regions[0].raw_tags[:0x400] = 0x37
    source.resume()
    with listen(ANY, tls=ours) as listener:
        arrived: list[FakeMachine] = []

        def receive() -> None:
            machine = receive_from(listener, FakeMachine, timeouts=PATIENT).machine
            assert isinstance(machine, FakeMachine)
            arrived.append(machine)

        thread = threading.Thread(target=receive)
        thread.start()
        options = MigrationOptions(verify=True, tls=ours, timeouts=PATIENT)
        report = migrate_to(str(listener.address), source, options)
        thread.join(60)

    assert report.verified
    assert contents(arrived[0]) == contents(source)
    for machine in (source, arrived[0]):
        machine.close()


def test_is_readable_is_not_fooled_by_what_tls_says_for_itself(ours: TlsCredentials) -> None:
    with connected(ours) as (near, far):
        assert not near.is_readable()
        assert not far.is_readable()
        far.send([b"xyz"])
        for _ in range(3000):
            if near.is_readable():
                break
            time.sleep(0.01)
        assert near.is_readable()
        first, rest = bytearray(1), bytearray(9)
        assert near.receive_into(memoryview(first)) == 1
        assert near.is_readable()
        assert near.receive_into(memoryview(rest)) == 2
        assert (first + rest)[:3] == b"xyz"


def test_peer_without_a_certificate_is_rejected_and_the_next_one_accepted(
    authority: Authority, ours: TlsCredentials
) -> None:
    context = ssl.create_default_context(cafile=str(authority.folder / "ca-cert.pem"))
    with TlsDestination(ours) as destination:
        assert isinstance(destination.listener.address, TcpAddress)
        port = destination.listener.address.port
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            contextlib.suppress(ssl.SSLError),
            context.wrap_socket(plain, server_hostname="127.0.0.1") as peer,
        ):
            peer.recv(1)
        error = destination.wait_for_refusal()
        with reach(destination, ours):
            destination.wait()

    assert isinstance(error, AuthenticationError)
    assert "peer did not return a certificate" in str(error)


def test_peer_without_tls_is_rejected_and_the_next_one_accepted(ours: TlsCredentials) -> None:
    with TlsDestination(ours) as destination:
        with reach(destination, None) as plain:
            plain.send([b"TAGALONG" + bytes(100)])
            error = destination.wait_for_refusal()
        with reach(destination, ours):
            destination.wait()

    assert isinstance(error, AuthenticationError)
    assert "no TLS 1.3 with the peer" in str(error)
    assert "give both ends certificates (--tls-dir)" in str(error)


def test_silent_peers_do_not_hold_up_the_awaited_one(ours: TlsCredentials) -> None:
    with TlsDestination(ours) as destination, contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(reach(destination, None))
        time.sleep(0.1)
        began = time.monotonic()
        with reach(destination, ours):
            destination.wait()

    assert time.monotonic() - began < 15  # one after the other, they would take 20 s


def test_source_without_tls_hears_what_it_lacks(ours: TlsCredentials) -> None:
    source = FakeMachine()
    source.resume()
    with TlsDestination(ours) as destination:
        with pytest.raises(MigrationError, match=r"this destination speaks TLS: give the source"):
            migrate_to(
                str(destination.listener.address), source, MigrationOptions(timeouts=PATIENT)
            )
        assert "no TLS 1.3 with the peer" in str(destination.wait_for_refusal())
    source.close()


def test_peer_of_another_authority_is_not_trusted_by_either(
    ours: TlsCredentials, tmp_path: Path
) -> None:
    theirs = TlsCredentials(Authority(tmp_path).folder)
    with (
        TlsDestination(theirs) as destination,
        pytest.raises(AuthenticationError, match=r"the peer is not trusted: .*certificate"),
    ):
        reach(destination, ours)


def test_client_of_another_authority_hears_that_it_is_not_accepted(
    authority: Authority, tmp_path: Path
) -> None:
    mixed = Authority(tmp_path)
    (tmp_path / "ca-cert.pem").write_bytes((authority.folder / "ca-cert.pem").read_bytes())
    with (
        TlsDestination(TlsCredentials(authority.folder)) as destination,
        reach(destination, TlsCredentials(mixed.folder)) as near,
        pytest.raises(AuthenticationError, match=r"do not accept each other: .*unknown ca"),
    ):
        near.receive_into(memoryview(bytearray(1)))


def test_source_of_another_authority_hears_that_it_is_not_accepted(
    authority: Authority, ours: TlsCredentials, tmp_path: Path
) -> None:
    mixed = Authority(tmp_path)
    (tmp_path / "ca-cert.pem").write_bytes((authority.folder / "ca-cert.pem").read_bytes())
    source = FakeMachine()
    source.resume()
    with TlsDestination(ours) as destination:
        # Its HELLO comes with its certificate, and is never read.
        options = MigrationOptions(tls=TlsCredentials(mixed.folder), timeouts=PATIENT)
        with pytest.raises(MigrationError, match=r"do not accept each other: .*unknown ca"):
            migrate_to(str(destination.listener.address), source, options)
    source.close()


def test_server_that_is_another_host_is_not_trusted(tmp_path: Path) -> None:
    tls = TlsCredentials(Authority(tmp_path, host="other.example").folder)

    with (
        TlsDestination(tls) as destination,
        pytest.raises(AuthenticationError, match=r"not trusted: .*127\.0\.0\.1"),
    ):
        reach(destination, tls)


def test_server_may_prove_another_name_if_that_is_asked_for(tmp_path: Path) -> None:
    tls = TlsCredentials(Authority(tmp_path, host="other.example").folder, "other.example")

    with TlsDestination(tls) as destination, reach(destination, tls):
        assert destination.wait()


def test_unix_socket_needs_the_name_that_the_server_must_prove(
    ours: TlsCredentials, tmp_path: Path
) -> None:
    with TlsDestination(ours, UnixAddress(tmp_path / "in")) as destination:
        with pytest.raises(UsageError, match="TLS needs the name of the host that must answer"):
            reach(destination, ours)
        with reach(destination, TlsCredentials(ours.folder, "127.0.0.1")):
            assert destination.wait()


def test_client_that_is_not_on_the_list_is_rejected_with_the_reason(
    ours: TlsCredentials,
) -> None:
    strict = TlsCredentials(ours.folder, admitted=("somebody.else",))
    source = FakeMachine()
    source.resume()
    with TlsDestination(strict) as destination:
        options = MigrationOptions(tls=ours, timeouts=PATIENT)
        with pytest.raises(MigrationError, match=r"client source\.example is not admitted"):
            migrate_to(str(destination.listener.address), source, options)
        assert "client source.example is not admitted" in str(destination.wait_for_refusal())
        assert not destination.channels
    source.close()


def test_client_that_is_on_the_list_is_accepted(ours: TlsCredentials) -> None:
    strict = TlsCredentials(ours.folder, admitted=("source.example",))

    with TlsDestination(strict) as destination, reach(destination, ours):
        assert destination.wait()


def test_older_tls_is_refused(authority: Authority, ours: TlsCredentials) -> None:
    context = ours.context(TlsRole.CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    del authority
    with TlsDestination(ours) as destination:
        assert isinstance(destination.listener.address, TcpAddress)
        port = destination.listener.address.port
        with (
            socket.create_connection(("127.0.0.1", port)) as sock,
            pytest.raises(ssl.SSLError),
            context.wrap_socket(sock, server_hostname="127.0.0.1"),
        ):
            pass
        assert "unsupported protocol" in str(destination.wait_for_refusal())


@pytest.mark.parametrize("name", ["ca-cert.pem", "server-cert.pem", "server-key.pem"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = Authority(tmp_path).folder
    (folder / name).unlink()

    with pytest.raises(HostError, match=f"{name}: cannot be read for TLS: No such file"):
        listen(ANY, tls=TlsCredentials(folder))


@pytest.mark.parametrize("name", ["ca-cert.pem", "server-cert.pem"])
def test_file_that_is_no_certificate_is_named(tmp_path: Path, name: str) -> None:
    folder = Authority(tmp_path).folder
    (folder / name).write_text("rubbish")

    with pytest.raises(HostError, match=f"{name}: cannot be used for TLS"):
        listen(ANY, tls=TlsCredentials(folder))


@pytest.mark.parametrize("uri", ["file:/tmp/vm", "exec:cat", "fd:0"])
def test_tls_without_a_peer_to_authenticate_is_refused(ours: TlsCredentials, uri: str) -> None:
    with pytest.raises(UsageError, match="TLS needs a listener"):
        listen(parse_address(uri), tls=ours)


def test_listener_without_its_certificates_leaves_no_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "in"

    with pytest.raises(HostError, match="cannot be read for TLS"):
        listen(parse_address(f"unix:{path}"), tls=TlsCredentials(tmp_path / "none"))

    assert not path.exists()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_peer_that_reset_before_its_handshake_leaves_no_open_socket(ours: TlsCredentials) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as peer:
            accepted, _ = server.accept()
            peer.sendall(b"\x16")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset = select.poll()
        reset.register(accepted, 0)  # the peer's byte is not waited for, its reset is
        reset.poll()
        with pytest.raises(OSError, match="not connected"):
            accepted.getpeername()  # what the ssl module asks
        shake = Handshake(
            accepted, ours, ours.context(TlsRole.SERVER), server_name=None, name="peer"
        )

    with pytest.raises(HostError, match="the TLS handshake broke off"):
        shake.step()
    shake.close()
    del shake, accepted
    gc.collect()


def test_name_that_no_host_has_closes_the_socket(ours: TlsCredentials) -> None:
    near, far = socket.socketpair()
    with far, pytest.raises(HostError, match="cannot begin TLS"):
        Handshake(near, ours, ours.context(TlsRole.CLIENT), server_name="a" * 64, name="peer")

    assert near.fileno() == -1


def test_failed_send_lets_nothing_out_later(ours: TlsCredentials) -> None:
    """OpenSSL holds back what it has encrypted; no later call may set it free."""
    with connected(ours, idle_s=0.3) as (near, far):
        with pytest.raises(HostError, match="the peer took nothing"):
            near.send([bytes(64 << 20), b"COMMIT"])
        assert near.is_mid_record
        received = bytearray()

        def drain() -> None:
            target = memoryview(bytearray(1 << 20))
            with contextlib.suppress(TagalongError):
                while count := far.receive_into(target):
                    received.extend(target[:count])

        thread = threading.Thread(target=drain)
        thread.start()
        near.finish(time.monotonic() + 0.5)
        near.close()
        thread.join(60)

    assert b"COMMIT" not in received
    assert len(received) < 64 << 20
