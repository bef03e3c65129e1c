"""Migrations over several connections, and over connections that break and come back."""

import socket
import struct
import threading
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong.errors import HandoverUncertainError, MigrationError, UsageError
from tagalong.machine import MachineDescription, RunState
from tagalong.memory import Gpa
from tagalong.migrate import MigrationOptions, MigrationStage, SendProgress, Timeouts, migrate_to
from tagalong.migrate.pages.compression import parse_compression
from tagalong.wire import RecordType, Role
from tagalong.wire.limits import MAX_COPIED_BYTES
from tagalong.wire.planes import DataEncoding
from tests.support.fake_machine import RAM, FakeMachine, contents, describe
from tests.support.migration import PATIENT, Migration, Outcome
from tests.support.proxy import Fate

PAGE = 4096
RETURNING = Timeouts(idle_s=2.0, farewell_s=0.3)

# A downtime that a busy host keeps: else its guest would not be stopped, and stay.
BUSY_S = 5.0


@pytest.fixture
def source() -> FakeMachine:
    """Return a running machine of 20 MiB, all kinds of pages in it, whose guest writes."""
    machine = FakeMachine(
        describe(0x100_0000, 0x40_0000),
        guest=lambda it: it.guest_write(RAM + 0x1000, b"again", tags=b"\x12"),
    )
    draw = np.random.default_rng(7)
    for region in machine.memory.regions:
        half = region.data.size // 2
        region.raw_data[:half] = draw.integers(0, 256, half, np.uint8)
        region.raw_tags[: half // 32] = draw.integers(0, 256, half // 32, np.uint8)
        region.raw_tags[half // 32 : half // 16] = 0x77
        region.raw_data[half : half + 64 * PAGE] = 0
    machine.resume()
    machine.calls.clear()
    return machine


def moved(outcome: Outcome) -> Outcome:
    outcome.raise_if_failed()
    assert contents(outcome.destination) == contents(outcome.source)
    assert outcome.source.run_state is RunState.PAUSED
    assert outcome.destination.run_state is RunState.RUNNING
    assert outcome.report is not None
    assert outcome.report.source_digest == outcome.report.destination_digest
    return outcome


@pytest.mark.parametrize("channels", [2, 16])
@pytest.mark.parametrize("compression", ["none", "zstd:1", "auto"])
def test_migration_over_channels_moves_everything(
    source: FakeMachine, outcomes: list[Outcome], channels: int, compression: str
) -> None:
    options = MigrationOptions(
        channels=channels,
        compression=parse_compression(compression),
        verify=True,
        max_downtime_s=BUSY_S,
        timeouts=PATIENT,
    )
    outcome = Migration(source, options).run()
    outcomes.append(outcome)

    moved(outcome)


def test_migration_over_channels_spreads_the_pages(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    carried: dict[int, int] = {}
    are_two = threading.Event()

    def note(role: Role, _number: int, kind: RecordType, record: bytes) -> bytes:
        if role is Role.SOURCE and kind is RecordType.PAGES:
            thread = threading.get_ident()
            carried[thread] = carried.get(thread, 0) + len(record)
            if len(carried) >= 2:
                are_two.set()
            # No connection gets far before another one has begun, however late that is.
            are_two.wait(PATIENT.idle_s / 2)
        return record

    # With a limit, batches are small enough for everybody to get some.
    options = MigrationOptions(
        channels=3, max_bandwidth=40e6, verify=True, max_downtime_s=BUSY_S, timeouts=PATIENT
    )
    outcome = Migration(source, options, rule=note).run()
    outcomes.append(outcome)

    moved(outcome)
    assert len(carried) >= 2
    assert outcome.report is not None
    assert outcome.report.bytes_sent > sum(carried.values())


class Exhausted(FakeMachine):
    """A destination that runs out of memory when a channel brings tags."""

    def write_page_tags(
        self, region: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]
    ) -> None:
        if threading.current_thread().name == "join":
            raise MemoryError("no more")
        super().write_page_tags(region, pages, packed)


def test_channel_that_fails_of_anything_ends_the_migration_with_its_cause(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    began = time.monotonic()
    options = MigrationOptions(channels=4, max_downtime_s=BUSY_S, timeouts=PATIENT)
    outcome = Migration(source, options, build=Exhausted).run()
    outcomes.append(outcome)

    assert str(outcome.destination_error) == "no more"
    assert isinstance(outcome.source_error, MigrationError)
    assert source.run_state is RunState.RUNNING
    assert time.monotonic() - began < PATIENT.answer_s / 2


def test_thread_that_cannot_be_had_ends_the_migration_with_its_cause(
    source: FakeMachine, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    channels: list[threading.Thread] = []

    def start_few(thread: threading.Thread) -> None:
        if thread.name == "channel":
            channels.append(thread)
            if len(channels) == 2:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_few)
    options = MigrationOptions(channels=4, max_downtime_s=BUSY_S, timeouts=PATIENT)
    outcome = Migration(source, options).run()
    outcomes.append(outcome)

    assert "can't start new thread" in str(outcome.source_error)
    assert source.run_state is RunState.RUNNING
    assert not channels[0].is_alive()


def test_destination_without_a_thread_for_a_channel_ends_the_migration_soon(
    source: FakeMachine, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def start_others(thread: threading.Thread) -> None:
        if thread.name == "join":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_others)
    began = time.monotonic()
    options = MigrationOptions(channels=4, max_downtime_s=BUSY_S, timeouts=PATIENT)
    outcome = Migration(source, options).run()
    outcomes.append(outcome)

    assert isinstance(outcome.source_error, MigrationError)
    assert source.run_state is RunState.RUNNING
    assert time.monotonic() - began < PATIENT.answer_s / 2


@pytest.mark.parametrize("step", [0, 5 << 20])
def test_batches_are_large_in_one_run_and_bounded_in_several(
    outcomes: list[Outcome], step: int
) -> None:
    sent: list[tuple[int, int]] = []

    def note(_role: Role, _number: int, kind: RecordType, record: bytes) -> bytes:
        if kind is RecordType.PAGES and record[18] == DataEncoding.RAW:
            sent.append((int.from_bytes(record[16:18], "little"), len(record)))
        return record

    machine = FakeMachine(describe(0xA00_0000))
    data = machine.memory.regions[0].raw_data
    data[:] = 0x5A
    for start in range(0, data.size if step else 0, step or 1):
        data[start : start + PAGE] = 0
    machine.resume()
    outcome = Migration(machine, MigrationOptions(verify=True, timeouts=PATIENT), rule=note).run()
    outcomes.append(outcome)

    moved(outcome)
    assert step or max(size for runs, size in sent if runs == 1) > MAX_COPIED_BYTES
    assert max([size for runs, size in sent if runs > 1], default=0) < MAX_COPIED_BYTES + (1 << 20)
    assert any(runs > 1 for runs, _ in sent) == bool(step)


def test_migration_over_a_channel_that_breaks_ends_with_the_guest_here(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    before = contents(source)

    def cut(role: Role, number: int, kind: RecordType, record: bytes) -> bytes | Fate:
        # The second record of the first connection is MACHINE, that of a channel is not.
        is_channel = role is Role.SOURCE and kind is not RecordType.MACHINE and number == 1
        return Fate.CUT_ONE if is_channel else record

    outcome = Migration(
        source, MigrationOptions(channels=2, max_downtime_s=BUSY_S, timeouts=PATIENT), rule=cut
    ).run()
    outcomes.append(outcome)

    assert isinstance(outcome.source_error, MigrationError)
    assert not isinstance(outcome.source_error, HandoverUncertainError)
    assert isinstance(outcome.destination_error, MigrationError)
    assert outcome.source.run_state is RunState.RUNNING
    assert not outcome.destination.was_ever_resumed
    assert outcome.destination.is_closed
    assert contents(source)[1] == before[1]


def cut_once(fate: Fate, which: tuple[Role, int]) -> tuple[list[int], object]:
    """Return a rule that breaks the connections at one record, the first time it comes."""
    broken: list[int] = []

    def rule(role: Role, number: int, _kind: RecordType, record: bytes) -> bytes | Fate:
        if (role, number) == which and not broken:
            broken.append(number)
            return fate
        return record

    return broken, rule


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fate", [Fate.CUT, Fate.STALL, Fate.CUT_MID_RECORD])
@pytest.mark.parametrize(
    "which",
    [(Role.SOURCE, 3), (Role.SOURCE, 4), (Role.DESTINATION, 2)],
    ids=["pages", "later", "answer"],
)
def test_connection_that_breaks_in_precopy_is_resumed(
    source: FakeMachine,
    outcomes: list[Outcome],
    channels: int,
    fate: Fate,
    which: tuple[Role, int],
) -> None:
    broken, rule = cut_once(fate, which)
    options = MigrationOptions(
        channels=channels,
        max_bandwidth=40e6,  # so that batches are small, and the records in question are batches
        reconnect_s=20,
        verify=True,
        timeouts=RETURNING,
        max_downtime_s=BUSY_S,
    )
    stages: list[MigrationStage] = []

    def note(progress: SendProgress) -> None:
        stages.append(progress.stage)

    outcome = Migration(source, options, rule=rule, progress=note).run()  # type: ignore[arg-type]
    outcomes.append(outcome)

    assert broken
    moved(outcome)
    assert MigrationStage.RECONNECT in stages


def test_resumed_migration_sends_only_pages_that_were_not_placed(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    built: list[FakeMachine] = []
    broken: list[int] = []
    last: list[int] = []

    def build(description: MachineDescription) -> FakeMachine:
        built.append(FakeMachine(description))
        return built[-1]

    def cut(role: Role, number: int, kind: RecordType, record: bytes) -> bytes | Fate:
        if (role, number) == (Role.SOURCE, 6) and not broken:
            broken.append(number)
            wait_for_page(built[0], last[-1])
            return Fate.CUT
        is_data = kind is RecordType.PAGES and record[18] == DataEncoding.RAW
        if role is Role.SOURCE and is_data:
            last.append(last_gpa(record))
        return record

    options = MigrationOptions(
        reconnect_s=20, verify=True, max_downtime_s=BUSY_S, timeouts=RETURNING
    )

    outcome = Migration(source, options, build=build, rule=cut).run()
    outcomes.append(outcome)

    assert broken
    moved(outcome)
    assert outcome.report is not None
    data_bytes = outcome.report.rounds[0].data_bytes_wire
    whole = 10 << 20
    # One batch was on its way when the connection broke.
    assert whole <= data_bytes <= whole + (8 << 20)


def last_gpa(record: bytes) -> int:
    """Return the last page of a batch on the wire (stream.md, section 4)."""
    (runs,) = struct.unpack_from("<H", record, 16)
    first_gpa, page_count = struct.unpack_from("<QQ", record, 32 + (runs - 1) * 16)
    return int(first_gpa + (page_count - 1) * PAGE)


def wait_for_page(machine: FakeMachine, gpa: int) -> None:
    """Wait until a machine has a page: what was forwarded has been taken in up to there."""
    deadline = time.monotonic() + 10
    while not any(machine.memory.read(Gpa(gpa), PAGE)) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_source_whose_destination_does_not_come_back_keeps_the_guest(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    def cut(role: Role, number: int, _kind: RecordType, record: bytes) -> bytes | Fate:
        return Fate.CUT_FOR_EVER if (role, number) == (Role.SOURCE, 4) else record

    options = MigrationOptions(reconnect_s=1, timeouts=RETURNING)
    began = time.monotonic()
    outcome = Migration(source, options, rule=cut).run()
    outcomes.append(outcome)

    assert "did not come back in 1 s" in str(outcome.source_error)
    assert "did not come back in 1 s" in str(outcome.destination_error)
    assert time.monotonic() - began < 15
    assert outcome.source.run_state is RunState.RUNNING
    assert outcome.destination.is_closed
    assert not outcome.destination.was_ever_resumed


def test_other_peers_change_nothing(source: FakeMachine, outcomes: list[Outcome]) -> None:
    others: list[socket.socket] = []
    where: list[int] = []

    def intrude(_role: Role, _number: int, kind: RecordType, record: bytes) -> bytes:
        if kind is RecordType.PAGES and len(others) < 6:
            for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"TAGALONG\2\0\0\0\0\0\0\0"):
                sock = socket.create_connection(("127.0.0.1", where[0]))
                sock.sendall(said)
                others.append(sock)
        return record

    options = MigrationOptions(
        channels=2, reconnect_s=5, verify=True, max_downtime_s=BUSY_S, timeouts=PATIENT
    )
    migration = Migration(source, options, rule=intrude, target=where)
    outcome = migration.run()
    outcomes.append(outcome)

    assert len(others) >= 3
    moved(outcome)
    for sock in others:
        sock.close()


def test_peers_that_connect_and_stay_silent_do_not_block_channels(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    others: list[socket.socket] = []
    where: list[int] = []

    def crowd(_role: Role, _number: int, kind: RecordType, record: bytes) -> bytes:
        if kind is RecordType.ACCEPT:  # joins are accepted, and no channel has come yet
            others.extend(socket.create_connection(("127.0.0.1", where[0])) for _ in range(100))
        return record

    options = MigrationOptions(channels=4, verify=True, max_downtime_s=BUSY_S, timeouts=PATIENT)
    outcome = Migration(source, options, rule=crowd, target=where).run()
    outcomes.append(outcome)

    assert len(others) == 100
    moved(outcome)
    for sock in others:
        sock.close()


@pytest.mark.parametrize("wish", [{"channels": 2}, {"reconnect_s": 1}])
def test_several_connections_where_there_is_one_are_refused(
    source: FakeMachine, wish: dict[str, int]
) -> None:
    with pytest.raises(UsageError, match="several channels and reconnecting need tcp:HOST:PORT"):
        migrate_to("exec:cat >/dev/null", source, MigrationOptions(**wish))  # type: ignore[arg-type]
    source.close()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"channels": 0}, "0 channels are not possible: 1 to 16 are"),
        ({"channels": 17}, "17 channels are not possible: 1 to 16 are"),
        ({"reconnect_s": -1}, "to reconnect for -1 s is not possible"),
        ({"reconnect_s": 3601}, "to reconnect for 3601 s is not possible"),
    ],
)
def test_options_that_are_not_possible_raise(wish: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MigrationOptions(**wish)  # type: ignore[arg-type]


def test_tag_only_changes_send_tags_only(outcomes: list[Outcome]) -> None:
    ticks: list[int] = []

    def guest(machine: FakeMachine) -> None:
        ticks.append(1)
        for page in range(64):
            machine.guest_write(RAM + page * PAGE, b"", tags=bytes([len(ticks) % 16 * 0x11]))

    machine = FakeMachine(describe(0x100_0000), guest=guest)
    region = machine.memory.regions[0]
    region.raw_data[:] = np.random.default_rng(1).integers(0, 256, region.data.size, np.uint8)
    machine.resume()
    outcome = Migration(
        machine, MigrationOptions(verify=True, max_downtime_s=BUSY_S, timeouts=PATIENT)
    ).run()
    outcomes.append(outcome)

    moved(outcome)
    assert outcome.report is not None
    last = outcome.report.rounds[-1]
    assert last.pages == 64
    assert last.data_bytes_wire == 0
    assert last.tag_bytes_wire > 0
