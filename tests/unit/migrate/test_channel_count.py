"""How many connections a migration has if nobody names a number."""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tagalong import wire
from tagalong.errors import UsageError
from tagalong.migrate import MigrationOptions
from tagalong.migrate import channel_count as module
from tagalong.migrate.channel_count import count_to_ask_for, count_to_grant, link_speed_mbit
from tagalong.wire import RecordType, Role
from tests.support.fake_machine import FakeMachine, contents, describe
from tests.support.migration import PATIENT, Migration, Outcome, channel_pair

MIB = 1 << 20


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    """Return a machine of 64 MiB that uses 6, in two regions."""
    machine = FakeMachine(describe(48 * MIB, 16 * MIB))
    for region in machine.memory.regions:
        region.raw_data[: 3 * MIB] = np.random.default_rng(1).integers(0, 256, 3 * MIB, np.uint8)
    yield machine
    machine.close()


@pytest.fixture
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cpus", lambda: 64)


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a connection be worth its cost for each MiB in use."""
    monkeypatch.setattr(module, "_BYTES_EACH", MIB)


@pytest.fixture
def here() -> Iterator[socket.socket]:
    """Return a socket that is connected to this host."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
    ):
        yield sock


@pytest.mark.usefixtures("many_cpus")
def test_small_guest_has_one_connection(machine: FakeMachine, here: socket.socket) -> None:
    assert count_to_ask_for(machine, here) == 1


@pytest.mark.usefixtures("many_cpus", "small_shares")
def test_guest_has_a_connection_for_each_share_of_what_it_uses(
    machine: FakeMachine, here: socket.socket
) -> None:
    assert count_to_ask_for(machine, here) == 6


@pytest.mark.usefixtures("small_shares")
def test_guest_has_no_more_connections_than_its_host_has_processors(
    machine: FakeMachine, here: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cpus in (1, 2, 3):
        monkeypatch.setattr(module, "usable_cpus", partial(int, cpus))

        assert count_to_ask_for(machine, here) == count_to_grant() == cpus


@pytest.mark.usefixtures("many_cpus")
def test_many_processors_are_not_all_used() -> None:
    assert count_to_grant() == 8


def test_usable_processors_are_those_of_the_thread() -> None:
    assert module.usable_cpus() == len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("many_cpus", "small_shares")
def test_tags_alone_go_over_one_connection(here: socket.socket) -> None:
    machine = FakeMachine(replace(describe(48 * MIB), has_data=False))
    try:
        assert count_to_ask_for(machine, here) == 1
    finally:
        machine.close()


@pytest.mark.usefixtures("many_cpus", "small_shares")
def test_connection_within_the_host_by_a_unix_socket_counts_like_one_by_tcp(
    machine: FakeMachine,
) -> None:
    near, far = socket.socketpair()
    with near, far:
        assert count_to_ask_for(machine, near) == 6


@pytest.mark.parametrize(
    ("speed", "expected"),
    [("1000", 2), ("10000", 2), ("25000", 3), ("100000", 6), ("-1", 4), ("fast", 4), (None, 4)],
)
@pytest.mark.usefixtures("many_cpus", "small_shares")
def test_link_is_filled_and_no_more(
    machine: FakeMachine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    speed: str | None,
    expected: int,
) -> None:
    monkeypatch.setattr(module, "_INTERFACES", tmp_path)
    (tmp_path / "lo").mkdir()
    if speed is not None:
        (tmp_path / "lo" / "speed").write_text(f"{speed}\n")
    with socket.create_server(("127.0.0.2", 0)) as server, socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(server.getsockname())

        assert count_to_ask_for(machine, sock) == expected


@pytest.mark.usefixtures("many_cpus", "small_shares")
def test_connection_that_is_gone_is_the_only_one(machine: FakeMachine, here: socket.socket) -> None:
    here.close()

    assert count_to_ask_for(machine, here) == 1


def test_speed_of_a_link_is_found_by_an_address_of_either_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = tmp_path / "if_inet6"
    addresses.write_text(f"{'0' * 31}1 01 80 10 80       lo\nfe80{'0' * 27}7 02 40 20 80 eth9\n")
    monkeypatch.setattr(module, "_IPV6_ADDRESSES", addresses)
    monkeypatch.setattr(module, "_INTERFACES", tmp_path)
    for name, speed in (("lo", "400"), ("eth9", "200000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "speed").write_text(speed)

    found = [link_speed_mbit(it) for it in ("127.0.0.1", "::1", "fe80::7%eth9")]
    missing = [link_speed_mbit(it) for it in ("192.0.2.1", "2001:db8::1", "no address", "")]

    assert found == [400, 400, 200000]
    assert missing == [None] * 4


def test_host_without_ipv6_knows_no_speed_of_such_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IPV6_ADDRESSES", tmp_path / "none")

    assert link_speed_mbit("::1") is None


def _connections_of(
    machine: FakeMachine, options: MigrationOptions, outcomes: list[Outcome]
) -> int:
    """Migrate, compare both ends, and return how many connections carried pages."""
    channels = []

    def note(role: Role, _number: int, kind: RecordType, record: bytes) -> bytes:
        if role is Role.SOURCE and kind is RecordType.CHANNEL:
            channels.append(record)
        return record

    outcome = Migration(machine, options, rule=note).run()
    outcomes.append(outcome)
    outcome.raise_if_failed()
    assert contents(outcome.destination) == contents(outcome.source)
    return 1 + len(channels)


@pytest.mark.usefixtures("many_cpus", "small_shares")
def test_migration_without_a_number_has_what_both_ends_are_good_for(
    machine: FakeMachine, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.migrate.destination.count_to_grant", lambda: 3)

    assert _connections_of(machine, MigrationOptions(timeouts=PATIENT), outcomes) == 3


def test_number_that_an_operator_names_is_granted(
    machine: FakeMachine, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.migrate.destination.count_to_grant", lambda: 1)
    options = MigrationOptions(channels=4, timeouts=PATIENT)

    assert _connections_of(machine, options, outcomes) == 4


@pytest.mark.usefixtures("many_cpus", "small_shares")
def test_migration_without_a_number_has_one_connection_where_no_other_is_possible(
    machine: FakeMachine, outcomes: list[Outcome]
) -> None:
    outcome = Migration(machine, MigrationOptions(timeouts=PATIENT)).run_over(
        *channel_pair(idle_s=PATIENT.idle_s)
    )
    outcomes.append(outcome)

    outcome.raise_if_failed()
    assert contents(outcome.destination) == contents(outcome.source)


@pytest.mark.parametrize("knows_it", [True, False])
def test_older_destination_grants_what_it_is_asked_for(knows_it: bool) -> None:
    source = wire.Connection(Role.SOURCE)
    destination = wire.Connection(Role.DESTINATION)
    auto = wire.Feature.AUTO_CHANNELS
    asked = wire.Hello(Role.SOURCE, bytes(16), wire.SUPPORTED_FEATURES | auto, channels=5)
    answer = wire.Hello(
        Role.DESTINATION, bytes(16), wire.SUPPORTED_FEATURES | (auto if knows_it else 0), channels=5
    )

    for buffer in source.send(asked):
        destination.receive_data(buffer)
    received = destination.next_record()
    for buffer in destination.send(answer):
        source.receive_data(buffer)

    assert received == asked
    assert source.next_record() == answer
    assert bool(source.features & auto) is knows_it
    assert source.features == destination.features


@pytest.mark.parametrize("count", [0, -1, 17])
def test_number_that_is_not_possible_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match=f"^{count} channels are not possible: 1 to 16 are$"):
        MigrationOptions(channels=count)
