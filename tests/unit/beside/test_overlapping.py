"""A VMM that hands its guest over while the last tags travel: when, and what a failure costs."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tagalong.beside.explained import explained
from tagalong.beside.monitor import VmmMigration
from tagalong.beside.overlapping import OverlappingDeparture
from tagalong.beside.switchover import BesideSteering
from tagalong.errors import (
    ConvergenceError,
    HandoverUncertainError,
    HostError,
    MigrationCancelledError,
    MigrationError,
    TagalongError,
)
from tagalong.machine import RunState
from tagalong.qapi.events import VmEvent
from tests.support.scripted_monitor import PAUSE, ScriptedMonitor, departure_of

COMPLETED = ("postmigrate", VmmMigration("completed", downtime_ms=7))
CANCELLED = ("running", VmmMigration("cancelled"))


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedMonitor:
    monkeypatch.setattr("tagalong.beside.switchover.LOOK_AGAIN_S", 0.0)
    return ScriptedMonitor(tmp_path / "settings")


def overlapping(monitor: ScriptedMonitor, max_downtime_ms: int = 10_000) -> OverlappingDeparture:
    return departure_of(OverlappingDeparture, monitor, max_downtime_ms)


def begun(monitor: ScriptedMonitor, max_downtime_ms: int = 10_000) -> OverlappingDeparture:
    departure = overlapping(monitor, max_downtime_ms)
    departure.begin()
    return departure


def stop(monitor: ScriptedMonitor, status: str = "device") -> None:
    monitor.news.note(VmEvent("STOP", 100.0))
    monitor.news.note(VmEvent("MIGRATION", 100.1, {"status": status}))
    monitor.state, monitor.status = "finish-migrate", VmmMigration(status)


def test_vmm_does_not_wait_even_if_it_was_told_to_before(monitor: ScriptedMonitor) -> None:
    monitor.known[PAUSE] = True
    departure = begun(monitor)
    assert not monitor.known[PAUSE]

    departure.hand_over()
    monitor.status = VmmMigration("completed")
    departure.finish()

    assert monitor.known[PAUSE]
    assert monitor.told("migrate-continue") == []
    assert not monitor.settings.exists()


def test_vmm_that_cannot_wait_can_still_be_driven(monitor: ScriptedMonitor) -> None:
    del monitor.known[PAUSE]

    begun(monitor)

    assert monitor.told("migrate") == [{"uri": "unix:there"}]


def test_guest_is_final_once_the_vmm_hands_over_and_nothing_is_asked(
    monitor: ScriptedMonitor,
) -> None:
    departure = begun(monitor)
    assert not departure.is_final
    stop(monitor)
    # A VMM in its hand-over answers nothing for a while.
    monitor.run_state = lambda: pytest.fail("it was asked")  # type: ignore[method-assign]

    assert departure.is_final
    assert departure.run_state is RunState.PAUSED
    assert not BesideSteering(departure).commits_ahead


def test_vmm_that_is_about_to_say_why_its_guest_has_stopped_is_not_asked(
    monitor: ScriptedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.beside.monitor.TELLS_WITHIN_S", 1e6)
    departure = begun(monitor)
    monitor.news.note(VmEvent("MIGRATION", 1.0, {"status": "active"}))
    departure.check()
    monitor.news.note(VmEvent("STOP", 1.1))
    with monkeypatch.context() as patch:
        patch.setattr(monitor, "run_state", lambda: pytest.fail("it was asked"))
        assert not departure.is_final
    stop(monitor)

    assert departure.is_final


def test_vmm_that_says_no_more_about_a_stop_is_asked(
    monitor: ScriptedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.beside.monitor.TELLS_WITHIN_S", 0.0)
    departure = begun(monitor)
    monitor.news.note(VmEvent("MIGRATION", 1.0, {"status": "active"}))
    monitor.news.note(VmEvent("STOP", 1.1))
    monitor.state = "finish-migrate"

    assert departure.is_final


def test_guest_that_was_continued_after_a_completed_migration_is_asked_about(
    monitor: ScriptedMonitor,
) -> None:
    departure = begun(monitor)
    stop(monitor, "completed")
    assert departure.is_final

    monitor.news.note(VmEvent("RESUME", 101.0))
    monitor.state, monitor.status = "running", VmmMigration("completed")

    with pytest.raises(MigrationError, match="its guest is running"):
        departure.check()


def test_failure_before_the_vmms_end_cancels_its_migration(monitor: ScriptedMonitor) -> None:
    departure = begun(monitor)
    stop(monitor)
    monitor.after["migrate_cancel"] = CANCELLED
    error = HostError("the link broke")

    departure.abandon(has_committed=False)
    departure.abandon(has_committed=False)

    assert len(monitor.told("migrate_cancel")) == 1
    assert explained(error, departure) is error
    assert not monitor.settings.exists()


@pytest.mark.parametrize("is_refused", [False, True])
def test_failure_after_the_vmms_end_says_where_the_guest_is(
    monitor: ScriptedMonitor, is_refused: bool
) -> None:
    departure = begun(monitor)
    stop(monitor)
    monitor.after["migrate_cancel"] = COMPLETED
    if is_refused:
        monitor.refused, (monitor.state, monitor.status) = {"migrate_cancel"}, COMPLETED

    departure.abandon(has_committed=False)

    told = explained(HostError("the link broke"), departure)
    assert isinstance(told, HostError)
    assert "the link broke. The VMM had handed its guest over by then: it is paused here" in str(
        told
    )
    assert "send them again" in str(told)


def test_tags_that_take_too_long_cancel_the_vmms_migration(monitor: ScriptedMonitor) -> None:
    departure = begun(monitor, max_downtime_ms=0)
    stop(monitor)
    assert departure.is_final
    monitor.after["migrate_cancel"] = CANCELLED

    with pytest.raises(ConvergenceError, match="longer than the guest may be stopped"):
        departure.check_time()


def test_tags_that_take_too_long_go_on_if_the_guest_has_been_handed_over(
    monitor: ScriptedMonitor,
) -> None:
    """It is held at its destination, and only its tags can end that."""
    departure = begun(monitor, max_downtime_ms=0)
    stop(monitor)
    assert departure.is_final
    monitor.after["migrate_cancel"] = COMPLETED

    departure.check_time()
    departure.check_time()
    departure.hand_over()

    assert departure.has_moved
    assert len(monitor.told("migrate_cancel")) == 1
    assert departure.finish() == COMPLETED[1]


def test_tags_that_take_too_long_for_several_threads_are_given_up_by_none_if_it_is_too_late(
    monitor: ScriptedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    departure = begun(monitor, max_downtime_ms=0)
    stop(monitor)
    assert departure.is_final
    monitor.after["migrate_cancel"] = COMPLETED
    asked, answered = threading.Event(), threading.Event()
    ask = monitor.ask

    def ask_slowly(command: str, arguments: object = None) -> object:
        asked.set()
        assert answered.wait(60)
        return ask(command, arguments)

    monkeypatch.setattr(monitor, "ask", ask_slowly)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(departure.check_time)
        assert asked.wait(60)
        second = threads.submit(departure.check_time)
        waited = wait((second,), 0.05).done
        answered.set()
        first.result()
        second.result()

    assert not waited
    assert len(monitor.told("migrate_cancel")) == 1


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        (COMPLETED, HandoverUncertainError, "If it runs at the destination, end it here"),
        (
            ("running", VmmMigration("failed", "lost")),
            MigrationError,
            "has failed: lost; its guest",
        ),
    ],
)
def test_commit_without_an_answer_cancels_nothing(
    monitor: ScriptedMonitor,
    end: tuple[str, VmmMigration],
    kind: type[TagalongError],
    words: str,
) -> None:
    """The destination may have let its guest go: here it runs only if the VMM has failed."""
    departure = begun(monitor)
    stop(monitor)
    monitor.state, monitor.status = end
    error = HandoverUncertainError("uncertain")
    error.__cause__ = HostError("no answer came")

    departure.abandon(has_committed=True)

    told = explained(error, departure)
    assert type(told) is kind
    assert "(no answer came)" in str(told)
    assert words in str(told)
    assert monitor.told("migrate_cancel") == []


@pytest.mark.parametrize("has_committed", [False, True])
def test_vmm_that_does_not_say_what_became_of_its_guest_is_named(
    monitor: ScriptedMonitor, has_committed: bool
) -> None:
    departure = begun(monitor)

    def migration() -> VmmMigration:
        raise HostError("it does not answer")

    monitor.migration = migration  # type: ignore[method-assign]

    departure.abandon(has_committed=has_committed)

    told = explained(MigrationCancelledError("cancelled"), departure)
    assert isinstance(told, MigrationCancelledError)
    assert "and it does not answer. So what became" in str(told)
    assert "look at both sides" in str(told)


def test_tags_add_what_the_guest_is_held_for(monitor: ScriptedMonitor) -> None:
    departure = begun(monitor)
    stop(monitor)
    assert departure.tags_ms == 0.0  # not over yet
    departure.moments.note("answered")
    answered_s = departure.moments_s()["answered"]

    monitor.news.note(VmEvent("MIGRATION", answered_s - 0.25, {"status": "completed"}))

    assert departure.tags_ms == pytest.approx(250, abs=1)
    assert departure.held_ms == departure.tags_ms


def test_tags_that_are_there_before_the_vmms_end_add_nothing(monitor: ScriptedMonitor) -> None:
    departure = begun(monitor)
    departure.moments.note("answered")
    answered_s = departure.moments_s()["answered"]
    monitor.news.note(VmEvent("MIGRATION", answered_s + 1, {"status": "completed"}))

    assert departure.tags_ms == 0.0
