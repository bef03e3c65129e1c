"""Sources that come back after a broken connection: which breaks are worth it, and for how long."""

import threading
import time

import pytest

from tagalong.errors import HostError, MigrationError, MigrationStage, RemoteProtocolError
from tagalong.machine import RunState
from tagalong.migrate import MigrationOptions, Timeouts, reconnection
from tagalong.migrate.reconnection import BreakCounter
from tagalong.wire import RecordType, Role
from tests.support.fake_machine import FakeMachine, contents, describe
from tests.support.migration import Migration, Outcome
from tests.support.proxy import Fate, Rule

# What would be waited for, if a wait had to run out: no test here may come near to it.
FAR = Timeouts(idle_s=200.0, record_s=200.0, farewell_s=0.3)
SOON_S = 60.0
MIB = 1 << 20


@pytest.fixture
def source() -> FakeMachine:
    """Return a running machine that sends one round, and a last one without pages."""
    machine = FakeMachine(describe(0x40_0000))
    machine.memory.regions[0].raw_data[:0x10_0000] = 0x5A
    machine.memory.regions[0].raw_tags[:0x8000] = 0x37
    machine.resume()
    return machine


def run(source: FakeMachine, outcomes: list[Outcome], rule: Rule, reconnect_s: int) -> Outcome:
    options = MigrationOptions(channels=3, verify=True, reconnect_s=reconnect_s, timeouts=FAR)
    began = time.monotonic()
    outcome = Migration(source, options, rule=rule).run()
    outcomes.append(outcome)
    assert time.monotonic() - began < SOON_S
    return outcome


def failed(outcome: Outcome) -> MigrationError:
    assert isinstance(outcome.source_error, MigrationError)
    assert outcome.source_error.stage is MigrationStage.RECONNECT
    assert outcome.source.run_state is RunState.RUNNING
    assert not any(built.was_ever_resumed for built in outcome.built)
    return outcome.source_error


def moved(outcome: Outcome) -> None:
    outcome.raise_if_failed()
    assert contents(outcome.destination) == contents(outcome.source)
    assert outcome.destination.run_state is RunState.RUNNING


class FirstOf:
    """Breaks a connection at the first record of each of these types, in this order."""

    def __init__(self, *kinds: RecordType) -> None:
        self.left = list(kinds)
        self._lock = threading.Lock()

    def rule(self, _role: Role, _number: int, kind: RecordType, record: bytes) -> bytes | Fate:
        with self._lock:
            if not self.left or kind is not self.left[0]:
                return record
            del self.left[0]
        return Fate.CUT_ONE


def test_connection_that_breaks_again_in_any_handshake_is_resumed(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    broken = FirstOf(
        RecordType.PAGES,
        RecordType.HELLO,
        RecordType.RESUME,
        RecordType.RESUMED,
        RecordType.CHANNEL,
    )

    outcome = run(source, outcomes, broken.rule, reconnect_s=100)

    assert not broken.left
    moved(outcome)


def test_destination_that_cuts_each_round_does_not_keep_the_migration_alive(
    source: FakeMachine, outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnection, "_MAX_BREAKS_WITHOUT_PROGRESS", 3)

    def cut(role: Role, _number: int, kind: RecordType, record: bytes) -> bytes | Fate:
        is_answer = role is Role.DESTINATION and kind is RecordType.ROUND
        return Fate.CUT_ONE if kind is RecordType.ROUND and not is_answer else record

    error = failed(run(source, outcomes, cut, reconnect_s=15))

    assert "the connection broke 3 times in a row" in str(error)
    assert "bytes of the round are left" in str(error)


def test_error_in_what_was_received_ends_a_resumption_at_once(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    broken = FirstOf(RecordType.PAGES)

    def damage(role: Role, number: int, kind: RecordType, record: bytes) -> bytes | Fate:
        result = broken.rule(role, number, kind, record)
        return record[:-1] + b"\xee" if kind is RecordType.RESUMED else result

    error = failed(run(source, outcomes, damage, reconnect_s=15))

    assert isinstance(error.__cause__, RemoteProtocolError)
    assert "(RESUMED) should be" in str(error)
    assert "did not come back" not in str(error)


def test_abort_ends_a_resumption_at_once(source: FakeMachine, outcomes: list[Outcome]) -> None:
    broken = FirstOf(RecordType.PAGES)

    def damage(role: Role, number: int, kind: RecordType, record: bytes) -> bytes | Fate:
        result = broken.rule(role, number, kind, record)
        return record[:-1] + b"\xee" if kind is RecordType.RESUME else result

    error = failed(run(source, outcomes, damage, reconnect_s=15))

    assert "the peer ended the migration (PROTOCOL)" in str(error)
    assert "did not come back" not in str(error)


def test_handshake_that_stalls_takes_no_longer_than_the_time_to_reconnect(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    broken = FirstOf(RecordType.PAGES)

    def stall(role: Role, number: int, kind: RecordType, record: bytes) -> bytes | Fate:
        is_return = not broken.left and (role, kind) == (Role.DESTINATION, RecordType.HELLO)
        return Fate.STALL if is_return else broken.rule(role, number, kind, record)

    error = failed(run(source, outcomes, stall, reconnect_s=1))

    assert "did not come back in 1 s" in str(error)


def test_channels_that_do_not_answer_after_running_delay_nothing(
    source: FakeMachine, outcomes: list[Outcome]
) -> None:
    channels: set[int] = set()
    stalled: list[int] = []

    def stall(role: Role, number: int, kind: RecordType, record: bytes) -> bytes | Fate:
        if role is Role.DESTINATION and kind is RecordType.CHANNEL:
            channels.add(threading.get_ident())
        is_channel = threading.get_ident() in channels
        if is_channel and role is Role.DESTINATION and number == 2:
            stalled.append(number)
            return Fate.STALL
        return record

    outcome = run(source, outcomes, stall, reconnect_s=0)

    moved(outcome)
    assert len(stalled) == 2


def test_break_counter_counts_breaks_in_a_row_without_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconnection, "_MAX_BREAKS_WITHOUT_PROGRESS", 3)
    counter, error = BreakCounter(), HostError("cut")
    for left_bytes in (100 * MIB, 97 * MIB, 97 * MIB, 96 * MIB, 93 * MIB, 95 * MIB, 92 * MIB):
        counter.note(error, 0, left_bytes)
    counter.note(error, 1, 200 * MIB)
    counter.note(error, 1, 197 * MIB)
    counter.note(error, 1, 197 * MIB)

    with pytest.raises(MigrationError, match=r"broke 3 times in a row \(cut\)") as caught:
        counter.note(error, 1, 197 * MIB)

    assert caught.value.__cause__ is error
