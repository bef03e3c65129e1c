"""The VMM's settings outlive a process that drove it, and every wait for the VMM has an end."""

from pathlib import Path
from typing import cast

import pytest

from tagalong.beside.driving import Stall, settle
from tagalong.beside.monitor import MigrationNews, VmmMigration, VmmMonitor
from tagalong.beside.vmm_settings import SettingsFile, VmmSettings
from tagalong.errors import HostError, MigrationError
from tagalong.qapi.events import VmEvent
from tests.support.scripted_monitor import FULL, PAUSE, ScriptedMonitor

BEFORE = VmmSettings({PAUSE: False}, {"downtime-limit": 300, "max-bandwidth": FULL})


@pytest.fixture
def settings(tmp_path: Path) -> SettingsFile:
    return SettingsFile(tmp_path / "a.sock.settings")


def settled(monitor: ScriptedMonitor, settings: SettingsFile) -> str | None:
    return settle(cast("VmmMonitor", monitor), settings)


def test_settings_come_back_from_the_file(settings: SettingsFile) -> None:
    settings.write(BEFORE)
    settings.write(BEFORE)  # again, over what is there

    assert settings.read() == BEFORE
    settings.remove()
    assert settings.read() is None


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "{}", '{"capabilities": 1, "parameters": {}}', "[" * 4000,
     '{"capabilities": {"events": "yes"}, "parameters": {}}'],
)  # fmt: skip
def test_file_that_makes_no_sense_restores_nothing(settings: SettingsFile, text: str) -> None:
    settings.path.write_text(text)

    assert settings.read() == VmmSettings()


def test_settings_of_others_are_left_alone(settings: SettingsFile) -> None:
    settings.path.write_text(
        '{"capabilities": {"multifd": true}, "parameters": {"max-bandwidth": 5, "x": 1}}'
    )

    assert settings.read() == VmmSettings({}, {"max-bandwidth": 5})


def test_settings_that_cannot_be_noted_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot note the VMM's settings in .*missing/settings"):
        SettingsFile(tmp_path / "missing" / "settings").write(BEFORE)


def test_process_without_a_predecessor_settles_nothing(
    tmp_path: Path, settings: SettingsFile
) -> None:
    monitor = ScriptedMonitor(tmp_path)

    assert settled(monitor, settings) is None
    assert monitor.asked == []


def test_migration_of_a_process_that_was_killed_is_cancelled(
    tmp_path: Path, settings: SettingsFile
) -> None:
    monitor = ScriptedMonitor(tmp_path)
    monitor.known[PAUSE] = True
    monitor.state, monitor.status = "finish-migrate", VmmMigration("pre-switchover")
    monitor.after["migrate_cancel"] = ("running", VmmMigration("cancelled"))
    settings.write(BEFORE)

    words = settled(monitor, settings)

    assert words is not None
    assert "migration is cancelled, and its guest is here (running)" in words
    assert not monitor.known[PAUSE]
    assert monitor.values_of("max-bandwidth") == [FULL]
    assert settings.read() is None


def test_guest_that_had_moved_is_said_to_be_there(tmp_path: Path, settings: SettingsFile) -> None:
    monitor = ScriptedMonitor(tmp_path)
    monitor.state, monitor.status = "postmigrate", VmmMigration("completed")
    settings.write(BEFORE)

    words = settled(monitor, settings)

    assert words is not None
    assert "the guest is at the destination" in words
    assert monitor.told("migrate_cancel") == []


def test_guest_that_may_run_elsewhere_is_not_cancelled(
    tmp_path: Path, settings: SettingsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU before 10 is "active" to its end if it does not pause; all tags may have arrived."""
    monitor = ScriptedMonitor(tmp_path)
    monitor.state, monitor.status = "finish-migrate", VmmMigration("active")
    looks = iter([VmmMigration("active"), VmmMigration("active"), VmmMigration("completed")])
    monkeypatch.setattr(monitor, "migration", lambda: next(looks))
    settings.write(BEFORE)

    words = settled(monitor, settings)

    assert words is not None
    assert "the guest is at the destination" in words
    assert monitor.told("migrate_cancel") == []


def test_guest_that_a_migration_had_brought_here_is_not_said_to_be_elsewhere(
    tmp_path: Path, settings: SettingsFile
) -> None:
    """The process was killed before it told the VMM to migrate."""
    monitor = ScriptedMonitor(tmp_path)
    monitor.status = VmmMigration("completed")
    settings.write(BEFORE)

    words = settled(monitor, settings)

    assert words is not None
    assert "its guest is here (running)" in words


@pytest.mark.parametrize("state", ["running", "paused"])
def test_guest_that_is_still_copied_is_cancelled(
    tmp_path: Path, settings: SettingsFile, state: str
) -> None:
    monitor = ScriptedMonitor(tmp_path)
    monitor.state = state
    monitor.after["migrate_cancel"] = (state, VmmMigration("cancelled"))
    settings.write(BEFORE)

    words = settled(monitor, settings)

    assert words is not None
    assert f"its guest is here ({state})" in words


def test_vmm_without_progress_ends_the_wait_with_what_it_was_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tagalong.beside.driving.STALLED_S", 0.0)
    stall = Stall("the VMM to hand its guest over")
    stall.note(VmmMigration("active", transferred_bytes=1))
    stall.note(VmmMigration("active", transferred_bytes=2))
    stall.note(VmmMigration("device", transferred_bytes=2))

    with pytest.raises(
        MigrationError,
        match=r"waited for the VMM to hand its guest over: .* \(it is device, with 2 bytes sent\)",
    ):
        stall.note(VmmMigration("device", transferred_bytes=2))


def test_news_measure_by_the_vmms_own_clock() -> None:
    news = MigrationNews()
    news.note(VmEvent("STOP", 9.0))
    assert news.status is None
    assert news.has_stopped

    for status, time_s in (("pre-switchover", 10.0), ("device", 10.25), ("completed", 11.0)):
        news.note(VmEvent("MIGRATION", time_s, {"status": status}))

    assert news.status == "completed"
    assert news.ms_between("pre-switchover", "device") == 250.0
    assert news.ms_between("pre-switchover", "failed") is None
    news.wait(60)  # there was news: returns at once
    news.begin()
    assert news.status is None
    assert not news.has_stopped
