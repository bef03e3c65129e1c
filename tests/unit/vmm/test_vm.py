"""A VM's run states and events, in their exact order."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from tagalong.errors import HostError, RunStateError, UnsupportedInstructionError
from tagalong.qmp.messages import Event
from tagalong.vmm.handover import FreezePurpose
from tagalong.vmm.states import VmState
from tagalong.vmm.vm import Departure, Ending, ShutdownReason, Vm
from tests.support.scripted_machine import ScriptedMachine

TIMEOUT_S = 60.0


class Scene:
    """A VM in prelaunch with its machine and a log of states entered and events."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.machine = ScriptedMachine()
        self.vm = Vm(self._emit)

    def _emit(self, event: Event) -> None:
        detail = f" {dict(event.data)}" if event.data else ""
        self.log.append(f"{event.name}{detail} in {self.vm.state.value}")

    async def ending(self) -> Ending:
        return await asyncio.wait_for(self.vm.ended, TIMEOUT_S)


def play(script: Callable[[Scene], Awaitable[None]], *, created: bool = True) -> Scene:
    async def run() -> Scene:
        scene = Scene()
        if created:
            scene.vm.create(scene.machine)
        await script(scene)
        return scene

    return asyncio.run(run())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_vm_cont_stop_cont_runs_stops_and_runs() -> None:
    async def script(scene: Scene) -> None:
        assert scene.vm.state is VmState.PRELAUNCH
        scene.vm.cont()
        scene.vm.stop()
        scene.vm.cont()

    scene = play(script)

    assert scene.log == ["RESUME in running", "STOP in paused", "RESUME in running"]
    assert scene.machine.calls == ["resume", "pause", "resume"]


def test_vm_cont_while_running_and_stop_while_stopped_change_nothing() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.stop()
        scene.vm.cont()
        scene.vm.cont()

    scene = play(script)

    assert scene.log == ["RESUME in running"]
    assert scene.machine.calls == ["resume"]


def test_vm_guest_powers_off_ends_with_status_0() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.cont()
        scene.machine.power_off()
        assert await scene.ending() == Ending(ShutdownReason.GUEST)
        assert scene.vm.state is VmState.SHUTDOWN

    assert play(script).log == [
        "RESUME in running",
        "SHUTDOWN {'guest': True, 'reason': 'guest-shutdown'} in shutdown",
    ]


def test_vm_guest_powers_off_after_stop_and_cont_is_noticed() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.cont()
        scene.vm.stop()
        await asyncio.sleep(0.02)
        scene.vm.cont()
        scene.machine.power_off()
        assert (await scene.ending()).reason is ShutdownReason.GUEST

    play(script)


def test_vm_machine_fails_ends_with_the_errors_exit_code() -> None:
    error = UnsupportedInstructionError(vcpu=0, pc=0x40080000, encoding=0x1E600000, disassembly="?")

    async def script(scene: Scene) -> None:
        scene.vm.cont()
        scene.machine.fail(error)
        assert await scene.ending() == Ending(ShutdownReason.ERROR, 25, error)

    assert play(script).log == [
        "RESUME in running",
        "STOP in internal-error",
        "SHUTDOWN {'guest': False, 'reason': 'host-error'} in internal-error",
    ]


@pytest.mark.parametrize("created", [True, False])
def test_vm_end_is_announced_once(created: bool) -> None:
    async def script(scene: Scene) -> None:
        scene.vm.end(Ending(ShutdownReason.QUIT))
        scene.vm.end(Ending(ShutdownReason.SIGNAL, 130))
        assert await scene.ending() == Ending(ShutdownReason.QUIT)

    scene = play(script, created=created)

    assert [line.split(" in ")[0] for line in scene.log] == [
        "SHUTDOWN {'guest': False, 'reason': 'host-qmp-quit'}"
    ]


def test_vm_awaited_arrives_and_runs() -> None:
    async def script(scene: Scene) -> None:
        assert scene.vm.state is VmState.INMIGRATE
        assert scene.vm.machine is None
        scene.vm.arrive(scene.machine, ran=True)
        assert scene.vm.machine is scene.machine

    assert play(script, created=False).log == ["RESUME in running"]


def test_vm_awaited_stop_then_arrives_paused() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.stop()
        scene.vm.arrive(scene.machine, ran=True)
        assert scene.vm.state is VmState.PAUSED

    scene = play(script, created=False)

    assert scene.log == []
    assert scene.machine.calls == []


def test_vm_awaited_stop_then_cont_arrives_and_runs() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.stop()
        scene.vm.cont()
        scene.vm.arrive(scene.machine, ran=True)

    assert play(script, created=False).log == ["RESUME in running"]


def test_vm_awaited_whose_disk_is_in_use_has_not_arrived() -> None:
    async def script(scene: Scene) -> None:
        scene.machine.obstacle = HostError("image d.img of disk 'disk0' is in use")
        for ran in (True, False):
            with pytest.raises(HostError, match="disk 'disk0' is in use"):
                scene.vm.arrive(scene.machine, ran=ran)
            assert scene.vm.machine is None
            assert scene.vm.state is VmState.INMIGRATE

    scene = play(script, created=False)

    assert (scene.log, scene.machine.calls) == ([], [])


def test_vm_awaited_that_was_paused_arrives_with_its_disks() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.arrive(scene.machine, ran=False)

    scene = play(script, created=False)

    assert (scene.machine.calls, scene.machine.is_active) == ([], True)


def test_vm_handed_over_uncertainly_is_not_reclaimed_while_its_disk_is_in_use() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.cont()
        scene.vm.freezer(FreezePurpose.MIGRATION).freeze()
        await settle()
        scene.vm.handed_over(Departure("unix:/in", is_confirmed=False))
        scene.machine.obstacle = HostError("image d.img of disk 'disk0' is in use")
        with pytest.raises(HostError, match="disk 'disk0' is in use"):
            scene.vm.reclaim()
        assert scene.vm.state.value == "postmigrate"
        assert scene.vm.departure is not None
        scene.machine.obstacle = None
        scene.vm.reclaim()
        assert scene.vm.state.value == "paused"

    play(script)


def test_vm_thawed_while_its_disk_is_in_use_stays_paused() -> None:
    async def script(scene: Scene) -> None:
        def refuse() -> None:
            raise HostError("image d.img of disk 'disk0' is in use")

        scene.vm.cont()
        scene.vm.freezer(FreezePurpose.MIGRATION).freeze()
        await settle()
        resume, scene.machine.resume = scene.machine.resume, refuse  # type: ignore[method-assign]
        scene.vm.thaw()
        await settle()
        assert scene.vm.state.value == "paused"
        scene.machine.resume = resume  # type: ignore[method-assign]
        scene.vm.cont()
        assert scene.vm.state.value == "running"

    scene = play(script)

    assert scene.log == ["RESUME in running", "STOP in finish-migrate", "RESUME in running"]


def test_vm_awaited_cannot_be_migrated() -> None:
    async def script(scene: Scene) -> None:
        message = r"^the VM is not here yet: an incoming migration is awaited$"
        with pytest.raises(RunStateError, match=message):
            scene.vm.freezer(FreezePurpose.MIGRATION)

    play(script, created=False)


def test_vm_handed_over_refuses_cont_for_ever() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.cont()
        scene.vm.freezer(FreezePurpose.MIGRATION).freeze()
        await settle()
        assert scene.vm.state.value == "finish-migrate"
        scene.vm.handed_over(Departure("unix:/in", is_confirmed=True))
        message = "^the VM was migrated to unix:/in, which owns it: it must not run here as well$"
        with pytest.raises(RunStateError, match=message):
            scene.vm.cont()
        scene.vm.stop()
        assert scene.vm.state is VmState.POSTMIGRATE

    scene = play(script)

    assert scene.log == ["RESUME in running", "STOP in finish-migrate"]
    assert scene.machine.calls == ["resume", "pause"]


def test_vm_handed_over_uncertainly_reclaimed_stands_and_can_go_on() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.cont()
        scene.vm.freezer(FreezePurpose.MIGRATION).freeze()
        await settle()
        scene.vm.handed_over(Departure("unix:/in", is_confirmed=False))
        scene.vm.reclaim()
        assert scene.vm.state.value == "paused"
        scene.vm.cont()
        assert scene.vm.state.value == "running"

    scene = play(script)

    assert scene.machine.calls == ["resume", "pause", "resume"]


@pytest.mark.parametrize("moved", [True, False])
def test_vm_that_is_nobodys_doubt_cannot_be_reclaimed(moved: bool) -> None:
    async def script(scene: Scene) -> None:
        scene.vm.freezer(FreezePurpose.MIGRATION).freeze()
        await settle()
        if moved:
            scene.vm.handed_over(Departure("unix:/in", is_confirmed=True))
        state = scene.vm.state
        message = "^x-reclaim is for a VM whose hand-over the destination did not confirm$"
        with pytest.raises(RunStateError, match=message):
            scene.vm.reclaim()
        assert scene.vm.state is state

    play(script)


def test_vm_handed_over_uncertainly_refuses_cont_and_says_why() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.freezer(FreezePurpose.MIGRATION).freeze()
        await settle()
        scene.vm.handed_over(Departure("unix:/in", is_confirmed=False))
        message = r"^the VM was handed over to unix:/in, which has not confirmed that it runs there"
        with pytest.raises(RunStateError, match=message):
            scene.vm.cont()

    play(script)


def test_vm_handover_fails_running_guest_goes_on() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.cont()
        scene.vm.freezer(FreezePurpose.MIGRATION).freeze()
        await settle()
        scene.vm.thaw()
        scene.machine.power_off()
        await scene.ending()

    assert play(script).log == [
        "RESUME in running",
        "STOP in finish-migrate",
        "RESUME in running",
        "SHUTDOWN {'guest': True, 'reason': 'guest-shutdown'} in shutdown",
    ]


@pytest.mark.parametrize("before", [VmState.PRELAUNCH, VmState.PAUSED])
def test_vm_handover_fails_stopped_guest_is_as_before(before: VmState) -> None:
    async def script(scene: Scene) -> None:
        if before is VmState.PAUSED:
            scene.vm.cont()
            scene.vm.stop()
        scene.log.clear()
        scene.vm.freezer(FreezePurpose.MIGRATION).freeze()
        await settle()
        scene.vm.thaw()
        assert scene.vm.state is before

    assert play(script).log == []


def test_vm_stop_during_handover_is_refused_and_changes_nothing() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.cont()
        scene.vm.freezer(FreezePurpose.MIGRATION).freeze()
        await settle()
        with pytest.raises(RunStateError, match="whether it runs at the destination is decided"):
            scene.vm.stop()
        assert scene.vm.state.value == "finish-migrate"
        scene.vm.thaw()
        assert scene.vm.state is VmState.RUNNING

    assert play(script).log == [
        "RESUME in running",
        "STOP in finish-migrate",
        "RESUME in running",
    ]


def test_vm_cont_during_handover_is_refused() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.freezer(FreezePurpose.MIGRATION).freeze()
        with pytest.raises(RunStateError, match=r"^Migration is not finalized yet$"):
            scene.vm.cont()  # the event loop has not heard of the freeze yet
        await settle()
        with pytest.raises(RunStateError, match=r"^Migration is not finalized yet$"):
            scene.vm.cont()

    assert play(script).machine.calls == ["pause"]


def test_vm_frozen_by_another_thread_says_so_in_the_event_loops() -> None:
    threads: list[threading.Thread] = []

    async def script(scene: Scene) -> None:
        scene.vm.cont()
        thread = threading.Thread(target=scene.vm.freezer(FreezePurpose.MIGRATION).freeze)
        threads.append(thread)
        thread.start()
        while scene.vm.state is not VmState.FINISH_MIGRATE:
            await asyncio.sleep(0.001)

    assert play(script).log == ["RESUME in running", "STOP in finish-migrate"]
    threads[0].join()
