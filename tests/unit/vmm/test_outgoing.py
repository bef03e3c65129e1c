"""Outgoing migrations: statuses, events and run states in their exact order."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tagalong.errors import (
    DigestMismatchError,
    HandoverUncertainError,
    MigrationCancelledError,
    MigrationError,
    MigrationStage,
    RunStateError,
    StateError,
    TagalongError,
)
from tagalong.machine import Machine
from tagalong.migrate import MigrationOptions, SendProgress, Steering
from tagalong.qapi.migration import MigrationInfo, MigrationRequest, MigrationStatus
from tagalong.qapi.reports import MigrationResult
from tagalong.qapi.settings import MigrationSettings
from tagalong.qmp.messages import Event
from tagalong.vmm.outgoing import Outgoing
from tagalong.vmm.record import MIGRATION_TRANSITIONS, MigrationRecord
from tagalong.vmm.states import VmState
from tagalong.vmm.vm import Ending, ShutdownReason, Vm
from tests.support.results import migration_result
from tests.support.scripted_machine import ScriptedMachine

TIMEOUT_S = 60.0
REQUEST = MigrationRequest(uri="tcp:host.example:1")
PROGRESS = SendProgress(
    stage=MigrationStage.PRECOPY,
    round_number=1,
    ram_bytes=1000,
    pages_sent=7,
    pages_remaining=1,
    bytes_remaining=600,
    bytes_sent=400,
    throughput_bytes_per_s=1e6,
    dirty_rate_bytes_per_s=1e6,
    expected_downtime_s=0.0126,
    throttle_percent=30,
)
REPORT = migration_result(stop_s=0.0074)


class ScriptedSender:
    """Reports progress, freezes the machine if told to, and ends as told to."""

    def __init__(self, end: TagalongError | Exception | None, *, freezes: bool = True) -> None:
        self.end = end
        self.freezes = freezes
        self.release = threading.Event()
        self.stubborn = False
        self.request: MigrationRequest | None = None
        self.steering: Steering | None = None

    def __call__(
        self,
        _machine: Machine,
        request: MigrationRequest,
        progress: Callable[[SendProgress], None],
        cancelled: threading.Event,
        steering: Steering,
    ) -> MigrationResult:
        self.steering = steering
        self.request = request
        progress(PROGRESS)
        while not self.release.wait(0.001):
            if cancelled.is_set() and not self.stubborn:
                raise MigrationCancelledError("cancelled on request")
        if self.freezes:
            assert steering.freezer is not None
            steering.freezer.freeze()
        if self.end is not None:
            raise self.end
        return REPORT


class Scene:
    """A running VM about to be migrated, and the log of its events."""

    def __init__(self, sender: ScriptedSender) -> None:
        self.log: list[str] = []
        self.machine = ScriptedMachine()
        self.vm = Vm(self._emit)
        self.sender = sender
        self.outgoing = Outgoing(self.vm, sender)

    def _emit(self, event: Event) -> None:
        data = event.data or {}
        what = "".join(f" {value}" for name, value in data.items() if name != "x-info")
        self.log.append(f"{event.name}{what} in {self.vm.state.value}")

    async def until(self, status: str) -> dict[str, object]:
        async with asyncio.timeout(TIMEOUT_S):
            while self.info()["status"] != status:
                await asyncio.sleep(0.001)
        return self.info()

    def info(self) -> dict[str, object]:
        assert self.outgoing.record is not None
        return self.outgoing.record.info().to_qmp()


def play(sender: ScriptedSender, script: Callable[[Scene], Awaitable[None]]) -> Scene:
    async def run() -> Scene:
        scene = Scene(sender)
        scene.vm.create(scene.machine)
        scene.vm.cont()
        scene.log.clear()
        await script(scene)
        return scene

    return asyncio.run(run())


def test_tune_hands_limits_to_the_migration_under_way_and_to_no_later_one() -> None:
    async def script(scene: Scene) -> None:
        began = MigrationOptions(channels=2)
        scene.outgoing.tune(MigrationSettings(downtime_limit=1))  # there is none yet
        scene.outgoing.start(REQUEST)
        await scene.until("active")
        assert scene.sender.steering is not None
        assert scene.sender.steering.tuned(began) == began

        scene.outgoing.tune(MigrationSettings(downtime_limit=7, max_bandwidth=9, multifd=True))

        assert scene.sender.steering.tuned(began) == MigrationOptions(
            max_downtime_s=0.007, max_bandwidth=9, channels=2
        )
        scene.sender.release.set()
        await scene.until("completed")

    play(ScriptedSender(None), script)


def test_start_migration_that_succeeds_ends_in_postmigrate() -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        assert scene.info()["status"] == "setup"
        active = await scene.until("active")
        assert active["ram"] == {
            "total": 1000,
            "transferred": 400,
            "remaining": 600,
            "dirty-sync-count": 1,
            "dirty-pages-rate": 244,
            "mbps": 8.0,
            "page-size": 4096,
            "pages-per-second": 244,
            "normal": 7,
            "normal-bytes": 7 * 4096,
            "precopy-bytes": 400,
            "duplicate": 0,
            "downtime-bytes": 0,
            "multifd-bytes": 0,
            "postcopy-bytes": 0,
            "postcopy-requests": 0,
            "dirty-sync-missed-zero-copy": 0,
            "x-pages": 7,
        }
        assert active["x-stage"] == "pre-copy"
        assert active["cpu-throttle-percentage"] == 30
        assert isinstance(active["setup-time"], int)
        assert active["expected-downtime"] == 13
        scene.sender.release.set()
        completed = await scene.until("completed")
        assert completed["downtime"] == 7
        assert completed["x-report"] == REPORT.to_json()
        assert scene.vm.state is VmState.POSTMIGRATE

    scene = play(ScriptedSender(None), script)

    assert scene.log == [
        "MIGRATION setup in running",
        "MIGRATION active in running",
        "MIGRATION_PASS 1 in running",
        "STOP in finish-migrate",
        "MIGRATION completed in postmigrate",
    ]
    assert scene.sender.request == REQUEST
    assert scene.machine.calls == ["resume", "pause"]


def test_every_round_is_announced_once() -> None:
    class ThreeRounds(ScriptedSender):
        def __call__(
            self,
            machine: Machine,
            request: MigrationRequest,
            progress: Callable[[SendProgress], None],
            cancelled: threading.Event,
            steering: Steering,
        ) -> MigrationResult:
            for rounds in (0, 1, 1, 2, 2, 3):
                progress(dataclasses.replace(PROGRESS, round_number=rounds))
            self.release.set()
            return super().__call__(machine, request, lambda _: None, cancelled, steering)

    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        await scene.until("completed")

    log = play(ThreeRounds(None), script).log

    assert [line for line in log if "PASS" in line] == [
        f"MIGRATION_PASS {number} in running" for number in (1, 2, 3)
    ]


def test_broken_and_paused_connections_show_in_the_status() -> None:
    class Breaking(ScriptedSender):
        def __call__(self, *arguments: Any) -> MigrationResult:
            progress, steering = arguments[2], arguments[4]
            steering.set_pausable(True)
            progress(PROGRESS)
            progress(dataclasses.replace(PROGRESS, stage=MigrationStage.RECONNECT))
            progress(PROGRESS)
            paused.wait(TIMEOUT_S)
            while steering.is_paused:
                progress(dataclasses.replace(PROGRESS, stage=MigrationStage.RECONNECT))
                time.sleep(0.01)
            return super().__call__(*arguments)

    paused = threading.Event()

    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        while len([line for line in scene.log if "MIGRATION active" in line]) < 2:
            await asyncio.sleep(0.001)
        scene.outgoing.pause()
        paused.set()
        await asyncio.sleep(0.05)
        assert scene.info()["status"] == "x-precopy-paused"
        scene.sender.release.set()
        scene.outgoing.resume("tcp:host.example:2")
        await scene.until("completed")

    log = play(Breaking(None), script).log

    assert [line.split()[1] for line in log if line.startswith("MIGRATION ")] == [
        "setup",
        "active",
        "x-precopy-recover",
        "active",
        "x-precopy-paused",
        "x-precopy-recover",
        "active",
        "completed",
    ]


def test_migration_into_a_file_can_be_reclaimed() -> None:
    class IntoFile(ScriptedSender):
        def __call__(self, *arguments: Any) -> MigrationResult:
            super().__call__(*arguments)
            return migration_result(one_way=True)

    async def script(scene: Scene) -> None:
        scene.sender.release.set()
        scene.outgoing.start(REQUEST)
        await scene.until("completed")
        with pytest.raises(RunStateError, match="a process that loaded the file, may be"):
            scene.vm.cont()
        scene.vm.reclaim()
        scene.vm.cont()
        assert scene.vm.state is VmState.RUNNING

    play(IntoFile(None), script)


@pytest.mark.parametrize("freezes", [True, False])
def test_start_migration_that_fails_lets_the_guest_go_on(freezes: bool) -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        scene.sender.release.set()
        failed = await scene.until("failed")
        assert failed["error-desc"] == "both sides differ"
        assert failed["x-error-class"] == "DigestMismatchError"
        assert scene.vm.state is VmState.RUNNING

    scene = play(ScriptedSender(DigestMismatchError("both sides differ"), freezes=freezes), script)

    frozen = ["STOP in finish-migrate", "RESUME in running"] if freezes else []
    assert scene.log == [
        "MIGRATION setup in running",
        "MIGRATION active in running",
        "MIGRATION_PASS 1 in running",
        *frozen,
        "MIGRATION failed in running",
    ]


def test_start_migration_whose_handover_is_uncertain_keeps_the_guest_stopped() -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        scene.sender.release.set()
        await scene.until("failed")
        with pytest.raises(RunStateError, match="may be running it; look there first"):
            scene.vm.cont()

    scene = play(ScriptedSender(HandoverUncertainError("no answer")), script)

    assert scene.log[-2:] == ["STOP in finish-migrate", "MIGRATION failed in postmigrate"]
    assert scene.vm.state is VmState.POSTMIGRATE
    assert scene.machine.calls == ["resume", "pause"]


def test_start_migration_that_hits_a_bug_does_not_lose_the_vm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        scene.sender.release.set()
        failed = await scene.until("failed")
        assert failed["error-desc"] == "internal error: ZeroDivisionError: oops"
        assert failed["x-error-class"] == MigrationError.__name__
        assert scene.vm.state is VmState.RUNNING

    play(ScriptedSender(ZeroDivisionError("oops")), script)
    assert "bug in tagalong, please report it" in caplog.text
    assert "ZeroDivisionError: oops" in caplog.text


def test_cancel_ends_the_migration_and_the_guest_runs_on() -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        await scene.until("active")
        scene.outgoing.cancel()
        assert scene.info()["status"] == "cancelling"
        await scene.until("cancelled")

    scene = play(ScriptedSender(None), script)

    assert scene.log == [
        "MIGRATION setup in running",
        "MIGRATION active in running",
        "MIGRATION_PASS 1 in running",
        "MIGRATION cancelling in running",
        "MIGRATION cancelled in running",
    ]
    assert scene.machine.calls == ["resume"]


def test_cancel_before_any_progress_ends_the_migration() -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        scene.outgoing.cancel()
        await scene.until("cancelled")

    assert play(ScriptedSender(None), script).log == [
        "MIGRATION setup in running",
        "MIGRATION cancelling in running",
        "MIGRATION cancelled in running",
    ]


def test_cancel_without_migration_does_nothing() -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.cancel()
        await scene.outgoing.cancel_and_wait(TIMEOUT_S)

    assert play(ScriptedSender(None), script).log == []


def test_cancel_and_wait_returns_when_the_migration_has_ended() -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        await scene.outgoing.cancel_and_wait(TIMEOUT_S)
        assert scene.info()["status"] == "cancelled"

    play(ScriptedSender(None), script)


def test_start_second_migration_meanwhile_is_refused() -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        with pytest.raises(RunStateError, match=r"^There's a migration process in progress$"):
            scene.outgoing.start(REQUEST)
        await scene.outgoing.cancel_and_wait(TIMEOUT_S)

    play(ScriptedSender(None), script)


def test_start_again_after_failure_begins_anew() -> None:
    async def script(scene: Scene) -> None:
        scene.sender.release.set()
        scene.outgoing.start(REQUEST)
        await scene.until("failed")
        scene.sender.end = None
        scene.outgoing.start(REQUEST)
        assert "error-desc" not in scene.info()
        await scene.until("completed")

    assert play(ScriptedSender(MigrationError("first")), script).vm.state is VmState.POSTMIGRATE


def test_start_after_the_vm_moved_away_is_refused() -> None:
    async def script(scene: Scene) -> None:
        scene.sender.release.set()
        scene.outgoing.start(REQUEST)
        await scene.until("completed")
        message = (
            "^Can't migrate the vm that was paused due to previous migration: the VM was migrated "
            "to tcp:host.example:1, which owns it"
        )
        with pytest.raises(RunStateError, match=message):
            scene.outgoing.start(REQUEST)

    play(ScriptedSender(None), script)


def test_start_while_awaiting_a_migration_is_refused() -> None:
    async def run() -> None:
        vm = Vm(lambda _: None)
        with pytest.raises(RunStateError, match=r"^Guest is waiting for an incoming migration$"):
            Outgoing(vm, ScriptedSender(None)).start(REQUEST)

    asyncio.run(run())


def test_guest_powers_off_during_migration_fails_it() -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        await scene.until("active")
        scene.machine.power_off()
        await asyncio.wait_for(scene.vm.ended, TIMEOUT_S)
        scene.sender.release.set()
        failed = await scene.until("failed")
        assert failed["error-desc"] == "the guest powered off before it had moved"
        assert failed["x-error-class"] == "GuestEndedError"
        assert failed["x-exit-code"] == 46

    scene = play(ScriptedSender(None), script)

    assert scene.vm.state is VmState.SHUTDOWN
    assert scene.log[-2:] == [
        "SHUTDOWN True guest-shutdown in shutdown",
        "MIGRATION failed in shutdown",
    ]


def test_machine_that_fails_during_migration_fails_it_with_its_own_class_and_the_cause() -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        await scene.until("active")
        scene.machine.fail(StateError("broken"))
        scene.sender.release.set()
        failed = await scene.until("failed")
        assert failed["error-desc"] == "the machine failed before the VM had moved: broken"
        assert failed["x-error-class"] == "GuestEndedError"

    play(ScriptedSender(None), script)


def test_end_of_the_process_during_migration_cancels_it_and_says_why() -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        await scene.until("active")
        scene.vm.order_end(Ending(ShutdownReason.SIGNAL, 143))
        await scene.outgoing.cancel_and_wait(TIMEOUT_S)
        assert scene.info()["error-desc"] == (
            "the VM's process was told to end (host-signal) before the VM had moved"
        )
        assert scene.info()["status"] == "cancelled"

    play(ScriptedSender(None), script)


def test_last_event_of_a_migration_has_all_that_is_known() -> None:
    events: list[Event] = []

    async def script(scene: Scene) -> None:
        scene.vm._emit = events.append
        scene.outgoing.start(REQUEST)
        scene.sender.release.set()
        await scene.until("completed")

    play(ScriptedSender(None), script)

    data = [event.data for event in events if event.name == "MIGRATION" and event.data]
    assert ["x-info" in each for each in data] == [False, False, True]
    info = MigrationInfo.from_qmp(data[-1]["x-info"])
    assert info.outcome() == REPORT


def test_status_moves_as_its_table_says_and_an_end_is_an_end() -> None:
    for status in MigrationStatus:
        for wanted in MigrationStatus:
            record = MigrationRecord(status)

            moved = record.advance(wanted)

            assert moved == (wanted in MIGRATION_TRANSITIONS[status])
            assert record.status is (wanted if moved else status)
            assert not (moved and status.is_final)


def test_pause_and_resume_at_the_wrong_time_are_refused_and_change_no_status() -> None:
    async def script(scene: Scene) -> None:
        def refused(what: str) -> None:
            for command in (scene.outgoing.pause, lambda: scene.outgoing.resume("tcp:h:1")):
                with pytest.raises(RunStateError, match=r"^no migration is"):
                    command()
            assert scene.info()["status"] == what

        scene.sender.stubborn = True
        scene.outgoing.start(REQUEST)
        await scene.until("active")
        assert scene.sender.steering is not None
        scene.sender.steering.set_pausable(True)
        scene.outgoing.cancel()
        refused("cancelling")
        scene.sender.release.set()
        await scene.until("cancelled")
        refused("cancelled")

    play(ScriptedSender(MigrationCancelledError("cancelled on request")), script)


def test_resume_after_the_migration_ended_while_paused_is_refused() -> None:
    """The reconnect time ran out: `migrate` with `resume` must not bring the status to life."""

    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        await scene.until("active")
        assert scene.sender.steering is not None
        scene.sender.steering.set_pausable(True)
        scene.outgoing.pause()
        scene.sender.release.set()
        await scene.until("failed")

        with pytest.raises(RunStateError, match=r"^no migration is paused"):
            scene.outgoing.resume("tcp:host.example:2")

        assert scene.info()["status"] == "failed"
        assert not scene.outgoing.is_under_way

    play(ScriptedSender(MigrationError("did not come back in 1 s"), freezes=False), script)


def test_migration_that_fails_with_a_machine_that_cannot_resume_comes_to_an_end() -> None:
    class FailsFrozen(ScriptedSender):
        def __call__(self, *arguments: Any) -> MigrationResult:
            steering: Steering = arguments[4]
            assert steering.freezer is not None
            steering.freezer.freeze()
            arguments[0].fail(StateError("broken"))
            raise MigrationError("a disk is full")

    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        failed = await scene.until("failed")
        assert failed["error-desc"] == "the machine failed before the VM had moved: broken"
        ending = await asyncio.wait_for(scene.vm.ended, TIMEOUT_S)
        assert ending.exit_code == StateError.exit_code

    scene = play(FailsFrozen(None), script)

    assert scene.vm.state is VmState.INTERNAL_ERROR


def test_migration_that_was_resumed_elsewhere_has_moved_there() -> None:
    async def script(scene: Scene) -> None:
        scene.outgoing.start(REQUEST)
        await scene.until("active")
        assert scene.sender.steering is not None
        scene.sender.steering.set_pausable(True)
        scene.outgoing.pause()
        scene.outgoing.resume("tcp:elsewhere.example:2")
        scene.sender.release.set()
        await scene.until("completed")
        with pytest.raises(
            RunStateError, match=r"^the VM was migrated to tcp:elsewhere\.example:2"
        ):
            scene.vm.cont()

    play(ScriptedSender(None), script)
