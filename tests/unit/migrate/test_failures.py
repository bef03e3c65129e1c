"""Migrations that fail: exactly one end can run the machine afterwards, and says so."""

import socket
import threading
from dataclasses import replace

import numpy as np
import pytest

from tagalong.errors import (
    ConvergenceError,
    DigestMismatchError,
    HandoverUncertainError,
    HostError,
    MachineMismatchError,
    MigrationCancelledError,
    MigrationError,
    RemoteProtocolError,
    RunStateError,
    StateError,
    UsageError,
)
from tagalong.machine import (
    DEFAULT_CONSOLE,
    DeviceDescription,
    Machine,
    MachineDescription,
    RegisterId,
    RunState,
)
from tagalong.memory import Gpa
from tagalong.migrate import (
    Channel,
    MigrationOptions,
    MigrationStage,
    SendProgress,
    Timeouts,
    migrate_to,
)
from tagalong.migrate.transport.channel import Buffers
from tagalong.wire import RecordType, Role
from tests.support.fake_machine import RAM, X0, FakeMachine, contents, describe, refuse
from tests.support.migration import PATIENT, QUICK, Migration, Outcome
from tests.support.proxy import Fate
from tests.support.wire_session import sealed_pages

UNINTERRUPTED = [
    MigrationStage.SETUP, MigrationStage.PRECOPY, MigrationStage.LAST_PAGES, MigrationStage.STATE,
    MigrationStage.DIGEST, MigrationStage.COMMIT, MigrationStage.COMMITTED,
]  # fmt: skip
SOURCE_RECORDS = [
    "HELLO", "MACHINE", "STATE", "PAGES", "PAGES", "ROUND", "PAGES", "STATE", "VERIFY", "DIGEST",
    "PREPARE", "COMMIT",
]  # fmt: skip
DESTINATION_RECORDS = ["HELLO", "ACCEPT", "ROUND", "DIGEST", "READY", "RUNNING"]
EVERY_RECORD = [
    *((Role.SOURCE, number) for number in range(len(SOURCE_RECORDS))),
    *((Role.DESTINATION, number) for number in range(len(DESTINATION_RECORDS))),
]
TCR2_EL1 = RegisterId(0x6030_0000_0013_C103)
PIR_EL1 = RegisterId(0x6030_0000_0013_C513)
VERIFIED = MigrationOptions(verify=True, timeouts=PATIENT)


@pytest.fixture
def source() -> FakeMachine:
    """Return a running machine that sends exactly SOURCE_RECORDS when it is verified."""
    machine = FakeMachine(
        describe(0x30_0000, 0x10_0000),
        guest=lambda it: it.guest_write(RAM + 0x1000, b"again", tags=b"\x12"),
    )
    first, second = machine.memory.regions
    first.raw_data[:0x8000] = 0x5A
    first.raw_tags[:0x400] = 0x37
    second.raw_data[:0x8000] = 0xA5
    machine.resume()
    machine.calls.clear()
    return machine


def name(case: tuple[Role, int]) -> str:
    role, number = case
    records = SOURCE_RECORDS if role is Role.SOURCE else DESTINATION_RECORDS
    return f"{role.name}-{number}-{records[number]}".lower()


# What the source is at while it waits for each record.
AWAITED_IN = ["SETUP", "SETUP", "PRECOPY", "DIGEST", "COMMIT", "COMMITTED"]


def stayed(outcome: Outcome, before: list[tuple[bytes, bytes]] | None = None) -> MigrationError:
    """Assert that the machine runs at the source and was never started elsewhere."""
    error = outcome.source_error
    assert isinstance(error, MigrationError), error
    assert not isinstance(error, HandoverUncertainError)
    assert outcome.report is None
    assert outcome.source.run_state is RunState.RUNNING
    assert not outcome.source.is_logging
    nothing_started(outcome)
    if before is not None:
        assert contents(outcome.source) == before
    return error


def nothing_started(outcome: Outcome) -> None:
    assert outcome.arrival is None
    assert isinstance(outcome.destination_error, MigrationError | HostError)
    for machine in outcome.built:
        assert not machine.was_ever_resumed
        assert machine.is_closed


@pytest.mark.parametrize("case", EVERY_RECORD, ids=name)
def test_connection_cut_before_any_record_leaves_exactly_one_end(
    source: FakeMachine, outcomes: list[Outcome], case: tuple[Role, int]
) -> None:
    def cut(role: Role, number: int, _kind: RecordType, record: bytes) -> bytes | Fate:
        return Fate.CUT if (role, number) == case else record

    outcome = Migration(source, VERIFIED, rule=cut).run()
    outcomes.append(outcome)

    exactly_one_end(outcome, case)


@pytest.mark.parametrize("case", EVERY_RECORD, ids=name)
def test_connection_stalled_before_any_record_leaves_exactly_one_end(
    source: FakeMachine, outcomes: list[Outcome], case: tuple[Role, int]
) -> None:
    def stall(role: Role, number: int, _kind: RecordType, record: bytes) -> bytes | Fate:
        return Fate.STALL if (role, number) == case else record

    options = MigrationOptions(verify=True, timeouts=QUICK)
    outcome = Migration(source, options, rule=stall).run()
    outcomes.append(outcome)

    exactly_one_end(outcome, case)


def exactly_one_end(outcome: Outcome, case: tuple[Role, int]) -> None:
    assert isinstance(outcome.source_error, MigrationError)
    assert outcome.source_error.stage is not None
    if case[0] is Role.DESTINATION:
        assert outcome.source_error.stage.name == AWAITED_IN[case[1]]
    if case == (Role.SOURCE, SOURCE_RECORDS.index("COMMIT")):
        # Given to a network that lost it: neither end runs, and the source may not know. Only if
        # the destination's own ABORT still gets through does the source know better.
        nothing_started(outcome)
        if isinstance(outcome.source_error, HandoverUncertainError):
            uncertain(outcome)
        else:
            stayed(outcome)
    elif case == (Role.DESTINATION, DESTINATION_RECORDS.index("RUNNING")):
        uncertain(outcome)
        assert outcome.arrival is not None
        assert outcome.arrival.was_running
        assert outcome.destination.run_state is RunState.RUNNING
        assert outcome.arrival.migration_id in str(outcome.source_error)
        assert contents(outcome.destination) == contents(outcome.source)
    else:
        stayed(outcome)


def uncertain(outcome: Outcome) -> None:
    assert isinstance(outcome.source_error, HandoverUncertainError)
    assert "the right to run was given to the destination" in str(outcome.source_error)
    assert "Look at the destination" in str(outcome.source_error)
    assert isinstance(outcome.source_error.__cause__, HostError | RemoteProtocolError)
    assert outcome.source.run_state is RunState.PAUSED
    assert "resume" not in outcome.source.calls
    assert not outcome.source.is_logging


def test_records_of_a_migration_are_the_ones_cut_above(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    seen: dict[Role, list[str]] = {Role.SOURCE: [], Role.DESTINATION: []}

    def note(role: Role, _number: int, kind: RecordType, record: bytes) -> bytes:
        seen[role].append(kind.name)
        return record

    outcomes.append(Migration(source, VERIFIED, rule=note).run().raise_if_failed())

    assert seen == {Role.SOURCE: SOURCE_RECORDS, Role.DESTINATION: DESTINATION_RECORDS}


@pytest.mark.parametrize("case", EVERY_RECORD[:-1], ids=name)
def test_record_damaged_on_its_way_is_never_accepted(
    source: FakeMachine, outcomes: list[Outcome], case: tuple[Role, int]
) -> None:
    def damage(role: Role, number: int, _kind: RecordType, record: bytes) -> bytes:
        if (role, number) != case:
            return record
        return record[:-1] + bytes([record[-1] ^ 1])

    outcome = Migration(source, VERIFIED, rule=damage).run()
    outcomes.append(outcome)

    error = stayed(outcome)
    if case == (Role.SOURCE, 0):  # no migration yet: the destination says why, and waits on
        assert "the peer ended the migration (PROTOCOL): " in str(error)
        return
    listener_error = outcome.destination_error if case[0] is Role.SOURCE else error
    assert listener_error is not None
    assert isinstance(listener_error.__cause__, RemoteProtocolError)
    if case[0] is Role.SOURCE:
        assert "the peer ended the migration (PROTOCOL)" in str(error)


def test_running_damaged_on_its_way_is_uncertain(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    def damage(_role: Role, _number: int, kind: RecordType, record: bytes) -> bytes:
        return record[:-1] + b"\xee" if kind is RecordType.RUNNING else record

    outcome = Migration(source, VERIFIED, rule=damage).run()
    outcomes.append(outcome)

    uncertain(outcome)
    assert isinstance(outcome.source_error, HandoverUncertainError)
    assert isinstance(outcome.source_error.__cause__, RemoteProtocolError)
    assert outcome.destination.run_state is RunState.RUNNING


@pytest.mark.parametrize("plane", ["data", "tags"])
def test_verify_with_other_memory_at_the_destination_raises_and_starts_nothing(
    source: FakeMachine, outcomes: list[Outcome], plane: str
) -> None:
    def corrupt(role: Role, number: int, kind: RecordType, record: bytes) -> bytes:
        if (role, number, kind) != (Role.SOURCE, 4, RecordType.PAGES):
            return record
        place = len(record) - 100 if plane == "data" else 16 + 32 + 0x20
        changed = record[:place] + bytes([record[place] ^ 0x10]) + record[place + 1 :]
        return changed[:8] + sealed_pages(number, changed[:8], changed[16:])

    # Tags that do not compress: they then stand as they are behind the run.
    draw = np.random.default_rng(3).integers(0, 256, 0x400, np.uint8)
    source.memory.regions[1].raw_tags[:0x400] = draw
    outcome = Migration(source, VERIFIED, rule=corrupt).run()
    outcomes.append(outcome)

    error = stayed(outcome)
    assert isinstance(error, DigestMismatchError)
    assert "the destination holds other memory or tags" in str(error)
    assert isinstance(outcome.destination_error, DigestMismatchError)
    assert "nothing was started here" in str(outcome.destination_error)


def test_destination_that_cannot_hold_the_machine_refuses_before_any_page(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    kinds: list[RecordType] = []

    def note(role: Role, _number: int, kind: RecordType, record: bytes) -> bytes:
        if role is Role.SOURCE:
            kinds.append(kind)
        return record

    outcome = Migration(source, VERIFIED, build=refuse, rule=note).run()
    outcomes.append(outcome)

    error = stayed(outcome)
    assert isinstance(error, MachineMismatchError)
    assert "the peer ended the migration (MACHINE_MISMATCH): no room for 0x400000" in str(error)
    assert set(kinds) <= {RecordType.HELLO, RecordType.MACHINE, RecordType.STATE}
    assert "start_dirty_log" not in source.calls
    assert "pause" not in source.calls
    assert isinstance(outcome.destination_error, MachineMismatchError)


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (describe(0x80_0000), "is not the one described"),
        (describe(0x30_0000, 0x10_0000, vcpus=2), "is not the one described"),
        (describe(0x30_0000, 0x10_0000, mte_version=2), "has MTE version 3, the one built here 2"),
        (describe(0x30_0000, 0x10_0000, mte_version=0), "has MTE version 3, the one built here 0"),
    ],
)
def test_destination_that_built_another_machine_refuses(
    source: FakeMachine, outcomes: list[Outcome], built: MachineDescription, message: str
) -> None:
    outcome = Migration(source, build=lambda _: FakeMachine(built)).run()
    outcomes.append(outcome)

    error = stayed(outcome)
    assert isinstance(error, MachineMismatchError)
    assert message in str(error)


def test_destination_with_other_devices_refuses_each_by_name(outcomes: list[Outcome]) -> None:
    there = (
        DEFAULT_CONSOLE,
        DeviceDescription("disk0", "virtio-blk", Gpa(0x0A00_0000), 0x200, 48, b"\1\2"),
        DeviceDescription("net0", "virtio-net", Gpa(0x0A00_0200), 0x200, 49),
    )
    here = (replace(there[0], name="uart"), replace(there[1], config=b"\1\3"))
    source = FakeMachine(replace(describe(0x40_0000), devices=there))
    source.resume()

    outcome = Migration(
        source, build=lambda description: FakeMachine(replace(description, devices=here))
    ).run()
    outcomes.append(outcome)

    error = stayed(outcome)
    assert isinstance(error, MachineMismatchError)
    assert str(error) == (
        "the peer ended the migration (MACHINE_MISMATCH): the VM does not have device uart "
        "(pl011 at [0x9000000, 0x9001000), no interrupt, configuration empty); the VM has device "
        "disk0 (virtio-blk at [0xa000000, 0xa000200), interrupt 48, configuration 0102), here it "
        "is device disk0 (virtio-blk at [0xa000000, 0xa000200), interrupt 48, configuration "
        "0103); "
        "the VM has device net0 (virtio-net at [0xa000200, 0xa000400), interrupt 49, configuration "
        "empty), which is missing here; the VM has device pl011 (pl011 at [0x9000000, 0x9001000), "
        "no interrupt, configuration empty), which is missing here: give the destination the "
        "devices that the VM has"
    )


def test_destination_out_of_memory_refuses(source: FakeMachine, outcomes: list[Outcome]) -> None:
    def build(_: MachineDescription) -> FakeMachine:
        raise MemoryError("no more")

    outcome = Migration(source, build=build).run()
    outcomes.append(outcome)

    assert "the peer ended the migration (HOST): no more" in str(stayed(outcome))
    assert isinstance(outcome.destination_error, MigrationError)
    assert isinstance(outcome.destination_error.__cause__, MemoryError)


def test_destination_that_lacks_registers_and_devices_refuses_before_the_guest_stops(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    kinds: list[RecordType] = []

    def note(role: Role, _number: int, kind: RecordType, record: bytes) -> bytes:
        if role is Role.SOURCE:
            kinds.append(kind)
        return record

    source.devices["gpu"] = b"\x01"
    source.vcpus[0].add_register(TCR2_EL1, 1)
    source.vcpus[0].add_register(PIR_EL1, 2)

    outcome = Migration(source, rule=note).run()
    outcomes.append(outcome)

    error = stayed(outcome)
    assert isinstance(error, MachineMismatchError)
    assert str(error) == (
        "the peer ended the migration (STATE_REFUSED): no device is called gpu; "
        "vCPU 0 has no register 0x603000000013c103, 0x603000000013c513"
    )
    assert kinds == [RecordType.HELLO, RecordType.MACHINE, RecordType.STATE]
    assert set(source.calls) == {"peek_state", "stop_dirty_log"}
    assert outcome.destination.calls == ["check_state", "close", "pause"]
    assert isinstance(outcome.destination_error, MigrationError)
    assert isinstance(outcome.destination_error.__cause__, StateError)


def test_state_that_became_foreign_after_the_preview_is_rejected_and_the_guest_runs_on(
    outcomes: list[Outcome],
) -> None:
    machine = FakeMachine(describe(0x40_0000), guest=lambda it: it.devices.update(gpu=b"\x01"))
    machine.resume()

    outcome = Migration(machine).run()
    outcomes.append(outcome)

    error = stayed(outcome)
    assert isinstance(error, MachineMismatchError)
    assert "the peer ended the migration (STATE_REFUSED): no device is called gpu" in str(error)
    assert outcome.destination.calls[:2] == ["check_state", "load_state"]
    assert isinstance(outcome.destination_error, MigrationError)
    assert isinstance(outcome.destination_error.__cause__, StateError)


def test_destination_that_cannot_start_gives_the_right_back(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    def fail(_machine: object, _ran: bool) -> None:
        raise RunStateError("no vCPU thread")

    outcome = Migration(source, VERIFIED, take_over=fail).run()
    outcomes.append(outcome)

    error = stayed(outcome)
    assert "the peer ended the migration (INTERNAL): no vCPU thread" in str(error)


class Severed(Channel):
    """A channel that breaks when a record of one type is to be sent."""

    def __init__(self, sock: socket.socket, at: RecordType, error: BaseException) -> None:
        super().__init__(sock, "severed", idle_s=0.6)
        self._at = at.to_bytes(2, "little")
        self._error = error

    def send(self, buffers: Buffers, *, deadline: float = float("inf")) -> None:
        if bytes(buffers[0][:2]) == self._at:
            raise self._error
        super().send(buffers, deadline=deadline)


def test_commit_that_was_not_sent_whole_leaves_the_guest_running(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    near, far = socket.socketpair()
    severed = Severed(near, RecordType.COMMIT, HostError("the cable is out"))

    outcome = Migration(source).run_over(severed, Channel(far, "far", idle_s=0.6))
    outcomes.append(outcome)

    assert "the migration failed (commit), the VM stays here: the cable" in str(stayed(outcome))


def test_commit_that_is_not_confirmed_is_uncertain(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    near, far = socket.socketpair()
    severed = Severed(near, RecordType.COMMIT, ZeroDivisionError("a bug in mid-call"))

    outcome = Migration(source).run_over(severed, Channel(far, "far", idle_s=0.6))
    outcomes.append(outcome)

    assert isinstance(outcome.source_error, HandoverUncertainError)
    assert source.run_state is RunState.PAUSED
    nothing_started(outcome)


def test_migrate_without_a_destination_raises_and_changes_nothing(
    source: FakeMachine,
) -> None:
    with pytest.raises(MigrationError, match="did not begin: unix:/no/such") as caught:
        migrate_to("unix:/no/such/socket", source)

    assert isinstance(caught.value.__cause__, HostError)
    assert caught.value.stage is MigrationStage.CONNECT
    assert not source.calls
    source.close()


def test_arrival_that_the_source_cannot_learn_of_is_not_acknowledged(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    near, far = socket.socketpair()

    def start(machine: Machine, _ran: bool) -> None:
        near.shutdown(socket.SHUT_RDWR)
        machine.resume()

    outcome = Migration(source, take_over=start).run_over(
        Channel(near, "near", idle_s=0.6), Channel(far, "far", idle_s=0.6)
    )
    outcomes.append(outcome)

    assert outcome.destination_error is None
    assert outcome.arrival is not None
    assert not outcome.arrival.acknowledged
    assert outcome.destination.run_state is RunState.RUNNING
    assert isinstance(outcome.source_error, HandoverUncertainError)
    assert source.run_state is RunState.PAUSED


def test_guest_that_dirties_too_fast_runs_on_and_the_error_says_what_helps(
    outcomes: list[Outcome],
) -> None:
    machine = FakeMachine(
        describe(0x40_0000), guest=lambda it: it.guest_write(RAM, bytes([7]) * 0x10_0000)
    )
    machine.resume()
    options = MigrationOptions(max_downtime_s=1e-6, max_rounds=4, timeouts=PATIENT)

    outcome = Migration(machine, options).run()
    outcomes.append(outcome)

    error = stayed(outcome)
    assert isinstance(error, ConvergenceError)
    assert "after 4 rounds 1.0 MiB are left to send: the guest dirties" in str(error)
    assert "--max-downtime" in str(error)
    assert "pause" not in machine.calls
    assert isinstance(outcome.destination_error, ConvergenceError)


@pytest.mark.parametrize("stage", UNINTERRUPTED[:-1])
def test_cancel_in_any_stage_leaves_the_guest_running(
    source: FakeMachine, outcomes: list[Outcome], stage: MigrationStage
) -> None:
    cancel = threading.Event()

    def watch(progress: SendProgress) -> None:
        if progress.stage is stage:
            cancel.set()

    outcome = Migration(source, VERIFIED, progress=watch, cancel=cancel).run()
    outcomes.append(outcome)

    error = stayed(outcome)
    assert isinstance(error, MigrationCancelledError)
    assert str(error) == "the migration was cancelled"
    assert error.stage is stage
    assert isinstance(outcome.destination_error, MigrationCancelledError)
    assert "the peer ended the migration (CANCELLED)" in str(outcome.destination_error)


def test_cancel_while_the_destination_stalls_does_not_wait_for_it(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    cancel = threading.Event()
    patient = Timeouts(idle_s=20.0, farewell_s=0.3)

    def stall(role: Role, _number: int, kind: RecordType, record: bytes) -> bytes | Fate:
        if (role, kind) == (Role.DESTINATION, RecordType.ACCEPT):
            cancel.set()
            return Fate.STALL
        return record

    outcome = Migration(source, MigrationOptions(timeouts=patient), rule=stall, cancel=cancel).run()
    outcomes.append(outcome)

    assert isinstance(stayed(outcome), MigrationCancelledError)


def test_cancel_at_the_destination_ends_it_at_both_ends(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    cancel = threading.Event()

    def build(description: MachineDescription) -> FakeMachine:
        cancel.set()
        return FakeMachine(description)

    outcome = Migration(source, build=build, cancel_destination=cancel).run()
    outcomes.append(outcome)

    assert isinstance(stayed(outcome), MigrationCancelledError)
    assert isinstance(outcome.destination_error, MigrationCancelledError)


def test_guest_that_powers_off_while_it_is_migrated_is_not_moved(
    outcomes: list[Outcome],
) -> None:
    machine = FakeMachine(describe(0x40_0000), guest=lambda it: it.end(RunState.SHUTDOWN))
    machine.resume()

    outcome = Migration(machine).run()
    outcomes.append(outcome)

    assert "the guest ended (shutdown) while it was migrated" in str(outcome.source_error)
    assert machine.run_state is RunState.SHUTDOWN
    nothing_started(outcome)


def test_guest_that_fails_at_the_last_moment_is_not_moved(outcomes: list[Outcome]) -> None:
    failure = StateError("broken")

    class Failing(FakeMachine):
        def pause(self) -> None:
            if not self.is_closed:
                self.end(RunState.FAILED, failure)

    machine = Failing(describe(0x40_0000))
    machine.resume()

    outcome = Migration(machine).run()
    outcomes.append(outcome)

    assert "the guest ended (internal-error) before it was stopped" in str(outcome.source_error)
    assert outcome.source_error is not None
    assert outcome.source_error.__cause__ is not None
    assert outcome.source_error.__cause__.__cause__ is failure
    nothing_started(outcome)


def test_guest_paused_before_stays_paused_when_it_fails(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    source.pause()
    source.calls.clear()

    outcome = Migration(source, build=refuse).run()
    outcomes.append(outcome)

    assert isinstance(outcome.source_error, MachineMismatchError)
    assert source.run_state is RunState.PAUSED
    assert "resume" not in source.calls


def test_guest_that_cannot_be_resumed_is_named_in_a_note(outcomes: list[Outcome]) -> None:
    class Stuck(FakeMachine):
        def resume(self) -> None:
            if self.was_ever_resumed:
                raise RunStateError("stuck")
            super().resume()

    machine = Stuck(describe(0x40_0000), guest=lambda it: it.devices.update(gpu=b""))
    machine.resume()

    outcome = Migration(machine).run()
    outcomes.append(outcome)

    assert isinstance(outcome.source_error, MigrationError)
    assert outcome.source_error.__notes__ == ["and the guest could not be resumed: stuck"]


def test_callback_that_raises_does_not_lose_the_guest(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    def broken(progress: SendProgress) -> None:
        if progress.stage is MigrationStage.COMMIT:
            raise ZeroDivisionError("a bug of the caller")

    outcome = Migration(source, VERIFIED, progress=broken).run()
    outcomes.append(outcome)

    assert isinstance(outcome.source_error, ZeroDivisionError)
    assert source.run_state is RunState.RUNNING
    nothing_started(outcome)


def test_machine_with_an_unknown_register_is_rejected_by_name(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    source.vcpus[0]._registers[type(X0)(0x6030_0000_0013_C0FF)] = 1

    outcome = Migration(source).run()
    outcomes.append(outcome)

    assert "vCPU 0 has no register 0x603000000013c0ff" in str(stayed(outcome))


@pytest.mark.parametrize(("downtime", "rounds"), [(-1.0, 40), (float("nan"), 40), (0.3, 0)])
def test_options_that_make_no_sense_are_refused(downtime: float, rounds: int) -> None:
    with pytest.raises(UsageError, match="at least 0 s and 1 round"):
        MigrationOptions(max_downtime_s=downtime, max_rounds=rounds)
