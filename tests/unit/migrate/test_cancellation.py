"""Cancelling at every record, against any destination, and how long one can keep a guest paused."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tagalong.errors import (
    HandoverUncertainError,
    HostError,
    MigrationCancelledError,
    MigrationError,
)
from tagalong.machine import RunState
from tagalong.migrate import MigrationOptions, Timeouts, migrate, switchover
from tagalong.wire import RecordType, Role
from tests.support.cases import check_each
from tests.support.fake_machine import RAM, FakeMachine, describe
from tests.support.flooding_destination import FloodingDestination
from tests.support.migration import PATIENT, Migration, Outcome
from tests.support.proxy import Fate

# What would be waited for, if a wait had to run out: no test here may come near to it.
FAR = Timeouts(idle_s=200.0, record_s=200.0, switchover_s=200.0, farewell_s=0.3)
SOON_S = 60.0

Record = tuple[Role, RecordType, int]
"""Who sends it, its type, and how many of that type came before on all connections."""


def machine() -> FakeMachine:
    made = FakeMachine(describe(0x40_0000))
    made.memory.regions[0].raw_data[:0x8000] = 0x5A
    made.memory.regions[0].raw_tags[:0x400] = 0x37
    made.resume()
    return made


class Observed:
    """Counts the records that pass a proxy; `do` may act on each before it is forwarded."""

    def __init__(self, target: Record | None, cancel: threading.Event, fate: Fate | None) -> None:
        self.seen: list[Record] = []
        self._target = target
        self._cancel = cancel
        self._fate = fate
        self._lock = threading.Lock()

    def rule(self, role: Role, _number: int, kind: RecordType, record: bytes) -> bytes | Fate:
        with self._lock:
            before = sum((role, kind) == each[:2] for each in self.seen)
            self.seen.append((role, kind, before))
            if self.seen[-1] != self._target:
                return record
        self._cancel.set()
        return self._fate or record


def run(
    options: MigrationOptions, target: Record | None = None, fate: Fate | None = None
) -> tuple[Outcome, Observed, float]:
    cancel = threading.Event()
    observed = Observed(target, cancel, fate)
    began = time.monotonic()
    outcome = Migration(machine(), options, rule=observed.rule, cancel=cancel).run()
    return outcome, observed, time.monotonic() - began


def test_cancel_just_before_any_record_leaves_one_owner_and_says_cancelled() -> None:
    options = MigrationOptions(verify=True, channels=2, timeouts=PATIENT)
    outcome, observed, _ = run(options)
    outcome.raise_if_failed().close()
    handed_over = (RecordType.COMMIT, RecordType.RUNNING, RecordType.END)

    def check(target: Record) -> None:
        outcome, observed, took_s = run(options, target)
        try:
            # Both ends may be done before the proxy has passed on the last word.
            assert target in observed.seen or target[1] is RecordType.END
            assert took_s < SOON_S
            if target[1] in handed_over:
                outcome.raise_if_failed()
                assert outcome.source.run_state is RunState.PAUSED
                assert outcome.destination.run_state is RunState.RUNNING
                return
            assert isinstance(outcome.source_error, MigrationCancelledError)
            assert str(outcome.source_error) == "the migration was cancelled"
            assert outcome.source.run_state is RunState.RUNNING
            assert outcome.arrival is None
            assert not any(built.was_ever_resumed for built in outcome.built)
        finally:
            outcome.close()

    # The last ROUND of a channel and its answer race with the hand-over; END follows it.
    racing = {RecordType.END, RecordType.ROUND}
    check_each([each for each in observed.seen if each[1] not in racing or each[2] < 2], check)


def test_cancel_just_before_any_record_of_a_resumption_says_cancelled() -> None:
    def check(kind: RecordType) -> None:
        cancel = threading.Event()
        broken: list[int] = []

        def rule(_role: Role, _number: int, seen: RecordType, record: bytes) -> bytes | Fate:
            if seen is RecordType.PAGES and not broken:
                broken.append(1)
                return Fate.CUT_ONE
            if seen is kind and broken:
                cancel.set()
            return record

        options = MigrationOptions(channels=2, reconnect_s=100, timeouts=FAR)
        began = time.monotonic()
        outcome = Migration(
            machine(), options, rule=rule, cancel=cancel, cancel_destination=cancel
        ).run()
        try:
            assert cancel.is_set()
            assert isinstance(outcome.source_error, MigrationCancelledError)
            assert time.monotonic() - began < SOON_S
            assert outcome.source.run_state is RunState.RUNNING
            assert not any(built.was_ever_resumed for built in outcome.built)
        finally:
            outcome.close()

    names = ["HELLO", "RESUME", "RESUMED", "CHANNEL"]
    check_each([RecordType[name] for name in names], check)


def test_cancel_while_any_answer_is_stalled_does_not_wait_for_it() -> None:
    options = MigrationOptions(verify=True, channels=2, timeouts=FAR)
    answers = [
        RecordType.HELLO, RecordType.ACCEPT, RecordType.CHANNEL, RecordType.ROUND,
        RecordType.DIGEST, RecordType.READY,
    ]  # fmt: skip

    def check(kind: RecordType) -> None:
        outcome, _, took_s = run(options, (Role.DESTINATION, kind, 0), Fate.STALL)
        try:
            assert isinstance(outcome.source_error, MigrationCancelledError)
            assert took_s < SOON_S
            assert outcome.source.run_state is RunState.RUNNING
        finally:
            outcome.close()

    check_each(answers, check)


def test_cancel_while_the_answer_to_resume_is_stalled_does_not_wait_for_it() -> None:
    cancel = threading.Event()
    broken: list[int] = []

    def rule(_role: Role, _number: int, kind: RecordType, record: bytes) -> bytes | Fate:
        if kind is RecordType.PAGES and not broken:
            broken.append(1)
            return Fate.CUT_ONE
        if kind is RecordType.RESUMED:
            cancel.set()
            return Fate.STALL
        return record

    options = MigrationOptions(reconnect_s=100, timeouts=FAR)
    began = time.monotonic()
    outcome = Migration(
        machine(), options, rule=rule, cancel=cancel, cancel_destination=cancel
    ).run()

    assert isinstance(outcome.source_error, MigrationCancelledError)
    assert time.monotonic() - began < SOON_S
    assert outcome.source.run_state is RunState.RUNNING
    outcome.close()


@pytest.fixture
def guests() -> Iterator[list[FakeMachine]]:
    made: list[FakeMachine] = []
    yield made
    for each in made:
        each.close()


def flooded(
    guests: list[FakeMachine], instead_of: RecordType, timeouts: Timeouts, *, cancels: bool
) -> MigrationError:
    """Return how a migration ends whose destination floods; with `cancels` it is cancelled."""
    guests.append(guest := machine())
    destination = FloodingDestination(instead_of)
    cancel = threading.Event()

    def cancel_in_the_flood() -> None:
        destination.is_flooding.wait(SOON_S)
        if cancels:
            cancel.set()

    operator = threading.Thread(target=cancel_in_the_flood)
    operator.start()
    options = MigrationOptions(
        verify=instead_of is RecordType.DIGEST, max_downtime_s=0.5, timeouts=timeouts
    )
    began = time.monotonic()
    try:
        with pytest.raises(MigrationError) as caught:
            migrate(destination.near, guest, options, cancel=cancel)
    finally:
        operator.join()
        destination.close()
    assert destination.is_flooding.is_set()
    assert time.monotonic() - began < SOON_S
    return caught.value


def test_cancel_in_a_flood_of_keepalives_ends_the_migration(guests: list[FakeMachine]) -> None:
    def check(instead_of: RecordType) -> None:
        error = flooded(guests, instead_of, FAR, cancels=True)

        assert isinstance(error, MigrationCancelledError)
        assert guests[-1].run_state is RunState.RUNNING

    check_each([RecordType.ACCEPT, RecordType.ROUND, RecordType.DIGEST, RecordType.READY], check)


def test_flood_of_keepalives_does_not_keep_the_guest_paused(guests: list[FakeMachine]) -> None:
    brief = Timeouts(idle_s=200.0, record_s=200.0, switchover_s=0.5, farewell_s=0.3)

    def check(instead_of: RecordType) -> None:
        error = flooded(guests, instead_of, brief, cancels=False)

        assert "the peer is too slow: its time is up" in str(error)
        assert isinstance(error.__cause__, HostError)
        assert guests[-1].run_state is RunState.RUNNING

    check_each([RecordType.DIGEST, RecordType.READY], check)


def test_flood_of_keepalives_after_commit_is_uncertain_soon(guests: list[FakeMachine]) -> None:
    brief = Timeouts(idle_s=200.0, record_s=200.0, switchover_s=0.5, farewell_s=0.3)

    error = flooded(guests, RecordType.RUNNING, brief, cancels=True)

    assert isinstance(error, HandoverUncertainError)
    assert guests[-1].run_state is RunState.PAUSED


def test_reader_of_the_last_pages_that_dribbles_does_not_keep_the_guest_paused(
    guests: list[FakeMachine],
) -> None:
    noise = np.random.default_rng(5).integers(0, 256, 0x20_0000, np.uint8).tobytes()
    guests.append(
        guest := FakeMachine(describe(0x40_0000), guest=lambda it: it.guest_write(RAM, noise))
    )
    guest.resume()
    brief = Timeouts(idle_s=200.0, record_s=200.0, switchover_s=0.5, farewell_s=0.3)
    destination = FloodingDestination(None)
    # Whatever is left, the guest is stopped after the first round; 1 s is allowed for the rest.
    options = MigrationOptions(max_downtime_s=1.0, switchover_bandwidth=1e12, timeouts=brief)
    began = time.monotonic()

    try:
        with pytest.raises(MigrationError, match=r"\(last pages\), the VM stays here") as caught:
            migrate(destination.near, guest, options)
    finally:
        destination.close()

    assert isinstance(caught.value.__cause__, HostError)
    assert time.monotonic() - began < SOON_S
    assert guest.run_state is RunState.RUNNING


def test_digest_of_the_source_takes_none_of_the_destinations_time(
    guests: list[FakeMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    guests.append(guest := machine())
    destination = FloodingDestination(RecordType.END)

    def slow_digest(_pages: object, tick: Callable[[], None], *, has_tags: bool) -> bytes:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            time.sleep(0.05)
            tick()
        return bytes(15) + bytes([has_tags])

    monkeypatch.setattr(switchover, "memory_digest", slow_digest)
    brief = Timeouts(idle_s=200.0, record_s=200.0, switchover_s=0.3, farewell_s=0.3)
    options = MigrationOptions(verify=True, max_downtime_s=0.3, timeouts=brief)

    try:
        report = migrate(destination.near, guest, options)
    finally:
        destination.close()

    assert report.verified
    assert destination.heard[-1] is RecordType.COMMIT
