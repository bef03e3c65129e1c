"""A core of a guest that a VMM beside us runs, without any VMM."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from tagalong.beside.dump import SavedBeside
from tagalong.beside.link_format import LinkOperation, MemorySlot, SlotFlag, VmFlag
from tagalong.beside.monitor import VmmMigration, VmmMonitor
from tagalong.beside.outgoing import VmmAccess
from tagalong.beside.vmm_settings import SettingsFile
from tagalong.core import open_core
from tagalong.errors import (
    CommandError,
    CoreError,
    HostError,
    RunStateError,
    SnapshotCancelledError,
    TagalongError,
    UsageError,
)
from tagalong.machine import PowerState, register_ids
from tagalong.mte import PACKED_RATIO
from tagalong.qapi.reports import SaveResult
from tagalong.qapi.saving import SaveKind, SaveRequest
from tests.support.fake_tag_server import GPA, PAGE, FakeLibrary

Z0 = 0x6080_0000_0015_0000


class ScriptedMonitor:
    """A VMM whose guest runs, or does not; `asked` is what it was told."""

    def __init__(self, library: FakeLibrary) -> None:
        self.state = "running"
        self.status = VmmMigration()
        self.asked: list[str] = []
        self.refused = ""
        self._library = library
        library.running = 2

    def run_state(self) -> str:
        return self.state

    def migration(self) -> VmmMigration:
        return self.status

    def ask(self, command: str, _arguments: object = None) -> object:
        if command == self.refused:
            raise CommandError(f"the VM refused {command}")
        self.asked.append(command)
        self.state = {"stop": "paused", "cont": "running"}[command]
        self._library.running = 0 if command == "stop" else 2
        return {}


class Scene:
    def __init__(self, folder: Path) -> None:
        self.library = FakeLibrary(folder / "lib.sock")
        self.monitor = ScriptedMonitor(self.library)
        self.path = folder / "vm.core"
        self.cancelled = threading.Event()
        random = np.random.default_rng(3)
        self.library.data[:] = random.integers(1, 256, self.library.data.shape, np.uint8)
        self.library.tags[:] = random.integers(0, 256, self.library.tags.shape, np.uint8)
        self.library.populated[20:40] = False
        self.library.registers = [
            {register_ids.PC: 0x1234, register_ids.x(3): 7, Z0: 5 << 128 | 9},
            {register_ids.PC: 0x5678},
        ]

    def dump(
        self, tell: Callable[[object], None] = lambda _: None, *, live: bool = False
    ) -> SaveResult:
        access = VmmAccess(
            cast("VmmMonitor", self.monitor), self.library.path, SettingsFile(self.library.path)
        )
        request = SaveRequest(self.path, kind=SaveKind.DUMP, live=live)
        return SavedBeside(lambda: access).begin(request)(tell, self.cancelled)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.library.close()


def test_core_has_data_tags_and_registers_of_all_vcpus(scene: Scene) -> None:
    report = scene.dump().report

    assert scene.monitor.asked == ["stop", "cont"]
    assert report.was_running
    assert not report.is_torn
    assert 0 < report.downtime_s <= report.duration_s
    data, tags = scene.library.data.copy(), scene.library.tags.copy()
    data[20:40], tags[20:40] = 0, 0
    size = scene.library.pages * PAGE
    with open_core(scene.path) as core:
        assert core.data(GPA, size).tobytes() == data.tobytes()
        assert core.tags(GPA, size).tobytes() == tags.tobytes()
        assert [vcpu.pc for vcpu in core.vcpus] == [0x1234, 0x5678]
        assert core.vcpus[0].x[3] == 7
        assert core.machine is not None
        first, second = core.machine.state.vcpus
        assert first.registers[register_ids.v(0)] == 9  # the lower part of Z0
        assert (first.power, second.power) == (PowerState.ON, PowerState.OFF)
        assert not core.machine.is_torn


def test_guest_that_does_not_run_is_left_as_it_is(scene: Scene) -> None:
    scene.monitor.ask("stop")

    report = scene.dump().report

    assert scene.monitor.asked == ["stop"]
    assert not report.was_running
    assert report.downtime_s == 0


def test_live_dump_stops_the_guest_for_its_registers_alone(scene: Scene) -> None:
    running_while_read = []
    report = scene.dump(
        lambda _: running_while_read.append(scene.library.running), live=True
    ).report

    assert report.is_torn
    assert set(running_while_read) == {2}
    with open_core(scene.path) as core:
        assert core.machine is not None
        assert core.machine.is_torn
        assert core.vcpus[0].pc == 0x1234


def run_for_a_moment(scene: Scene) -> None:
    scene.library.runs += 1


def plug_memory(scene: Scene) -> None:
    scene.library.slots.append(MemorySlot(9, SlotFlag(0), GPA + (1 << 30), PAGE))


def cancel(scene: Scene) -> None:
    scene.cancelled.set()


def break_link(scene: Scene) -> None:
    scene.library.refusals = {LinkOperation.READ_DATA: 5}


@pytest.mark.parametrize(
    ("meddle", "kind", "words"),
    [
        (run_for_a_moment, CoreError, "the guest was continued while it was dumped"),
        (plug_memory, CoreError, "memory slots have changed while it was dumped"),
        (cancel, SnapshotCancelledError, "cancelled on request"),
        (break_link, HostError, "refused READ_DATA"),
    ],
)
def test_dump_that_fails_leaves_no_file_and_a_guest_that_runs(
    scene: Scene, meddle: Callable[[Scene], None], kind: type[TagalongError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        scene.dump(lambda _: meddle(scene))

    assert not scene.path.exists()
    assert scene.monitor.state == "running"


@pytest.mark.parametrize("state", ["inmigrate", "finish-migrate", "postmigrate"])
def test_vm_that_is_not_only_here_is_refused(scene: Scene, state: str) -> None:
    scene.monitor.state = state

    with pytest.raises(RunStateError, match="migrat"):
        scene.dump()

    assert scene.monitor.asked == []


def test_vm_that_its_vmm_migrates_is_refused(scene: Scene) -> None:
    scene.monitor.status = VmmMigration("active")

    with pytest.raises(RunStateError, match="the VMM is migrating its guest"):
        scene.dump()


def test_guest_that_was_migrated_meanwhile_does_not_run_on_here(scene: Scene) -> None:
    def migrate(_: object) -> None:
        scene.monitor.state = "postmigrate"

    scene.dump(migrate)

    assert scene.monitor.asked == ["stop"]


def test_guest_that_cannot_be_continued_is_said_to_be_paused(scene: Scene) -> None:
    scene.monitor.refused = "cont"

    with pytest.raises(CommandError) as caught:
        scene.dump()

    assert "tagalong cont" in caught.value.__notes__[0]
    assert not scene.path.exists()


def test_snapshot_is_refused_with_the_way_to_save_such_a_guest(scene: Scene) -> None:
    access = VmmAccess(
        cast("VmmMonitor", scene.monitor), scene.library.path, SettingsFile(scene.library.path)
    )

    with pytest.raises(UsageError, match="--vmm-uri file:REST"):
        SavedBeside(lambda: access).begin(SaveRequest(scene.path))


def test_vm_without_tags_gives_a_core_without_tags(scene: Scene) -> None:
    scene.library.flags &= ~VmFlag.HAS_MTE

    scene.dump()

    with open_core(scene.path) as core:
        assert core.tag_segments == ()
        assert core.data(GPA, PAGE).size == PAGE == PACKED_RATIO * 128


def test_memory_of_devices_is_no_memory_of_the_guest(scene: Scene) -> None:
    scene.library.slots.append(MemorySlot(9, SlotFlag(0), 0x1000_0000, PAGE))
    scene.library.slots.append(MemorySlot(10, SlotFlag.READ_ONLY, 0, PAGE))

    scene.dump()

    with open_core(scene.path) as core:
        assert [region.address for region in core.regions] == [GPA]
