"""Migrations beside QEMU that go wrong at a known place: every stage with every fault.

A stage is a record of the tags' stream that is about to pass: the same place whatever the load is.
The record waits until the fault has struck. The table says at which side the guest must run then,
with its tags right; that includes what the operator was told to do.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tagalong.control.client import connect
from tagalong.control.migration import migrate_vm
from tagalong.errors import CommandError, TagalongError
from tagalong.qapi.migration import MigrationRequest, Switchover
from tagalong.studies.beside.host import BesideHost
from tagalong.wire import Role
from tagalong.wire.records import RecordType
from tests.support.beside_scene import SETTINGS, Scene, answers, quiet, until, wait_for
from tests.support.fault_proxy import FaultProxy
from tests.support.unix_relay import UnixRelay

Hit = Callable[[], object]

_WAITS = "waiting for tags"
_LET_GO = "all tags are there"


class Stage(Enum):
    """A record that is about to pass: who sends it, its type, and which of that type it is."""

    SET_UP = (Role.SOURCE, RecordType.MACHINE, 1)
    ACCEPTED = (Role.DESTINATION, RecordType.ACCEPT, 1)
    FIRST_PAGES = (Role.SOURCE, RecordType.PAGES, 1)
    ROUND = (Role.SOURCE, RecordType.ROUND, 1)
    LAST_PAGES = (Role.SOURCE, RecordType.STATE, 2)  # the first is part of the set-up
    PREPARE = (Role.SOURCE, RecordType.PREPARE, 1)
    READY = (Role.DESTINATION, RecordType.READY, 1)
    COMMIT = (Role.SOURCE, RecordType.COMMIT, 1)
    RUNNING = (Role.DESTINATION, RecordType.RUNNING, 1)


class Strike(Enum):
    """What happens there."""

    CUT_TAGS = "cut-tags"
    CUT_VMM = "cut-vmm"
    KILL_SOURCE = "kill-source-sidecar"
    KILL_DESTINATION = "kill-destination-sidecar"
    KILL_VMM = "kill-destination-vmm"
    CANCEL = "cancel"


class Where(Enum):
    """Where the guest runs in the end."""

    HERE = "here"
    THERE = "there"


def expected(stage: Stage, strike: Strike, *, has_completed: bool) -> Where:
    """Return where the guest must be after this fault: docs/formats/stream.md, section 8d."""
    # The destination's side has let its guest go and is needed no more. COMMIT comes ahead of
    # READY: killed while READY is held up, it may have done so already, and then it has completed.
    has_let_go = stage is Stage.RUNNING or (stage is Stage.READY and has_completed)
    if strike is Strike.KILL_DESTINATION and has_let_go:
        return Where.THERE
    return Where.HERE


@dataclass(frozen=True)
class Case:
    """One place in the table, while the VMM waits for the last tags, or hands over meanwhile."""

    stage: Stage
    strike: Strike
    switchover: Switchover = Switchover.PAUSE

    @property
    def name(self) -> str:
        way = "" if self.switchover is Switchover.PAUSE else f"+{self.switchover.value}"
        return f"{self.strike.value}@{self.stage.name.lower()}{way}"


TABLE = tuple(
    Case(stage, strike, switchover)
    for switchover in Switchover
    for strike in Strike
    for stage in Stage
)

# The places at which the most hangs together: QEMU waits for a process that is gone; and all tags
# are there when QEMU's own migration fails.
SHORT = (
    Case(Stage.PREPARE, Strike.KILL_SOURCE),
    Case(Stage.RUNNING, Strike.CUT_VMM),
)


class _Trigger:
    """Strikes once, when the record of a stage is about to pass."""

    def __init__(self, stage: Stage) -> None:
        self.strike: Hit | None = None
        self.strikes = False  # a migration that it ends can be over before it is
        self.has_struck = threading.Event()
        self._role, self._type, self._left = stage.value
        self._lock = threading.Lock()

    def __call__(self, role: Role, _number: int, record: bytes) -> None:
        if role is not self._role or int.from_bytes(record[:2], "little") != self._type:
            return
        with self._lock:
            self._left -= 1
            if self._left:
                return
        assert self.strike is not None
        self.strikes = True
        self.strike()
        self.has_struck.set()


async def run_case(scene: Scene, case: Case) -> None:
    """Migrate, let the fault strike, and require the guest where the table says."""
    here, there = scene.here, await scene.destination()
    with ExitStack() as stack:
        vmm = stack.enter_context(UnixRelay(f"{there.name}.ram.via", there.vmm_uri, scene.folder))
        tags = stack.enter_context(_tags_proxy(scene, there, case, vmm))
        request = MigrationRequest(
            tags.uri, settings=SETTINGS, vmm_uri=vmm.uri, switchover=case.switchover
        )
        failure = await _outcome(here.control, request)
        assert tags.trigger.strikes, f"the migration never came to {case.name}: {failure}"
        await until(tags.trigger.has_struck.is_set, f"{case.strike.value} to be over")
        if case.strike is Strike.KILL_SOURCE:
            assert "tagalong beside attach" in failure, failure
            scene.attach(here)
        if case.switchover is Switchover.OVERLAP:
            await _judge_overlap(scene, there, case, failure)
        else:
            await _judge(scene, there, case, failure)


class _TagsProxy(FaultProxy):
    def __init__(self, path: Path, target: str, trigger: _Trigger) -> None:
        self.uri = f"unix:{path}"
        self.trigger = trigger
        super().__init__(str(path), target.removeprefix("unix:"), None, observe=trigger)


def _tags_proxy(scene: Scene, there: BesideHost, case: Case, vmm: UnixRelay) -> _TagsProxy:
    here, trigger = scene.here, _Trigger(case.stage)
    proxy = _TagsProxy(scene.folder / f"{there.name}.tags.via", there.tags_uri, trigger)
    strikes: dict[Strike, Hit] = {
        Strike.CUT_TAGS: proxy.cut,
        Strike.CUT_VMM: vmm.cut,
        Strike.KILL_SOURCE: lambda: scene.kill_sidecar(here),
        Strike.KILL_DESTINATION: lambda: scene.kill_sidecar(there),
        Strike.KILL_VMM: lambda: scene.kill_vmm(there),
        Strike.CANCEL: lambda: asyncio.run(_cancel(here.control)),
    }
    trigger.strike = strikes[case.strike]
    return proxy


async def _cancel(control: Path) -> None:
    async with connect(control) as client:
        await client.execute("migrate_cancel")


async def _outcome(control: Path, request: MigrationRequest) -> str:
    """Return how the migration ended, with its notes; empty if it has completed."""
    try:
        await migrate_vm(control, request, quiet)
    except CommandError:
        raise
    except TagalongError as error:
        return "\n".join([str(error), *getattr(error, "__notes__", ())])
    return ""


async def _judge(scene: Scene, there: BesideHost, case: Case, failure: str) -> None:
    if expected(case.stage, case.strike, has_completed=not failure) is Where.THERE:
        assert not failure, failure
        if case.strike is Strike.KILL_DESTINATION:
            scene.attach(there)
            await wait_for(
                lambda: answers(there.control),
                lambda: f"the new process beside the guest; {there.last_words}",
            )
        await scene.move_on(there)
        return
    assert failure, "it completed"
    scene.prepare_destination()
    await _require_here(scene, there)


async def _require_here(scene: Scene, there: BesideHost) -> None:
    """The guest runs at the source as before; end the destination."""
    here = scene.here
    await wait_for(
        lambda: answers(here.control),
        lambda: f"the guest to run at the source again; {here.last_words}",
    )
    await _require_settled(scene, here)
    await scene.require_alive(here)
    assert not there.progress, f"the guest ran at the destination, too: {there.last_words}"
    scene.end(there)


async def run_with_another_destination(scene: Scene) -> None:
    """The process beside a destination is killed while it waits: another one takes the tags."""
    there = await scene.destination()
    said = there.messages.count(_WAITS)
    scene.kill_sidecar(there)
    scene.attach(there, "--incoming", there.tags_uri)
    await until(lambda: there.messages.count(_WAITS) > said, "another process to wait for tags")
    await migrate_vm(scene.here.control, scene.request(there), quiet)
    await scene.move_on(there)


async def _judge_overlap(scene: Scene, there: BesideHost, case: Case, failure: str) -> None:
    """Require the guest at one side: where the VMM has brought it, or the operator does.

    When the fault strikes, the VMM has handed its guest over or has not: it waits for nobody.
    """
    here = scene.here
    if case.strike is Strike.KILL_DESTINATION:
        scene.attach(there)
    scene.prepare_destination()
    has_moved = await _end_of_vmms_migration(scene, here) == "completed"
    if not has_moved:
        assert failure, "it completed"
        await _require_here(scene, there)
    elif case.strike is Strike.KILL_VMM or (failure and _is_held_for_good(case)):
        scene.end(there)
        async with connect(here.control) as client:
            await client.execute("cont")
        await scene.require_alive(here)
    else:
        if failure and case.stage is not Stage.RUNNING:  # it was let go before that
            assert "paused here" in failure or case.strike is Strike.KILL_SOURCE, failure
            await _send_again(scene, there)
        await scene.move_on(there)


def _is_held_for_good(case: Case) -> bool:
    return case.strike is Strike.KILL_DESTINATION and case.stage is not Stage.RUNNING


async def _end_of_vmms_migration(scene: Scene, host: BesideHost) -> str:
    """Wait until the VMM's own migration is over, and return how it ended."""
    ends: list[str] = []
    async with connect(scene.own_monitor(host)) as own:

        async def is_over() -> bool:
            answer = await own.execute("query-migrate")
            assert isinstance(answer, dict)
            ends.append(str(answer.get("status", "none")))  # none: it had not begun
            return ends[-1] in ("none", "completed", "cancelled", "failed")

        await wait_for(is_over, lambda: f"the VMM's migration to end; {host.last_words}")
    return ends[-1]


async def _send_again(scene: Scene, there: BesideHost) -> None:
    """Send the tags again, as the operator is told, unless the guest was let go with COMMIT."""
    request = MigrationRequest(there.tags_uri, settings=SETTINGS)

    async def is_let_go() -> bool:
        if _LET_GO in there.messages:
            return True
        with suppress(TagalongError):  # a destination that was cut off listens again soon
            await migrate_vm(scene.here.control, request, quiet)
        return _LET_GO in there.messages

    await wait_for(is_let_go, lambda: f"the tags; {scene.last_words}")


async def _require_settled(scene: Scene, host: BesideHost) -> None:
    """QEMU's settings are as before."""
    settings = Path(f"{host.control}.settings")
    await until(lambda: not settings.exists(), "QEMU's settings to be restored")
    async with connect(scene.own_monitor(host)) as qemu:
        parameters = await qemu.execute("query-migrate-parameters")
        assert isinstance(parameters, dict)
        assert (parameters["downtime-limit"], parameters["max-bandwidth"]) == (300, 128 << 20)
        assert parameters.get("avail-switchover-bandwidth", 0) == 0
