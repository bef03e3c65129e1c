"""Every control command in every state of a VM and its migration, on both sides.

A situation brings a VM into a state and says afterwards how it gets out of it. Each command is
executed in each situation, once; the table says which are refused and in which words. After
it, whatever the answer was:

- the run state and the machine agree: a guest runs only in `running`;
- a migration that had ended is as it was, unless the command was a new `migrate`;
- what was under way comes to an end, and the guest runs afterwards only where it should.
"""

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pytest

from tagalong.devices import VirtioBackings
from tagalong.errors import (
    HandoverUncertainError,
    MigrationCancelledError,
    MigrationError,
    MigrationStage,
    RunStateError,
    SnapshotCancelledError,
    TagalongError,
)
from tagalong.machine import Freezer, Machine, RunState
from tagalong.memory import PageBitmap
from tagalong.migrate import SendProgress, Steering
from tagalong.qapi.migration import MigrationRequest
from tagalong.qapi.reports import ArrivalReport, MigrationResult, SaveResult
from tagalong.qapi.saving import SaveRequest
from tagalong.qmp.messages import QmpError
from tagalong.snapshot import SaveProgress
from tagalong.vmm.commands import VmCommands
from tagalong.vmm.device_queries import DeviceQueries
from tagalong.vmm.incoming import Build, Incoming, TakeOver
from tagalong.vmm.outgoing import Outgoing
from tagalong.vmm.saving import SavedVm, Saving
from tagalong.vmm.states import VmState
from tagalong.vmm.vm import Vm
from tests.support.results import ARRIVAL, migration_result, save_result
from tests.support.scripted_machine import DESCRIPTION, ScriptedMachine
from tests.support.served_vm import PROGRESS

TIMEOUT_S = 60.0
URI = "tcp:host.example:1"

ARGUMENTS: Mapping[str, Mapping[str, object]] = {
    "closefd": {"fdname": "unknown"},
    "getfd": {"fdname": "none"},
    "dump-guest-memory": {"protocol": "file:/d", "paging": False, "detach": True},
    "migrate": {"uri": URI},
    "migrate-recover": {"uri": URI},
    "migrate-set-capabilities": {"capabilities": []},
    "x-snapshot": {"protocol": "file:/s", "detach": True},
}

RESUME = "migrate (resume)"
FINAL = {"cancelled", "completed", "failed"}


class EmptyMachine(ScriptedMachine):
    """A scripted machine without memory, in which no granule has a tag."""

    def populated_pages(self) -> list[PageBitmap]:
        return []


class Scene:
    """One VM with everything that acts on it; each part does what a situation tells it."""

    def __init__(self) -> None:
        self.machine = EmptyMachine()
        self.events: list[str] = []
        self.vm = Vm(lambda event: self.events.append(event.name))
        self.vm.prepare_start = lambda _: nullcontext(lambda _: None)
        self.vm.press_power_button = lambda: None
        self.outgoing = Outgoing(self.vm, self._send)
        self.saving = Saving(SavedVm(self.vm, self._store), lambda _: None)
        self.incoming: Incoming | None = None
        self.commands = VmCommands(
            self.vm,
            self.outgoing,
            lambda: self.incoming,
            self.saving,
            DeviceQueries(self.vm, VirtioBackings()),
        )
        self.release = threading.Event()
        self.pages_sent = threading.Event()
        self.freezes_first = False
        self.is_deaf = False
        self.stage = MigrationStage.PRECOPY
        self.end: TagalongError | None = None
        self.one_way = False
        self.ran_at_the_source: bool | None = None

    # --- the engine, as the situation wants it ---

    def _send(
        self,
        _machine: Machine,
        _request: MigrationRequest,
        progress: Callable[[SendProgress], None],
        cancelled: threading.Event,
        steering: Steering,
    ) -> MigrationResult:
        assert steering.freezer is not None
        steering.set_pausable(True)
        progress(dataclasses.replace(PROGRESS, stage=self.stage))
        if self.freezes_first:
            self.ran_at_the_source = steering.freezer.freeze()
        self.pages_sent.set()
        while not self.release.wait(0.001):
            if cancelled.is_set() and not self.is_deaf:
                raise MigrationCancelledError("cancelled on request")
        if cancelled.is_set():
            raise MigrationCancelledError("cancelled on request")
        if not self.freezes_first:
            self.ran_at_the_source = steering.freezer.freeze()
        if self.end is not None:
            raise self.end
        return migration_result(one_way=self.one_way)

    def _store(
        self,
        _machine: Machine,
        _request: SaveRequest,
        _progress: Callable[[SaveProgress], None],
        cancelled: threading.Event,
        freezer: Freezer,
    ) -> SaveResult:
        if self.freezes_first:
            freezer.freeze()
        self.pages_sent.set()
        while not self.release.wait(0.001):
            if cancelled.is_set():
                raise SnapshotCancelledError("cancelled on request")
        freezer.thaw()
        return save_result()

    # --- what a situation and a command do ---

    async def run(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        value = self.commands.execute(command, arguments or {})
        return await value if isinstance(value, asyncio.Future) else value

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                await asyncio.sleep(0.001)

    @property
    def status(self) -> str:
        answer = self.commands.execute("query-migrate", {})
        assert isinstance(answer, dict)
        return str(answer.get("status", "none"))

    async def begin(self, wanted: str = "active") -> None:
        await self.run("migrate", {"uri": URI})
        await self.wait(lambda: self.pages_sent.is_set() and self.status == wanted)


class ScriptedReceiver:
    """A source that connects when told to, and hands over when told to."""

    def __init__(self) -> None:
        self.connects, self.commits = threading.Event(), threading.Event()
        self.is_closed = False
        self.has_taken_over = False

    @property
    def address(self) -> None:
        return None

    def receive(self, build: Build, take_over: TakeOver) -> ArrivalReport:
        self.connects.wait(TIMEOUT_S)
        if self.is_closed:
            raise MigrationError("listening was ended")
        machine = build(DESCRIPTION)
        self.commits.wait(TIMEOUT_S)
        if self.is_closed:
            raise MigrationError("listening was ended")
        self.has_taken_over = True
        take_over(machine, True)
        return ARRIVAL

    def move_to(self, uri: str) -> None:
        del uri

    def close(self) -> bool:
        if not self.has_taken_over:
            self.is_closed = True
            self.connects.set()
            self.commits.set()
        return not self.has_taken_over


# --- the situations ---


async def prelaunch(scene: Scene) -> None:
    scene.vm.create(scene.machine)


async def running(scene: Scene) -> None:
    await prelaunch(scene)
    scene.vm.cont()


async def paused(scene: Scene) -> None:
    await running(scene)
    scene.vm.stop()


async def migration_set_up(scene: Scene) -> None:
    await running(scene)
    scene.outgoing.start(MigrationRequest(URI))


async def migration_active(scene: Scene) -> None:
    await running(scene)
    await scene.begin()


async def migration_reconnects(scene: Scene) -> None:
    await running(scene)
    scene.stage = MigrationStage.RECONNECT
    await scene.run("migrate", {"uri": URI})
    await scene.wait(scene.pages_sent.is_set)
    # The first progress makes a set-up one active, and a broken connection is one of an active one.
    assert scene.outgoing.record is not None
    scene.outgoing._progressed(PROGRESS)
    scene.outgoing._progressed(dataclasses.replace(PROGRESS, stage=MigrationStage.RECONNECT))
    assert scene.status == "x-precopy-recover"


async def migration_paused(scene: Scene) -> None:
    await migration_active(scene)
    await scene.run("migrate-pause")
    assert scene.status == "x-precopy-paused"


async def migration_being_cancelled(scene: Scene) -> None:
    scene.is_deaf = True
    await migration_active(scene)
    await scene.run("migrate_cancel")
    assert scene.status == "cancelling"


async def last_pages(scene: Scene) -> None:
    scene.freezes_first = True
    await running(scene)
    await scene.run("migrate", {"uri": URI})
    await scene.wait(lambda: scene.vm.state is VmState.FINISH_MIGRATE)


async def reset_is_asked_for_while_it_migrates(scene: Scene) -> None:
    """By the guest; who comes first carries it out: the event loop, a command, or the freeze."""
    await migration_active(scene)
    scene.machine.ask_for_reset()


async def migration_cancelled(scene: Scene) -> None:
    await migration_active(scene)
    await scene.run("migrate_cancel")
    await scene.wait(lambda: scene.status == "cancelled")


async def migration_failed_while_paused(scene: Scene) -> None:
    """The reconnect time ran out."""
    scene.end = MigrationError("did not come back in 1 s")
    await migration_paused(scene)
    scene.release.set()
    await scene.wait(lambda: scene.status == "failed")


async def moved(scene: Scene) -> None:
    await migration_active(scene)
    scene.release.set()
    await scene.wait(lambda: scene.status == "completed")


async def moved_into_a_file(scene: Scene) -> None:
    scene.one_way = True
    await moved(scene)


async def handed_over_uncertainly(scene: Scene) -> None:
    scene.end = HandoverUncertainError("no answer")
    await migration_active(scene)
    scene.release.set()
    await scene.wait(lambda: scene.status == "failed")


async def saved_live(scene: Scene) -> None:
    await running(scene)
    await scene.run("x-snapshot", ARGUMENTS["x-snapshot"])
    await scene.wait(scene.pages_sent.is_set)


async def saved(scene: Scene) -> None:
    scene.freezes_first = True
    await saved_live(scene)
    await scene.wait(lambda: scene.vm.state is VmState.SAVE_VM)


async def powered_off(scene: Scene) -> None:
    await running(scene)
    scene.machine.power_off()
    await scene.wait(scene.vm.ended.done)


async def machine_failed(scene: Scene) -> None:
    await running(scene)
    scene.machine.fail(RuntimeError("broken"))
    await scene.wait(scene.vm.ended.done)


async def awaited(scene: Scene) -> None:
    receiver = ScriptedReceiver()
    scene.incoming = Incoming(scene.vm, receiver, lambda _: scene.machine)
    scene.incoming.start()


async def arriving(scene: Scene) -> None:
    await awaited(scene)
    receiver(scene).connects.set()
    await scene.wait(lambda: scene.status == "active")


async def arrived(scene: Scene) -> None:
    await arriving(scene)
    receiver(scene).commits.set()
    await scene.wait(lambda: scene.status == "completed")


def receiver(scene: Scene) -> ScriptedReceiver:
    assert scene.incoming is not None
    found = scene.incoming._receiver
    assert isinstance(found, ScriptedReceiver)
    return found


Situation = Callable[[Scene], Awaitable[None]]

# --- what is refused, and in which words; all the rest is done ---

PROGRESS_NOW = "There's a migration process in progress"
NOT_PAUSED = "no migration is paused: there is nothing to resume"
NOT_UNDER_WAY = "no migration is under way that could be paused"
NOT_AWAITED = "no VM is awaited here"
NOT_RECLAIMABLE = "x-reclaim is for a VM whose hand-over"
NOT_HERE = "the VM is not here yet"
MOVED = f"the VM was migrated to {URI}, which owns it"
UNSURE = f"the VM was handed over to {URI}, which has not confirmed"
SAVING = "there is a dump or a snapshot in progress"

AT_REST = {
    "migrate-pause": NOT_UNDER_WAY,
    "migrate-recover": NOT_AWAITED,
    RESUME: NOT_PAUSED,
    "x-reclaim": NOT_RECLAIMABLE,
}
SAVES = ("dump-guest-memory", "x-snapshot")
RESETS = ("system_powerdown", "system_reset")
MIGRATING = {
    **AT_REST,
    "migrate": PROGRESS_NOW,
    "migrate-set-capabilities": PROGRESS_NOW,
    **dict.fromkeys(SAVES, PROGRESS_NOW),
}
GONE = {
    **AT_REST,
    "migrate": "Can't migrate the vm that was paused due to previous migration",
    **dict.fromkeys(SAVES, "the VM was migrated away"),
}
ENDED = {
    "cont": "a VM that is",
    "migrate": "there is nothing to migrate",
    "system_reset": "the machine is",
    **dict.fromkeys(SAVES, "there is nothing to save"),
}
AWAITED = {
    "migrate": "Guest is waiting for an incoming migration",
    "migrate-pause": NOT_UNDER_WAY,
    RESUME: NOT_PAUSED,
    "x-query-tags": NOT_HERE,
    **dict.fromkeys(RESETS, NOT_HERE),
    "x-reclaim": NOT_RECLAIMABLE,
    **dict.fromkeys(SAVES, NOT_HERE),
}
UNSURELY_GONE = {**GONE, "cont": UNSURE, **dict.fromkeys(RESETS, UNSURE)}


def without(table: Mapping[str, str], *commands: str) -> dict[str, str]:
    return {name: words for name, words in table.items() if name not in commands}


REFUSED: Mapping[Situation, Mapping[str, str]] = {
    prelaunch: AT_REST,
    running: AT_REST,
    paused: AT_REST,
    migration_set_up: MIGRATING,
    migration_active: without(MIGRATING, "migrate-pause"),
    migration_reconnects: without(MIGRATING, "migrate-pause"),
    migration_paused: without(MIGRATING, RESUME),
    migration_being_cancelled: MIGRATING,
    last_pages: without(
        {
            **MIGRATING,
            "cont": "Migration is not finalized yet",
            "stop": "whether it runs at the destination is decided",
            **dict.fromkeys(RESETS, "Migration is not finalized yet"),
        },
        "migrate-pause",
    ),
    migration_cancelled: AT_REST,
    migration_failed_while_paused: AT_REST,
    reset_is_asked_for_while_it_migrates: without(MIGRATING, "migrate-pause"),
    moved: {**GONE, "cont": MOVED, **dict.fromkeys(RESETS, MOVED)},
    moved_into_a_file: without(UNSURELY_GONE, "x-reclaim"),
    handed_over_uncertainly: without(UNSURELY_GONE, "x-reclaim"),
    saved_live: {**AT_REST, "migrate": SAVING, **dict.fromkeys(SAVES, SAVING)},
    saved: {
        **AT_REST,
        "cont": "the VM is being saved",
        **dict.fromkeys(RESETS, "the VM is being saved"),
        "migrate": SAVING,
        **dict.fromkeys(SAVES, SAVING),
    },
    powered_off: {**AT_REST, **ENDED},
    machine_failed: {**AT_REST, **ENDED},
    awaited: AWAITED,
    arriving: AWAITED,
    arrived: AT_REST,
}


# These act on the process, and mean the same in every state.
ALWAYS_REFUSED = {
    "closefd": "no descriptor is called unknown",
    "getfd": "No file descriptor supplied via SCM_RIGHTS",
}


async def execute(scene: Scene, command: str) -> str | None:
    """Execute one command; return why it was refused, None if it was not."""
    name, arguments = command, dict(ARGUMENTS.get(command, {}))
    if command == RESUME:
        name, arguments = "migrate", {"uri": URI, "resume": True}
    try:
        await scene.run(name, arguments)
    except (QmpError, TagalongError) as refusal:
        return str(refusal)
    return None


def check_agreement(scene: Scene, where: str) -> None:
    """The run state and the machine say the same; a machine that ended is reported soon.

    One whose guest waits for its reset counts as running: the reset follows by itself.
    """
    is_running = scene.machine.run_state in {RunState.RUNNING, RunState.RESET}
    if scene.vm.state in {VmState.SHUTDOWN, VmState.INTERNAL_ERROR}:
        return
    assert is_running == (scene.vm.state is VmState.RUNNING), where


async def finish(scene: Scene, where: str) -> None:
    """Let all that is under way come to its end, and see that it does."""
    scene.release.set()
    if scene.incoming is not None and not scene.vm.ended.done():
        receiver(scene).connects.set()
        receiver(scene).commits.set()
    await scene.wait(lambda: scene.status in {*FINAL, "none"} and not scene.saving.is_under_way)
    await scene.wait(lambda: scene.machine.run_state is not RunState.RESET or scene.vm.ended.done())
    await asyncio.sleep(0)
    check_agreement(scene, where)


async def play_cell(situation: Situation, command: str) -> None:
    where = f"{situation.__name__} x {command}"
    scene = Scene()
    await situation(scene)
    status_before, state_before = scene.status, scene.vm.state
    ran_before = scene.machine.run_state in {RunState.RUNNING, RunState.RESET}

    refusal = await execute(scene, command)

    expected = {**REFUSED[situation], **ALWAYS_REFUSED}.get(command)
    assert (refusal is None) == (expected is None), f"{where}: {refusal}"
    assert expected is None or expected in str(refusal), f"{where}: {refusal}"
    if status_before in FINAL and command != "migrate":
        assert scene.status == status_before, where
    if refusal is not None:
        assert (scene.vm.state, scene.status) == (state_before, status_before), where
    if not (scene.release.is_set() and scene.outgoing.is_under_way):
        check_agreement(scene, where)  # else the engine moves on by itself, in its thread
    await finish(scene, where)
    if command == "stop" and refusal is None and not scene.vm.ended.done():
        # A stop that was answered with success holds, wherever the guest is by now.
        assert scene.machine.run_state is not RunState.RUNNING, where
        if status_before not in FINAL:
            assert not (ran_before and scene.ran_at_the_source), where


def test_every_command_in_every_situation_is_done_or_refused_and_leaves_order() -> None:
    async def run() -> int:
        cells = 0
        names = await commands_of_a_vm()
        for situation in REFUSED:
            assert set(REFUSED[situation]) <= {*names, RESUME}
            for command in (*names, RESUME):
                await play_cell(situation, command)
                cells += 1
        return cells

    assert asyncio.run(run()) > 20 * len(REFUSED)


async def commands_of_a_vm() -> list[str]:
    answer: Any = await Scene().run("query-commands")
    return [each["name"] for each in answer if each["name"] != "qmp_capabilities"]


def test_situations_cover_every_run_state_and_every_status() -> None:
    seen_states, seen_statuses = set(), set()

    async def run() -> None:
        for situation in REFUSED:
            scene = Scene()
            await situation(scene)
            seen_states.add(scene.vm.state.value)
            seen_statuses.add(scene.status)
            await finish(scene, situation.__name__)

    asyncio.run(run())

    assert seen_states == {state.value for state in VmState}
    assert seen_statuses == {
        "none", "setup", "active", "x-precopy-recover", "x-precopy-paused", "cancelling",
        "cancelled", "completed", "failed",
    }  # fmt: skip


def test_order_to_end_in_every_situation_ends_the_process_unless_a_vm_is_just_taken_over() -> None:
    async def run() -> None:
        for situation in REFUSED:
            scene = Scene()
            await situation(scene)
            await scene.run("quit")
            assert scene.vm.ended.done(), situation.__name__
            await finish(scene, situation.__name__)
            if situation in (awaited, arriving):
                assert scene.vm.machine is None, situation.__name__

        scene = Scene()
        await arriving(scene)
        receiver(scene).has_taken_over = True
        with pytest.raises(RunStateError, match="repeat the order"):
            await scene.run("quit")
        receiver(scene).commits.set()
        await scene.wait(lambda: scene.status == "completed")

    asyncio.run(run())
