"""A model of one page's tag on its way, for docs/design/beside.md: every interleaving is run.

Four parties take steps: the guest, the VMM, the carrier of tags (library and sidecar), and the
destination. A step is what is atomic in the code: what a lock covers, what the kernel does at once.
`Model.violation` searches all orders of all steps and returns the first path at whose end the guest
runs at the destination with a tag that is not the source's, or at both ends. `without` leaves a
step out.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum


class Omission(Enum):
    """A step that the argument says is needed."""

    CLEAR_MAKES_OWED = "a CLEAR does not make its pages owed"
    LOCK = "a harvest may fall between a CLEAR and its mark"
    UNPROTECTED_AT_LAST = "the final harvest leaves out what was never protected"
    STOP_BEFORE_LAST = "the final harvest does not wait until the vCPUs have stopped"
    RUN_COUNT = "no check whether a vCPU ran again after the final harvest"
    HOLD = "the destination's vCPUs are not held until COMMIT"
    LOG_END_MAKES_OWED = "the end of a slot's log does not make its pages owed"
    HOST_WRITE_MAKES_OWED = "a tag that the VMM itself writes makes nothing owed"
    READ_AFTER_HARVEST = "tags are read before the harvest that takes their page"
    ALL_OWED_AT_START = "the log begins with nothing owed"
    NEW_SLOT_OWED = "a slot that is added again begins with nothing owed"


@dataclass(frozen=True)
class World:
    """One page of one slot, and how far each party is."""

    # the page
    tag: int = 0
    is_dead: bool = False  # discarded: what it holds is the guest's to write first
    dirty: bool = False  # KVM's bit
    logged: bool = False
    owed: bool = False
    # the guest
    running: bool = True
    runs: int = 0  # how often it was let run
    writes: int = 0
    # the VMM
    vmm: int = 0
    got: bool = False  # the bit of its last GET
    half_cleared: bool = False
    # the carrier
    carrier: str = "idle"
    lives: int = 0
    final_runs: int | None = None
    early: int | None = None  # read before a harvest
    committed: bool = False
    # the destination
    arrived: int = 0
    loaded: bool = False
    runs_there: bool = False


class Model:
    """`plan`: what the VMM does, in order; `writes`: how often the guest changes the tag."""

    def __init__(
        self, plan: tuple[str, ...], *, writes: int = 3, without: Omission | None = None
    ) -> None:
        self._plan = plan
        self._writes = writes
        self._without = without

    def violation(self) -> list[str] | None:
        """Return the steps to the first wrong end, None if there is none."""
        first = World()
        cause: dict[World, tuple[World, str] | None] = {first: None}
        pending = deque([first])
        while pending:
            world = pending.popleft()
            if world.runs_there:
                if world.running or (world.arrived != world.tag and not world.is_dead):
                    return self._path(cause, world)
                continue
            for step, after in self._steps(world):
                if after not in cause:
                    cause[after] = (world, step)
                    pending.append(after)
        return None

    def arrives(self) -> bool:
        """Return whether the guest can run at the destination at all: else nothing is shown."""
        seen, pending = {World()}, deque([World()])
        while pending:
            world = pending.popleft()
            if world.runs_there:
                return True
            for _, after in self._steps(world):
                if after not in seen:
                    seen.add(after)
                    pending.append(after)
        return False

    @staticmethod
    def _path(cause: dict[World, tuple[World, str] | None], world: World) -> list[str]:
        steps = []
        while (before := cause[world]) is not None:
            world = before[0]
            steps.append(before[1])
        return steps[::-1]

    def _steps(self, world: World) -> Iterator[tuple[str, World]]:
        yield from self._guest(world)
        yield from self._vmm(world)
        yield from self._carrier(world)
        yield from self._destination(world)

    def _guest(self, world: World) -> Iterator[tuple[str, World]]:
        if not world.running or world.writes == self._writes:
            return
        # KVM marks before the store can happen: a protected page faults first. A page that is
        # marked, or not logged, is written without anyone's knowledge.
        marked = replace(world, dirty=True) if world.logged else world
        yield (
            "guest writes a tag",
            replace(marked, tag=world.tag + 1, is_dead=False, writes=world.writes + 1),
        )

    def _vmm(self, world: World) -> Iterator[tuple[str, World]]:
        if world.half_cleared:
            yield "library: owed", replace(world, half_cleared=False, owed=True)
            return
        if world.vmm == len(self._plan):
            return
        step = self._plan[world.vmm]
        after = getattr(self, f"_vmm_{step}")(replace(world, vmm=world.vmm + 1))
        if after is not None:
            yield f"VMM: {step}", after

    def _vmm_log_on(self, world: World) -> World:
        return replace(world, logged=True, dirty=True)  # INITIALLY_SET

    def _vmm_log_on_plain(self, world: World) -> World:
        return replace(world, logged=True, dirty=False)  # all pages are protected at once

    def _vmm_log_off(self, world: World) -> World:
        owed = world.owed or self._without is not Omission.LOG_END_MAKES_OWED
        return replace(world, logged=False, dirty=False, got=False, owed=owed)

    def _vmm_get(self, world: World) -> World:
        return replace(world, got=world.dirty)

    def _vmm_clear(self, world: World) -> World:
        if not world.got:
            return world
        cleared = replace(world, dirty=False, got=False)
        if self._without is Omission.CLEAR_MAKES_OWED:
            return cleared
        if self._without is Omission.LOCK:
            return replace(cleared, half_cleared=True)
        return replace(cleared, owed=True)

    def _vmm_stop(self, world: World) -> World:
        return replace(world, running=False)

    def _vmm_run_again(self, world: World) -> World | None:
        """Continue the guest, as an operator may until the tags were handed over: see B4."""
        return None if world.committed else replace(world, running=True, runs=world.runs + 1)

    def _vmm_write_tag(self, world: World) -> World:
        owed = world.owed or self._without is not Omission.HOST_WRITE_MAKES_OWED
        return replace(world, tag=world.tag + 1, is_dead=False, owed=owed)

    def _vmm_discard(self, world: World) -> World:
        return replace(world, tag=0, is_dead=True)

    def _vmm_replace_slot(self, world: World) -> World:
        owed = self._without is not Omission.NEW_SLOT_OWED
        return replace(world, tag=world.tag + 1, dirty=False, got=False, owed=owed)

    def _vmm_complete(self, world: World) -> World:
        return replace(world, loaded=True)

    def _carrier(self, world: World) -> Iterator[tuple[str, World]]:
        match world.carrier:
            case "idle":
                owed = self._without is not Omission.ALL_OWED_AT_START
                yield "carrier: start", replace(world, owed=owed, carrier="ready")
            case "ready":
                yield from self._harvests(world)
            case "read":
                yield "carrier: read, send", self._delivered(world)
            case "last":
                after = self._delivered(world)
                yield "carrier: read, send the last", replace(after, carrier="final")
            case "final":
                ran = world.runs != world.final_runs or world.running
                if not ran or self._without in (Omission.RUN_COUNT, Omission.STOP_BEFORE_LAST):
                    yield "carrier: COMMIT", replace(world, committed=True, carrier="over")

    def _harvests(self, world: World) -> Iterator[tuple[str, World]]:
        if self._without is Omission.READ_AFTER_HARVEST and world.early is None:
            yield "carrier: read early", replace(world, early=world.tag)
        unprotected = world.dirty or not world.logged
        if world.lives < 2:
            takes = world.owed and not unprotected
            yield (
                "carrier: live harvest",
                replace(
                    world,
                    owed=world.owed and unprotected,
                    lives=world.lives + 1,
                    carrier="read" if takes else "ready",
                ),
            )
        if not world.running or self._without is Omission.STOP_BEFORE_LAST:
            counted = unprotected and self._without is not Omission.UNPROTECTED_AT_LAST
            takes = world.owed or counted
            yield (
                "carrier: final harvest",
                replace(
                    world,
                    owed=False,
                    final_runs=world.runs,
                    carrier="last" if takes else "final",
                ),
            )

    def _delivered(self, world: World) -> World:
        tag = world.tag if world.early is None else world.early
        return replace(world, arrived=tag, early=None, carrier="ready")

    def _destination(self, world: World) -> Iterator[tuple[str, World]]:
        may_run = world.committed or self._without is Omission.HOLD
        if world.loaded and may_run:
            yield "destination: runs", replace(world, runs_there=True)
