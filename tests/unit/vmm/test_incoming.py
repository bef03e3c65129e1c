"""Incoming migrations: statuses, events and run states in their exact order."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from tagalong.errors import MachineMismatchError, RemoteProtocolError, RunStateError
from tagalong.machine import Machine, MachineDescription
from tagalong.qapi.migration import MigrationStatus, SocketAddress
from tagalong.qapi.reports import ArrivalReport
from tagalong.qmp.messages import Event
from tagalong.vmm.incoming import Build, Incoming, TakeOver
from tagalong.vmm.states import VmState
from tagalong.vmm.vm import Ending, ShutdownReason, Vm
from tests.support.results import ARRIVAL
from tests.support.scripted_machine import DESCRIPTION, ScriptedMachine

TIMEOUT_S = 60.0
ADDRESS = SocketAddress("unix", {"path": "/x"})


class ScriptedReceiver:
    """Gets a VM when released: asks for the machine, hands over, ends as told to."""

    def __init__(
        self, *, ran: bool = True, before: Exception | None = None, after: Exception | None = None
    ) -> None:
        self.address: SocketAddress | None = ADDRESS
        self.ran = ran
        self.before = before
        self.after = after
        self.refusal: Exception | None = None
        self.release = threading.Event()
        self.acknowledge = threading.Event()
        self.acknowledge.set()
        self.has_taken_over = False

    def receive(self, build: Build, take_over: TakeOver) -> ArrivalReport:
        self.release.wait(TIMEOUT_S)
        machine = build(DESCRIPTION)
        if self.before is not None:
            raise self.before
        self.has_taken_over = True
        try:
            take_over(machine, self.ran)
        except RunStateError as error:
            self.refusal = error
            raise
        self.acknowledge.wait(TIMEOUT_S)
        if self.after is not None:
            raise self.after
        return ARRIVAL

    def move_to(self, uri: str) -> None:
        self.address = SocketAddress("unix", {"path": uri})

    def close(self) -> bool:
        if not self.has_taken_over:
            self.before = self.before or MachineMismatchError("listening was ended")
        self.release.set()
        return not self.has_taken_over


class Scene:
    """A VM awaited through `receiver`, and the log of its events."""

    def __init__(self, receiver: ScriptedReceiver) -> None:
        self.log: list[str] = []
        self.machine = ScriptedMachine()
        self.vm = Vm(self._emit)
        self.receiver = receiver
        self.incoming = Incoming(self.vm, receiver, self._build)

    def _build(self, description: MachineDescription) -> Machine:
        assert description is DESCRIPTION
        return self.machine

    def _emit(self, event: Event) -> None:
        status = f" {event.data['status']}" if event.name == "MIGRATION" and event.data else ""
        self.log.append(f"{event.name}{status} in {self.vm.state.value}")

    async def until(self, status: str) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while self.incoming.record.status.value != status:
                await asyncio.sleep(0.001)


def play(receiver: ScriptedReceiver, script: Callable[[Scene], Awaitable[None]]) -> Scene:
    async def run() -> Scene:
        scene = Scene(receiver)
        scene.incoming.start()
        await script(scene)
        return scene

    return asyncio.run(run())


def test_incoming_vm_that_ran_arrives_and_runs() -> None:
    async def script(scene: Scene) -> None:
        info = scene.incoming.record.info().to_qmp()
        assert (info["status"], info["socket-address"]) == (
            "setup",
            [{"type": "unix", "path": "/x"}],
        )
        scene.receiver.release.set()
        await scene.until("completed")
        assert scene.incoming.record.info().to_qmp()["x-report"] == ARRIVAL.to_json()

    assert play(ScriptedReceiver(), script).log == [
        "MIGRATION setup in inmigrate",
        "MIGRATION active in inmigrate",
        "RESUME in running",
        "MIGRATION completed in running",
    ]


def test_incoming_vm_that_was_paused_arrives_paused() -> None:
    async def script(scene: Scene) -> None:
        scene.receiver.release.set()
        await scene.until("completed")

    scene = play(ScriptedReceiver(ran=False), script)

    assert scene.vm.state is VmState.PAUSED
    assert scene.machine.calls == []
    assert scene.log[-1] == "MIGRATION completed in paused"


def test_incoming_stop_meanwhile_keeps_the_vm_paused() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.stop()
        scene.receiver.release.set()
        await scene.until("completed")

    assert play(ScriptedReceiver(), script).vm.state is VmState.PAUSED


def test_incoming_order_to_end_before_the_take_over_aborts_it() -> None:
    async def script(scene: Scene) -> None:
        scene.vm.order_end(Ending(ShutdownReason.SIGNAL, 143))
        await scene.until("failed")

    scene = play(ScriptedReceiver(), script)

    assert scene.vm.ended.result() == Ending(ShutdownReason.SIGNAL, 143)
    assert scene.vm.state is VmState.INMIGRATE
    assert scene.machine.calls == []


def test_incoming_order_to_end_between_take_over_and_announcement_is_declined_once() -> None:
    async def script(scene: Scene) -> None:
        scene.receiver.acknowledge.clear()
        scene.receiver.release.set()
        async with asyncio.timeout(TIMEOUT_S):
            while scene.vm.state is not VmState.RUNNING:
                await asyncio.sleep(0.001)
        with pytest.raises(RunStateError, match="the VM arrives at this moment, and from now on"):
            scene.vm.order_end(Ending(ShutdownReason.QUIT))
        assert not scene.vm.ended.done()
        scene.receiver.acknowledge.set()
        await scene.until("completed")
        scene.vm.order_end(Ending(ShutdownReason.QUIT))
        assert scene.vm.ended.result() == Ending(ShutdownReason.QUIT)

    play(ScriptedReceiver(), script)


def test_incoming_failure_before_the_handover_ends_the_process() -> None:
    error = RemoteProtocolError("record type 0x0", offset=0x10)

    async def script(scene: Scene) -> None:
        scene.receiver.release.set()
        ending = await asyncio.wait_for(scene.vm.ended, TIMEOUT_S)
        assert ending == Ending(ShutdownReason.ERROR, 32, error)
        assert (
            scene.incoming.record.info().to_qmp()["error-desc"]
            == "stream offset 0x10: record type 0x0"
        )

    scene = play(ScriptedReceiver(before=error), script)

    assert scene.log[1:] == [
        "MIGRATION active in inmigrate",
        "MIGRATION failed in inmigrate",
        "SHUTDOWN in inmigrate",
    ]
    assert scene.machine.calls == []


def test_incoming_bug_before_the_handover_ends_the_process() -> None:
    async def script(scene: Scene) -> None:
        scene.receiver.release.set()
        ending = await asyncio.wait_for(scene.vm.ended, TIMEOUT_S)
        assert str(ending.error) == "internal error: ZeroDivisionError: oops"

    play(ScriptedReceiver(before=ZeroDivisionError("oops")), script)


def test_incoming_failure_after_the_handover_does_not_end_the_vm() -> None:
    async def script(scene: Scene) -> None:
        scene.receiver.release.set()
        await scene.until("failed")
        assert scene.vm.state is VmState.RUNNING
        assert not scene.vm.ended.done()

    play(ScriptedReceiver(after=RemoteProtocolError("gone", offset=9)), script)


def test_incoming_machine_that_cannot_start_is_refused_to_the_source() -> None:
    async def script(scene: Scene) -> None:
        scene.machine.power_off()
        scene.receiver.release.set()
        await asyncio.wait_for(scene.vm.ended, TIMEOUT_S)

    scene = play(ScriptedReceiver(), script)

    assert str(scene.receiver.refusal) == "the machine is shutdown"
    assert scene.vm.machine is None
    assert scene.log[-2:] == ["MIGRATION failed in inmigrate", "SHUTDOWN in inmigrate"]


def test_close_stops_listening_and_waits() -> None:
    async def script(scene: Scene) -> None:
        await scene.incoming.close(TIMEOUT_S)
        assert scene.incoming.record.status.value == "failed"

    play(ScriptedReceiver(), script)


def test_recover_tells_where_the_vm_is_awaited_now() -> None:
    async def run() -> None:
        scene = Scene(ScriptedReceiver())
        scene.incoming.recover("elsewhere")
        assert scene.incoming.record.socket_address == SocketAddress("unix", {"path": "elsewhere"})

        scene.incoming.record.advance(MigrationStatus.COMPLETED)
        with pytest.raises(RunStateError, match="no VM is awaited here"):
            scene.incoming.recover("nowhere")

    asyncio.run(run())


def test_take_over_by_a_process_that_ends_is_refused_to_the_source() -> None:
    """The end came first and the receiver missed it: the VM must stay at the source."""

    async def script(scene: Scene) -> None:
        scene.vm.end(Ending(ShutdownReason.SIGNAL, 143))
        scene.receiver.release.set()
        await scene.until("failed")

    scene = play(ScriptedReceiver(), script)

    assert str(scene.receiver.refusal) == "this process was told to end: it takes no VM over"
    assert scene.machine.calls == []
