"""When the guest has stopped for good, and what becomes of the VMM's migration."""

import threading
from pathlib import Path
from typing import cast

import pytest

from tagalong.beside.driving import DrivenDeparture
from tagalong.beside.explained import explained
from tagalong.beside.monitor import VmmMigration, VmmMonitor
from tagalong.beside.switchover import BesideSteering, WatchedDeparture
from tagalong.beside.vmm_settings import SettingsFile, VmmSettings
from tagalong.errors import (
    CommandError,
    ControlError,
    ConvergenceError,
    GuestEndedError,
    HandoverUncertainError,
    HostError,
    MigrationCancelledError,
    MigrationError,
    MigrationStage,
    TagalongError,
)
from tagalong.machine import RunState
from tagalong.qapi.events import VmEvent
from tests.support.scripted_monitor import (
    FULL,
    PAUSE,
    SLOWLY,
    ScriptedMonitor,
    ScriptedOrder,
    departure_of,
)


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedMonitor:
    # Each look is a new one: the script changes what the VMM says between two.
    monkeypatch.setattr("tagalong.beside.switchover.LOOK_AGAIN_S", 0.0)
    return ScriptedMonitor(tmp_path / "settings")


def driven(monitor: ScriptedMonitor, max_downtime_ms: int = 10_000) -> DrivenDeparture:
    return departure_of(DrivenDeparture, monitor, max_downtime_ms)


def watched(monitor: ScriptedMonitor) -> WatchedDeparture:
    return WatchedDeparture(cast("VmmMonitor", monitor), threading.Event())


def stop_at_switchover(monitor: ScriptedMonitor) -> None:
    monitor.state, monitor.status = "finish-migrate", VmmMigration("pre-switchover")


def test_driven_vmm_waits_before_it_switches_over(monitor: ScriptedMonitor) -> None:
    departure = driven(monitor)

    departure.begin()

    assert monitor.known[PAUSE]
    assert monitor.told("migrate") == [{"uri": "unix:there"}]
    assert monitor.values_of("downtime-limit") == [1]
    assert monitor.values_of("max-bandwidth") == [SLOWLY]


def test_driven_vmm_copies_at_full_speed_once_most_tags_are_there(
    monitor: ScriptedMonitor,
) -> None:
    departure = driven(monitor)
    departure.begin()
    stop = threading.Timer(0.1, stop_at_switchover, (monitor,))
    stop.start()

    assert BesideSteering(departure).begin_switchover()

    assert monitor.values_of("downtime-limit") == [1]
    assert monitor.values_of("max-bandwidth") == [SLOWLY, FULL]


def test_end_of_the_first_pass_begins_a_round_at_once(monitor: ScriptedMonitor) -> None:
    departure = driven(monitor)
    departure.begin()
    passed = VmEvent("MIGRATION_PASS", 1.0, {"pass": 2})
    threading.Timer(0.1, monitor.news.note, (passed,)).start()
    assert not departure.is_near_end

    assert not BesideSteering(departure).begin_switchover()

    assert departure.is_near_end
    assert departure.next_round_s == 0.0
    assert monitor.values_of("max-bandwidth") == [SLOWLY, FULL, SLOWLY]


def test_no_round_of_a_driven_guest_begins_once_it_has_stopped(monitor: ScriptedMonitor) -> None:
    departure = driven(monitor)
    departure.begin()
    monitor.status = VmmMigration("active", dirty_syncs=2)
    departure.check()

    monitor.news.note(VmEvent("STOP", 1.0))

    assert departure.next_round_s == 2.0


def test_no_round_begins_once_the_guest_has_stopped(monitor: ScriptedMonitor) -> None:
    departure = watched(monitor)
    departure.let_switch_over()
    monitor.news.note(VmEvent("STOP", 1.0))
    threading.Timer(0.5, lambda: setattr(monitor, "state", "finish-migrate")).start()

    assert BesideSteering(departure).begin_switchover()


def test_settings_that_were_not_restored_are_not_taken_for_the_vmms_own(
    monitor: ScriptedMonitor,
) -> None:
    departure = driven(monitor)
    SettingsFile(monitor.settings).write(VmmSettings({PAUSE: False}, {"downtime-limit": 700}))
    monitor.known[PAUSE] = True  # an attempt before has set it
    departure.begin()
    monitor.after["migrate_cancel"] = ("running", VmmMigration("cancelled"))

    departure.thaw()

    assert monitor.values_of("downtime-limit")[-1] == 700
    assert not monitor.known[PAUSE]


def test_driven_vmm_copies_slowly_while_many_tags_are_due(monitor: ScriptedMonitor) -> None:
    departure = driven(monitor)
    departure.begin()
    departure.let_switch_over()

    departure.note_due(1 << 20)
    departure.note_due(1 << 30)
    departure.note_due(1 << 30)

    assert monitor.values_of("max-bandwidth") == [SLOWLY, FULL, SLOWLY]


@pytest.mark.parametrize(
    ("state", "status", "is_final"),
    [
        ("running", "active", False),
        ("paused", "active", False),  # an operator's stop
        ("finish-migrate", "active", False),
        ("finish-migrate", "pre-switchover", True),
        ("finish-migrate", "device", False),
    ],
)
def test_last_tags_of_a_driven_guest_are_those_at_pre_switchover(
    monitor: ScriptedMonitor, state: str, status: str, is_final: bool
) -> None:
    monitor.state, monitor.status = state, VmmMigration(status)

    assert driven(monitor).is_final is is_final


@pytest.mark.parametrize(
    ("state", "is_final"),
    [("running", False), ("paused", False), ("finish-migrate", True), ("postmigrate", True)],
)
def test_last_tags_of_a_watched_guest_are_those_after_its_stop(
    monitor: ScriptedMonitor, state: str, is_final: bool
) -> None:
    monitor.state = state

    assert watched(monitor).is_final is is_final


@pytest.mark.parametrize(
    ("state", "status", "error", "words"),
    [
        ("running", VmmMigration("failed", "no route"), MigrationError, "has failed: no route"),
        ("running", VmmMigration("cancelled"), MigrationCancelledError, "was cancelled"),
        ("running", VmmMigration("postcopy-active"), MigrationError, "postcopy-ram"),
        ("shutdown", VmmMigration("active"), GuestEndedError, "ended before it had moved"),
        ("running", VmmMigration("completed"), MigrationError, "guest is running"),
        ("running", VmmMigration("none"), MigrationError, "does not migrate any more"),
    ],
)
def test_vmm_whose_migration_is_over_ends_that_of_tags(
    monitor: ScriptedMonitor,
    state: str,
    status: VmmMigration,
    error: type[MigrationError],
    words: str,
) -> None:
    monitor.state, monitor.status = state, status

    with pytest.raises(error, match=words):
        watched(monitor).check()


def test_guest_is_not_final_before_its_last_vcpu_has_left_it(monitor: ScriptedMonitor) -> None:
    """QEMU says that it has stopped its guest a moment before it has."""
    departure = watched(monitor)
    monitor.state = "finish-migrate"
    answers = iter([False, True])
    departure.no_vcpu_runs = lambda: next(answers)

    assert not departure.is_final
    assert departure.is_final


def test_event_of_the_stop_spares_the_question_whether_a_vcpu_runs(
    monitor: ScriptedMonitor,
) -> None:
    departure = watched(monitor)
    monitor.state = "finish-migrate"
    departure.no_vcpu_runs = lambda: pytest.fail("it was asked")
    monitor.news.note(VmEvent("STOP", 1.0))

    assert departure.is_final


def test_postcopy_is_refused_before_anything_moves(monitor: ScriptedMonitor) -> None:
    monitor.known["postcopy-ram"] = True

    with pytest.raises(MigrationError, match="postcopy-ram"):
        driven(monitor).begin()

    assert monitor.asked == []


def test_vmm_that_refuses_to_migrate_is_left_as_it_was(monitor: ScriptedMonitor) -> None:
    monitor.refused = {"migrate"}

    with pytest.raises(MigrationError, match="does not migrate to unix:there: the VM refused"):
        driven(monitor).begin()

    assert not monitor.known[PAUSE]
    assert monitor.values_of("downtime-limit")[-1] == 300
    assert monitor.values_of("max-bandwidth")[-1] == FULL
    assert not monitor.settings.exists()


def test_guest_that_stood_too_long_for_its_tags_is_not_handed_over(
    monitor: ScriptedMonitor,
) -> None:
    departure = driven(monitor, max_downtime_ms=0)
    stop_at_switchover(monitor)
    assert departure.is_final

    with pytest.raises(ConvergenceError, match="longer than the guest may be stopped"):
        departure.check()


def test_failure_cancels_the_vmms_migration_and_restores_its_settings(
    monitor: ScriptedMonitor,
) -> None:
    departure = driven(monitor)
    departure.begin()
    stop_at_switchover(monitor)
    monitor.after["migrate_cancel"] = ("running", VmmMigration("cancelled"))

    departure.thaw()
    departure.thaw()

    assert len(monitor.told("migrate_cancel")) == 1
    assert not monitor.known[PAUSE]
    assert departure.run_state is RunState.RUNNING


def test_handed_over_guest_is_what_the_vmm_says(monitor: ScriptedMonitor) -> None:
    departure = driven(monitor)
    departure.begin()
    stop_at_switchover(monitor)
    end = VmmMigration("completed", downtime_ms=7)
    monitor.after["migrate-continue"] = ("postmigrate", end)

    departure.hand_over()
    assert departure.finish() == end
    departure.thaw()

    assert monitor.told("migrate-continue") == [{"state": "pre-switchover"}]
    assert monitor.told("migrate_cancel") == []


def test_order_to_go_on_that_cannot_leave_at_once_goes_the_long_way(
    monitor: ScriptedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedOrder, "can_send", False)
    departure = driven(monitor)
    departure.begin()
    monitor.after["migrate-continue"] = ("postmigrate", VmmMigration("completed"))

    departure.hand_over()

    assert departure.finish().status == "completed"
    assert monitor.told("migrate-continue") == [{"state": "pre-switchover"}]


@pytest.mark.parametrize("can_send", [False, True])
def test_vmm_that_does_not_go_on_has_its_guest_here(
    monitor: ScriptedMonitor, monkeypatch: pytest.MonkeyPatch, can_send: bool
) -> None:
    monkeypatch.setattr(ScriptedOrder, "can_send", can_send)
    departure = driven(monitor)
    departure.begin()
    monitor.refused = {"migrate-continue"}
    departure.hand_over()

    with pytest.raises(MigrationError, match="does not switch over: the VM refused"):
        departure.finish()

    monitor.after["migrate_cancel"] = ("running", VmmMigration("cancelled"))
    departure.thaw()
    assert len(monitor.told("migrate_cancel")) == 1


@pytest.mark.parametrize("can_send", [False, True])
@pytest.mark.parametrize("is_obeyed", [False, True])
def test_order_to_go_on_without_an_answer_is_repeated_and_nothing_is_cancelled(
    monitor: ScriptedMonitor, monkeypatch: pytest.MonkeyPatch, can_send: bool, is_obeyed: bool
) -> None:
    """The VMM may have got it: its guest may run at the destination."""
    monkeypatch.setattr(ScriptedOrder, "can_send", can_send)
    departure = driven(monitor)
    departure.begin()
    monitor.unanswered = {"migrate-continue"}
    departure.hand_over()
    end = ("postmigrate", VmmMigration("completed"))
    if is_obeyed:
        monitor.refused, (monitor.state, monitor.status) = {"migrate-continue"}, end
    else:
        monitor.after["migrate-continue"] = end

    assert departure.finish().status == "completed"
    departure.abandon(has_committed=False)

    assert len(monitor.told("migrate-continue")) == (1 if is_obeyed else 2)
    assert monitor.told("migrate_cancel") == []


def test_vmm_that_another_client_told_to_go_on_is_not_cancelled(monitor: ScriptedMonitor) -> None:
    departure = driven(monitor)
    departure.begin()
    monitor.refused = {"migrate-continue"}
    monitor.state, monitor.status = "postmigrate", VmmMigration("completed")

    departure.hand_over()

    assert departure.finish().status == "completed"
    departure.thaw()
    assert monitor.told("migrate_cancel") == []


def test_vmm_that_does_not_say_how_it_has_handed_over_leaves_both_sides_to_look_at(
    monitor: ScriptedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.beside.driving.STALLED_S", 0.0)
    departure = driven(monitor)
    departure.begin()
    monitor.after["migrate-continue"] = ("finish-migrate", VmmMigration("device"))
    departure.hand_over()

    with pytest.raises(MigrationError, match="has made no progress") as caught:
        departure.finish()
    departure.abandon(has_committed=False)

    told = explained(caught.value, departure)
    assert isinstance(told, HandoverUncertainError)
    assert "look at both sides before you let the guest run on either" in str(told)
    assert monitor.told("migrate_cancel") == []


def test_vmm_that_may_have_begun_to_migrate_is_cancelled(monitor: ScriptedMonitor) -> None:
    """Else it would wait at its switch-over, with its guest stopped, for nobody."""
    departure = driven(monitor)
    monitor.unanswered = {"migrate"}
    monitor.after["migrate_cancel"] = ("running", VmmMigration("cancelled"))

    with pytest.raises(ControlError, match="no answer to migrate"):
        departure.begin()
    departure.thaw()

    assert len(monitor.told("migrate_cancel")) == 1
    assert not monitor.known[PAUSE]
    assert not monitor.settings.exists()


def test_vmm_whose_guest_had_come_by_a_migration_has_not_handed_it_over(
    monitor: ScriptedMonitor,
) -> None:
    departure = driven(monitor)
    departure.begin()
    monitor.status = VmmMigration("completed")

    departure.thaw()

    assert not departure.has_moved


def test_failure_of_the_vmms_own_migration_names_its_destination(monitor: ScriptedMonitor) -> None:
    departure = driven(monitor)
    departure.begin()
    monitor.status = VmmMigration("failed", "Connection refused")

    with pytest.raises(MigrationError) as caught:
        departure.check()

    told = explained(caught.value, departure)
    assert str(told) == "the VMM's own migration to unix:there has failed: Connection refused"
    assert isinstance(told, MigrationError)
    assert told.stage is MigrationStage.VMM


def test_tags_that_a_watched_vmm_may_have_do_not_speak_of_a_held_guest_only(
    monitor: ScriptedMonitor,
) -> None:
    error = HandoverUncertainError("reclaim it here (x-reclaim)")
    error.__cause__ = HostError("no answer came")

    told = explained(error, watched(monitor))

    assert isinstance(told, HandoverUncertainError)
    assert "(no answer came)" in str(told)
    assert "If it runs at the destination, end it here (quit)" in str(told)
    assert "x-reclaim" not in str(told)


@pytest.mark.parametrize("is_uncertain", [False, True])
def test_vmm_that_is_not_cancelled_is_said_so_whatever_failed(
    monitor: ScriptedMonitor, is_uncertain: bool
) -> None:
    departure = driven(monitor)
    departure.begin()
    monitor.refused = {"migrate_cancel"}
    error: TagalongError = HostError("no answer came")
    if is_uncertain:
        error = HandoverUncertainError("uncertain")
        error.__cause__ = HostError("no answer came")

    departure.abandon(has_committed=is_uncertain)

    told = explained(error, departure)
    assert str(told).startswith(
        "no answer came. The VMM did not let its migration be cancelled (the VM refused "
    )
    assert not isinstance(told, HandoverUncertainError)


def test_steps_of_any_name_are_not_kept(monitor: ScriptedMonitor) -> None:
    for number in range(100):
        monitor.news.note(VmEvent("MIGRATION", 1.0, {"status": f"step {number}"}))
    monitor.news.note(VmEvent("MIGRATION", 2.0, {"status": "device"}))

    assert monitor.news.moments_s().keys() == {"device", "device heard"}


def test_other_work_waits_only_while_the_guest_is_stopped(monitor: ScriptedMonitor) -> None:
    departure = driven(monitor)
    departure.begin()
    assert not monitor.news.is_urgent
    monitor.news.note(VmEvent("STOP", 1.0))
    assert monitor.news.is_urgent

    departure.hand_over()

    assert not monitor.news.is_urgent


def test_other_work_does_not_wait_for_a_guest_that_stays_stopped(
    monitor: ScriptedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.beside.monitor._URGENT_S", 0.0)
    departure = driven(monitor)
    departure.begin()

    monitor.news.note(VmEvent("STOP", 1.0))

    assert not monitor.news.is_urgent


def test_vmm_that_fails_after_its_tags_has_its_guest_here(monitor: ScriptedMonitor) -> None:
    departure = driven(monitor)
    departure.begin()
    monitor.after["migrate-continue"] = ("running", VmmMigration("failed", "lost"))
    departure.hand_over()

    with pytest.raises(MigrationError, match=r"all tags had arrived, then .* failed: lost"):
        departure.finish()


def test_order_that_waits_for_the_vmm_can_be_cancelled(monitor: ScriptedMonitor) -> None:
    monitor.status = VmmMigration()
    cancel = threading.Event()
    cancel.set()

    with pytest.raises(MigrationCancelledError):
        WatchedDeparture(cast("VmmMonitor", monitor), cancel).wait_for_start()


def lose(monitor: ScriptedMonitor, error: ControlError) -> None:
    def run_state() -> str:
        raise error

    monitor.run_state = run_state  # type: ignore[method-assign]


def test_vmm_that_ends_with_its_tags_under_way_has_stopped_its_guest_for_good(
    monitor: ScriptedMonitor,
) -> None:
    departure = watched(monitor)
    departure.check()
    lose(monitor, ControlError("the connection has ended"))
    answers = iter([False, True])  # its monitor goes first
    departure.is_ending = lambda: next(answers, True)

    departure.check()

    assert departure.is_final


@pytest.mark.parametrize("error", [ControlError("it was closed"), CommandError("refused")])
def test_vmm_that_does_not_answer_and_does_not_end_ends_the_migration_of_tags(
    monitor: ScriptedMonitor, error: ControlError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.beside.switchover._END_AFTER_MONITOR_S", 0.0)
    departure = watched(monitor)
    lose(monitor, error)

    with pytest.raises(type(error), match=str(error)):
        departure.check()
