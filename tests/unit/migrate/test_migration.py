"""Migrations that succeed: what arrives is what was there, and the report says what it cost."""

import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tagalong.machine import PowerState, RunState
from tagalong.memory import PageBitmap
from tagalong.migrate import MigrationOptions, SendProgress
from tests.support.fake_machine import GCR, RAM, X0, FakeMachine, contents, describe
from tests.support.migration import PATIENT, TCP, Migration, Outcome

PAGE = 4096


def fill(machine: FakeMachine, *, seed: int = 1, share: int = 4) -> FakeMachine:
    """Give every `share`-th stretch of 64 KiB random data and tags, and registers values."""
    draw = np.random.default_rng(seed)
    for region in machine.memory.regions:
        for start in range(0, region.size_bytes, share * 0x10000):
            stop = min(start + 0x10000, region.size_bytes)
            region.raw_data[start:stop] = draw.integers(0, 256, stop - start, np.uint8)
            packed = draw.integers(0, 256, (stop - start) // 32, np.uint8)
            region.raw_tags[start // 32 : stop // 32] = packed
    machine.vcpus[0].set_register(X0, 0x1234_5678_9ABC_DEF0)
    machine.vcpus[0].set_register(GCR, 0x1_0001)
    machine.devices["console"] = b"\x01state"
    return machine


def running(machine: FakeMachine) -> FakeMachine:
    machine.resume()
    machine.was_ever_resumed = False
    machine.calls.clear()
    return machine


def moved(outcome: Outcome) -> None:
    """Assert that the machine is at the destination, whole, and paused at the source."""
    outcome.raise_if_failed()
    assert outcome.arrival is not None
    assert outcome.arrival.machine is outcome.destination
    assert outcome.arrival.acknowledged
    assert contents(outcome.destination) == contents(outcome.source)
    assert outcome.source.run_state is RunState.PAUSED
    assert not outcome.source.is_logging
    assert outcome.report is not None
    assert outcome.report.migration_id == outcome.arrival.migration_id
    for here, there in zip(outcome.source.vcpus, outcome.destination.vcpus, strict=True):
        for register in (X0, GCR):
            assert there.get_register(register) == here.get_register(register)
    assert outcome.destination.devices == outcome.source.devices


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("transport", ["tcp", "tcp6", "unix"])
def test_migrate_running_machine_runs_at_the_destination(
    outcomes: list[Outcome], tmp_path: Path, transport: str, verify: bool
) -> None:
    uri = {"tcp": TCP, "tcp6": "tcp:[::1]:0", "unix": f"unix:{tmp_path / 'in.sock'}"}[transport]
    source = running(fill(FakeMachine(describe(0x40_0000, 0x3_0000, vcpus=2))))
    options = MigrationOptions(verify=verify, timeouts=PATIENT)

    outcome = Migration(source, options, listen_at=uri).run()
    outcomes.append(outcome)

    moved(outcome)
    assert outcome.destination.run_state is RunState.RUNNING
    assert outcome.arrival is not None
    assert outcome.arrival.was_running
    assert outcome.report is not None
    assert outcome.report.verified is verify
    assert (outcome.arrival.digest is not None) is verify
    assert outcome.report.destination_digest == outcome.arrival.digest
    assert not (tmp_path / "in.sock").exists()


def test_migrate_machine_calls_in_the_only_safe_order(outcomes: list[Outcome]) -> None:
    source = running(fill(FakeMachine()))

    outcome = Migration(source).run()
    outcomes.append(outcome)

    moved(outcome)
    assert source.calls == [
        "peek_state", "start_dirty_log", "harvest_dirty_log", "pause", "harvest_dirty_log",
        "save_state", "inactivate", "stop_dirty_log",
    ]  # fmt: skip
    assert outcome.destination.calls == ["check_state", "load_state", "resume"]


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_migrate_every_page_size_arrives_whole(outcomes: list[Outcome], page_size: int) -> None:
    source = running(fill(FakeMachine(describe(0x20_0000, 0x1_0000, page_size_bytes=page_size))))

    outcome = Migration(source, MigrationOptions(verify=True, timeouts=PATIENT)).run()
    outcomes.append(outcome)

    moved(outcome)


def test_migrate_paused_machine_stays_paused(outcomes: list[Outcome]) -> None:
    source = fill(FakeMachine())

    outcome = Migration(source).run()
    outcomes.append(outcome)

    moved(outcome)
    assert outcome.destination.run_state is RunState.PAUSED
    assert not outcome.destination.was_ever_resumed
    assert outcome.arrival is not None
    assert not outcome.arrival.was_running
    assert outcome.report is not None
    assert not outcome.report.was_running


def test_migrate_guest_that_writes_between_rounds_loses_nothing(outcomes: list[Outcome]) -> None:
    harvests = iter(range(1000))

    def guest(machine: FakeMachine) -> None:
        number = next(harvests)
        page = RAM + (number % 5) * PAGE
        machine.guest_write(page + 8, number.to_bytes(8, "little"))
        machine.guest_write(RAM + 0x8_0000 + number * 0x100, b"x" * 0x100, tags=bytes([number]) * 8)
        machine.guest_write(RAM + 0x30_0000 + number * PAGE, b"", tags=b"\x5a")  # tags alone
        if number == 1:
            machine.guest_write(RAM + 0x3000, bytes(PAGE), tags=bytes(128))  # back to zero

    source = running(fill(FakeMachine(guest=guest)))
    options = MigrationOptions(max_downtime_s=0.0, max_rounds=5, timeouts=PATIENT)

    failed = Migration(source, options).run()
    outcomes.append(failed)
    assert failed.source_error is not None
    source.calls.clear()
    outcome = Migration(source, MigrationOptions(verify=True, timeouts=PATIENT)).run()
    outcomes.append(outcome)

    moved(outcome)
    assert outcome.report is not None
    assert outcome.report.verified
    assert outcome.report.rounds[-1].pages > 0


def test_migrate_guest_that_writes_all_the_time_arrives_whole(outcomes: list[Outcome]) -> None:
    source = running(fill(FakeMachine(describe(0x200_0000)), share=1))
    stop = threading.Event()
    written = [0]

    def churn() -> None:
        draw = np.random.default_rng(7)
        with source._lock:
            pass
        while not stop.is_set():
            with source._lock:
                if source.run_state is not RunState.RUNNING:
                    continue
                page = RAM + int(draw.integers(0, 0x100)) * PAGE
                source.guest_write(page + 64, draw.bytes(700), tags=draw.bytes(30))
                written[0] += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        options = MigrationOptions(verify=True, timeouts=PATIENT)
        outcome = Migration(source, options).run()
    finally:
        stop.set()
        thread.join(60)
    outcomes.append(outcome)

    moved(outcome)
    assert written[0] > 0
    assert outcome.report is not None
    assert outcome.report.verified


def test_migrate_sparse_machine_leaves_holes_at_both_ends(outcomes: list[Outcome]) -> None:
    source = FakeMachine(describe(0x4000_0000))
    region = source.memory.regions[0]
    region.raw_data[5 * PAGE] = 1
    region.raw_tags[0x2000_0000 // 32] = 0x21
    region.raw_data[0x3000_0000 : 0x3000_0000 + 64 * PAGE] = 0  # touched, and zero
    before = source.populated_pages()
    running(source)

    outcome = Migration(source, MigrationOptions(verify=True, timeouts=PATIENT)).run()
    outcomes.append(outcome)

    outcome.raise_if_failed()
    assert outcome.report is not None
    assert outcome.report.verified
    assert source.populated_pages() == before
    arrived = outcome.destination.populated_pages()
    assert arrived == [PageBitmap.from_pages(region.page_count, [5, 0x2000_0000 // PAGE])]
    assert outcome.destination.memory.regions[0].tags[0x2000_0000 // 32] == 0x21
    assert outcome.report.bytes_sent < 4 * PAGE


def test_migrate_into_a_machine_that_is_not_empty_overwrites_all_of_it(
    outcomes: list[Outcome],
) -> None:
    source = running(fill(FakeMachine()))
    source.memory.regions[0].raw_data[0x20_0000 : 0x20_0000 + 64 * PAGE] = 0

    outcome = Migration(
        source, build=lambda description: fill(FakeMachine(description), seed=9, share=1)
    ).run()
    outcomes.append(outcome)

    moved(outcome)


def test_migrate_machine_without_tags_sends_none(outcomes: list[Outcome]) -> None:
    source = running(FakeMachine(describe(mte_version=0)))
    source.memory.regions[0].raw_data[: 8 * PAGE] = 0x77

    outcome = Migration(source, MigrationOptions(verify=True, timeouts=PATIENT)).run()
    outcomes.append(outcome)

    moved(outcome)
    assert outcome.report is not None
    assert outcome.report.to_json()["tag_bytes_wire"] == 0
    assert outcome.report.verified


def test_migrate_dropping_tags_is_marked_and_loses_them(outcomes: list[Outcome]) -> None:
    source = running(fill(FakeMachine()))
    options = MigrationOptions(verify=True, drop_tags=True, timeouts=PATIENT)

    outcome = Migration(source, options).run()
    outcomes.append(outcome)

    outcome.raise_if_failed()
    ((data, tags),) = contents(outcome.destination)
    ((true_data, true_tags),) = contents(source)
    assert data == true_data
    assert any(true_tags)
    assert not any(tags)
    assert outcome.report is not None
    assert outcome.report.tags_dropped
    assert not outcome.report.verified
    assert outcome.report.source_digest is None
    assert outcome.report.to_json()["tag_bytes_wire"] == 0
    assert outcome.report.tag_bytes_raw == outcome.report.data_bytes // 32 > 0


def test_migrate_vcpus_that_are_off_stay_off(outcomes: list[Outcome]) -> None:
    source = running(FakeMachine(describe(vcpus=3)))

    outcome = Migration(source).run()
    outcomes.append(outcome)

    moved(outcome)
    powers = [vcpu._power for vcpu in outcome.destination.vcpus]
    assert powers == [PowerState.ON, PowerState.OFF, PowerState.OFF]


def test_migrate_reports_what_it_cost(outcomes: list[Outcome]) -> None:
    source = running(fill(FakeMachine(guest=lambda it: it.guest_write(RAM, b"tick"))))
    seen: list[SendProgress] = []

    outcome = Migration(
        source, MigrationOptions(verify=True, timeouts=PATIENT), progress=seen.append
    ).run()
    outcomes.append(outcome)

    moved(outcome)
    report = outcome.report
    assert report is not None
    first, last = report.rounds
    assert first.pages == 16 * 16
    assert (first.data_bytes, first.data_bytes_wire) == (0x10_0000, 0x10_0000)
    assert (first.tag_bytes_raw, first.dirty_pages_left) == (0x10_0000 // 32, 1)
    assert 0 < first.tag_bytes_wire <= first.tag_bytes_raw
    assert (last.pages, last.dirty_pages_left) == (1, 0)
    assert outcome.arrival is not None
    assert outcome.arrival.pages == 257
    assert report.downtime.total_s <= report.duration_s
    assert report.throughput_bytes_per_s > 0
    assert report.dirty_rate_bytes_per_s > 0
    stages = [each.stage for each in seen]
    assert [it.name for it in dict.fromkeys(stages)] == [
        "SETUP", "PRECOPY", "LAST_PAGES", "STATE", "DIGEST", "COMMIT"
    ]  # fmt: skip
    assert seen[-1].ram_bytes == 0x40_0000
    assert seen[-1].bytes_sent <= report.bytes_sent


def test_migrate_again_and_again_changes_nothing(outcomes: list[Outcome]) -> None:
    machine = running(fill(FakeMachine(describe(0x4_0000)), share=1))
    original = contents(machine)

    for _ in range(20):
        outcome = Migration(machine, MigrationOptions(verify=True, timeouts=PATIENT)).run()
        moved(outcome)
        outcomes.append(outcome)
        machine = outcome.destination

    assert contents(machine) == original
    with closing(machine):
        assert machine.run_state is RunState.RUNNING
