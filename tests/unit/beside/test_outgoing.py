"""An order to send tags with migrations that somebody else drives: once, or until one succeeds."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from tagalong.beside.driving import Drive, DrivenDeparture
from tagalong.beside.explained import explained
from tagalong.beside.link_format import VmFlag
from tagalong.beside.monitor import VmmMigration, VmmMonitor
from tagalong.beside.outgoing import TagsOutgoing, VmmAccess
from tagalong.beside.vmm_settings import SettingsFile
from tagalong.errors import (
    ConvergenceError,
    HandoverUncertainError,
    HostError,
    MigrationCancelledError,
    MigrationError,
    RunStateError,
    TagalongError,
    UsageError,
)
from tagalong.qapi.migration import MigrationRequest, MigrationStatus, Switchover
from tagalong.qapi.reports import MigrationResult
from tests.support.fake_tag_server import FakeLibrary
from tests.support.scripted_monitor import ScriptedMonitor

WAIT_S = 60.0


class Scene:
    """A VMM that does not migrate yet, and where nothing waits for tags."""

    def __init__(self, folder: Path) -> None:
        self.library = FakeLibrary(folder / "kvm")
        self.monitor = ScriptedMonitor(folder / "settings")
        self.monitor.status = VmmMigration()
        self.seen: list[MigrationStatus] = []
        self.uri = f"unix:{folder}/nobody"
        self._access = VmmAccess(
            cast("VmmMonitor", self.monitor), self.library.path, SettingsFile(folder / "settings")
        )

    def new(self) -> TagsOutgoing:
        return TagsOutgoing(self._access, lambda record: self.seen.append(record.status))

    def order(self, *, standing: bool) -> MigrationRequest:
        return MigrationRequest(self.uri, standing=standing)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr("tagalong.beside.outgoing._FIRST_PAUSE_S", 0.01)
    scene = Scene(tmp_path)
    yield scene
    scene.library.close()


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_true():
            await asyncio.sleep(0.01)


def test_standing_order_waits_for_the_next_migration_after_a_failure(scene: Scene) -> None:
    async def play() -> None:
        outgoing = scene.new()
        outgoing.start(scene.order(standing=True))
        assert outgoing.awaits_vmm == scene.uri
        scene.monitor.status = VmmMigration("active")  # and nothing listens for the tags
        await until(lambda: scene.seen.count(MigrationStatus.FAILED) > 1)
        scene.monitor.status = VmmMigration("cancelled")
        await until(lambda: outgoing.awaits_vmm == scene.uri)
        with pytest.raises(RunStateError, match="in progress"):
            outgoing.start(scene.order(standing=False))
        await outgoing.cancel_and_wait(WAIT_S)
        assert outgoing.record is not None
        assert outgoing.record.status is MigrationStatus.CANCELLED
        assert outgoing.awaits_vmm is None

    asyncio.run(play())


def test_plain_order_ends_with_its_failure(scene: Scene) -> None:
    async def play() -> None:
        outgoing = scene.new()
        outgoing.start(scene.order(standing=False))
        scene.monitor.status = VmmMigration("active")
        await until(lambda: not outgoing.is_under_way)

    asyncio.run(play())

    assert scene.seen == [MigrationStatus.SETUP, MigrationStatus.FAILED]


@pytest.mark.parametrize("kind", [ConvergenceError, MigrationCancelledError, HostError])
def test_commit_without_an_answer_is_settled_by_the_vmm_that_we_drive(
    scene: Scene, kind: type[TagalongError]
) -> None:
    drive = Drive("unix:there", 300, SettingsFile(scene.monitor.settings))
    departure = DrivenDeparture(cast("VmmMonitor", scene.monitor), threading.Event(), drive)
    error = HandoverUncertainError("uncertain")
    error.__cause__ = kind("no answer came")

    told = explained(error, departure)

    assert type(told) is (MigrationError if kind is HostError else kind)
    assert not isinstance(told, HandoverUncertainError)
    assert "(no answer came); the VMM's migration was cancelled, its guest stays" in str(told)


def test_standing_order_for_a_migration_of_ours_is_refused() -> None:
    with pytest.raises(UsageError, match="leave out either --standing or --vmm-uri"):
        MigrationRequest("unix:/a", vmm_uri="unix:/b", standing=True)


def test_order_says_what_the_vmm_does_meanwhile_only_if_it_does_not_wait() -> None:
    pause = MigrationRequest("unix:/a", vmm_uri="unix:/b")
    overlap = MigrationRequest("unix:/a", vmm_uri="unix:/b", switchover=Switchover.OVERLAP)

    assert "x-switchover" not in pause.to_arguments()  # an earlier release does not know it
    assert overlap.to_arguments()["x-switchover"] == "overlap"


def test_switchover_of_a_vmm_that_another_tool_drives_is_refused() -> None:
    with pytest.raises(UsageError, match="give --vmm-uri, too"):
        MigrationRequest("unix:/a", switchover=Switchover.OVERLAP)


@pytest.mark.parametrize("what", ["postcopy-ram", "dirty-ring-size"])
def test_order_that_cannot_be_kept_is_refused_before_the_vmm_migrates(
    scene: Scene, what: str
) -> None:
    if what == "postcopy-ram":
        scene.monitor.known[what] = True
    else:
        scene.library.flags |= VmFlag.DIRTY_RING

    async def play() -> TagsOutgoing:
        outgoing = scene.new()
        outgoing.start(scene.order(standing=False))
        await until(lambda: not outgoing.is_under_way)
        return outgoing

    record = asyncio.run(play()).record

    assert record is not None
    assert record.status is MigrationStatus.FAILED
    assert what in str(record.error)
    assert not scene.monitor.told("migrate")


def test_order_that_is_cancelled_while_its_answer_is_awaited_is_said_to_be_cancelled(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = HandoverUncertainError("uncertain")
    error.__cause__ = MigrationCancelledError("the migration was cancelled")

    def send(*_: object) -> MigrationResult:
        raise error

    monkeypatch.setattr(TagsOutgoing, "_send", send)

    async def play() -> TagsOutgoing:
        outgoing = scene.new()
        outgoing.start(MigrationRequest(scene.uri, vmm_uri="unix:/b"))
        await until(lambda: not outgoing.is_under_way)
        return outgoing

    record = asyncio.run(play()).record

    assert record is not None
    assert record.status is MigrationStatus.CANCELLED
    assert isinstance(record.error, MigrationCancelledError)
