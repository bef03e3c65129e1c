"""Looking up a host: neither a slow name server nor a wrong name holds up who asked."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tagalong.errors import HostError, MigrationCancelledError, MigrationError
from tagalong.migrate import MigrationOptions, TcpAddress, Timeouts, migrate_to
from tagalong.migrate.transport.channel import never
from tagalong.migrate.transport.resolver import resolve_in_time
from tests.support.fake_machine import FakeMachine, describe

SOON_S = 60.0


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set once a lookup has begun; no lookup ends before the test does."""
    began, is_over = threading.Event(), threading.Event()

    def wait(*_: object, **__: object) -> None:
        began.set()
        is_over.wait(2 * SOON_S)
        raise OSError("the test is over")

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    yield began
    is_over.set()


def test_lookup_gives_families_and_addresses() -> None:
    found = resolve_in_time(TcpAddress("127.0.0.1", 7), time.monotonic() + SOON_S, never)

    assert found == [(socket.AF_INET, ("127.0.0.1", 7))]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%lo"])
def test_lookup_of_a_numeric_address_starts_no_thread(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise AssertionError(thread.name)

    monkeypatch.setattr(threading.Thread, "start", refuse)

    ((_, where),) = resolve_in_time(TcpAddress(host, 7), time.monotonic() + SOON_S, never)

    assert isinstance(where, tuple)
    assert where[1] == 7


def test_lookup_of_an_impossible_name_raises() -> None:
    with pytest.raises(HostError, match=r"tcp:a\.\.b:7: cannot find the host: "):
        resolve_in_time(TcpAddress("a..b", 7), time.monotonic() + SOON_S, never)


def test_lookup_that_takes_too_long_raises(looked_up: threading.Event) -> None:
    with pytest.raises(HostError, match="no name server has answered in time"):
        resolve_in_time(TcpAddress("a.test", 7), time.monotonic() + 0.2, never)

    assert looked_up.is_set()


def test_cancel_while_the_host_is_looked_up_ends_the_migration(looked_up: threading.Event) -> None:
    machine = FakeMachine(describe(0x40_0000))
    began = time.monotonic()
    options = MigrationOptions(timeouts=Timeouts(connect_s=200.0))

    with pytest.raises(MigrationCancelledError):
        migrate_to("tcp:a.test:7", machine, options, cancel=looked_up)

    assert time.monotonic() - began < SOON_S
    machine.close()


def test_migration_to_a_host_that_is_not_found_in_time_says_so(looked_up: threading.Event) -> None:
    machine = FakeMachine(describe(0x40_0000))
    options = MigrationOptions(timeouts=Timeouts(connect_s=0.2))

    with pytest.raises(MigrationError, match=r"did not begin: tcp:a\.test:7: cannot find the host"):
        migrate_to("tcp:a.test:7", machine, options)

    assert looked_up.is_set()
    machine.close()
