"""Saving a VM: statuses, events and run states in their exact order."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tagalong.errors import HostError, RunStateError
from tagalong.machine import RunState
from tagalong.qapi.saving import SaveRequest
from tagalong.qmp.messages import Event
from tagalong.vmm.handover import FreezePurpose
from tagalong.vmm.saving import SavedVm, Saving
from tagalong.vmm.vm import Departure, Vm
from tests.support.scripted_machine import ScriptedMachine
from tests.support.scripted_storer import ScriptedStorer

TIMEOUT_S = 60.0
REQUEST = SaveRequest(Path("/tmp/vm.core"))


class Scene:
    """A running VM about to be saved, and the log of its events."""

    def __init__(self, storer: ScriptedStorer) -> None:
        self.log: list[str] = []
        self.machine = ScriptedMachine()
        self.vm = Vm(self._emit)
        self.storer = storer
        self.saving = Saving(SavedVm(self.vm, storer.store), self._emit)

    def _emit(self, event: Event) -> None:
        status = ""
        if event.name == "DUMP_COMPLETED" and event.data is not None:
            result = event.data["result"]
            assert isinstance(result, dict)
            status = f" {result['status']}"
        self.log.append(f"{event.name}{status} in {self.vm.state.value}")

    async def until_stopped(self) -> None:
        await asyncio.to_thread(self.storer.stopped.wait, TIMEOUT_S)
        await asyncio.sleep(0)  # let what the thread said arrive

    def info(self) -> dict[str, object]:
        assert self.saving.record is not None
        return self.saving.record.info().to_qmp()


def play(
    storer: ScriptedStorer, script: Callable[[Scene], Awaitable[None]], *, runs: bool = True
) -> Scene:
    async def run() -> Scene:
        scene = Scene(storer)
        scene.vm.create(scene.machine)
        if runs:
            scene.vm.cont()
        scene.log.clear()
        await asyncio.wait_for(script(scene), TIMEOUT_S)
        return scene

    return asyncio.run(run())


def test_save_running_vm_stops_it_and_lets_it_go_on() -> None:
    async def script(scene: Scene) -> None:
        done = scene.saving.start(REQUEST)
        await scene.until_stopped()
        assert scene.vm.state.value == "save-vm"
        assert scene.info() == {
            "status": "active", "completed": 400, "total": 1000, "x-kind": "snapshot",
            "x-path": "/tmp/vm.core", "x-stage": "copying", "x-round": 1,
        }  # fmt: skip
        scene.storer.finish.set()
        record = await done
        assert record.report == scene.storer.report

    scene = play(ScriptedStorer(), script)

    assert scene.log == ["STOP in save-vm", "RESUME in running",
                         "DUMP_COMPLETED completed in running"]  # fmt: skip
    assert scene.info()["x-report"] == scene.storer.report.to_json()


def test_save_of_vm_in_prelaunch_leaves_it_there() -> None:
    async def script(scene: Scene) -> None:
        done = scene.saving.start(REQUEST)
        scene.storer.finish.set()
        await done

    scene = play(ScriptedStorer(), script, runs=False)

    assert scene.log == ["DUMP_COMPLETED completed in prelaunch"]


@pytest.mark.parametrize("error", [HostError("the disk is full"), KeyError("a bug")])
def test_save_that_fails_lets_the_guest_go_on_and_says_why(error: Exception) -> None:
    async def script(scene: Scene) -> None:
        done = scene.saving.start(REQUEST)
        scene.storer.finish.set()
        record = await done
        assert record.error is not None

    scene = play(ScriptedStorer(error), script)

    assert scene.log == ["STOP in save-vm", "RESUME in running",
                         "DUMP_COMPLETED failed in running"]  # fmt: skip
    assert scene.machine.run_state is RunState.RUNNING
    assert str(error.args[0]) in str(scene.info()["error-desc"])


def test_save_that_is_cancelled_lets_the_guest_go_on() -> None:
    async def script(scene: Scene) -> None:
        done = scene.saving.start(REQUEST)
        await scene.until_stopped()
        scene.saving.cancel()
        await done

    scene = play(ScriptedStorer(), script)

    assert scene.info()["x-error-class"] == "SnapshotCancelledError"
    assert scene.vm.state.value == "running"


def test_stop_while_the_vm_is_saved_keeps_it_stopped() -> None:
    async def script(scene: Scene) -> None:
        done = scene.saving.start(REQUEST)
        await scene.until_stopped()
        scene.vm.stop()
        scene.storer.finish.set()
        await done

    scene = play(ScriptedStorer(), script)

    assert scene.vm.state.value == "paused"
    assert scene.machine.run_state is RunState.PAUSED


def test_cont_while_the_vm_is_saved_is_refused() -> None:
    async def script(scene: Scene) -> None:
        done = scene.saving.start(REQUEST)
        await scene.until_stopped()
        with pytest.raises(RunStateError, match=r"^the VM is being saved"):
            scene.vm.cont()
        scene.storer.finish.set()
        await done

    play(ScriptedStorer(), script)


def test_save_while_one_is_under_way_is_refused() -> None:
    async def script(scene: Scene) -> None:
        done = scene.saving.start(REQUEST)
        with pytest.raises(RunStateError, match=r"^there is a dump or a snapshot in progress$"):
            scene.saving.start(REQUEST)
        scene.storer.finish.set()
        await done

    play(ScriptedStorer(), script)


def test_save_of_vm_that_is_not_here_yet_is_refused() -> None:
    async def run() -> None:
        saving = Saving(SavedVm(Vm(lambda _: None), ScriptedStorer().store), lambda _: None)
        with pytest.raises(RunStateError, match=r"^the VM is not here yet"):
            saving.start(REQUEST)

    asyncio.run(run())


def test_save_of_vm_that_moved_away_is_refused() -> None:
    async def script(scene: Scene) -> None:
        await asyncio.to_thread(scene.vm.freezer(FreezePurpose.MIGRATION).freeze)
        await asyncio.sleep(0)
        scene.vm.handed_over(Departure("unix:/in", is_confirmed=True))
        with pytest.raises(RunStateError, match=r"^the VM was migrated away: save it where it is$"):
            scene.saving.start(REQUEST)

    play(ScriptedStorer(), script)


def test_cancel_and_wait_with_nothing_under_way_returns_at_once() -> None:
    async def script(scene: Scene) -> None:
        await scene.saving.cancel_and_wait(TIMEOUT_S)

    assert play(ScriptedStorer(), script).log == []
