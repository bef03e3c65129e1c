"""A model of one page's tag on its way, for docs/design/beside.md: every interleaving is run.

Four parties take steps: the guest, the VMM, the carrier of tags (library and sidecar), and the
destination. A step is what is atomic in the code: what a lock covers, what the kernel does at once.
`Model.violation` searches all orders of all steps and returns the first path at whose end the guest
runs at the destination with a tag, or data, that are not the source's, or at both ends. `without`
leaves a step out.

    harvest    one lock: which pages are owed, which are unprotected
    look-up    whether the page is there; one that is not is left out
    tags       read and kept, if they are few enough to come with the harvest; sent later
    send       a kept tag, the latest one; else what is read now
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

_LIVE_HARVESTS = 2
_KEPT_HARVESTS = 2


class Omission(Enum):
    """A step that the argument says is needed."""

    CLEAR_MAKES_OWED = "a CLEAR does not make its pages owed"
    LOCK = "a harvest may fall between a CLEAR and its mark"
    UNPROTECTED_AT_LAST = "the final harvest leaves out what was never protected"
    STOP_BEFORE_LAST = "the final harvest does not wait until the vCPUs have stopped"
    RUN_COUNT = "no check whether a vCPU ran again after the final harvest"
    COUNT_BEFORE_HARVEST = "the runs are counted after the final harvest"
    HOLD = "the destination's vCPUs are not held until COMMIT"
    LOG_END_MAKES_OWED = "the end of a slot's log does not make its pages owed"
    HOST_WRITE_MAKES_OWED = "a tag that the VMM itself writes makes nothing owed"
    READ_AFTER_HARVEST = "tags are read before the harvest that takes their page"
    LATEST_TAGS = "of two harvests with a page's tags, the earlier one's are sent"
    FORGET_TAGS = "a harvest that comes without tags leaves those of earlier ones"
    LOOK_AFTER_HARVEST = "whether a page is there is looked up before the harvest"
    ALL_OWED_AT_START = "the log begins with nothing owed"
    NEW_SLOT_OWED = "a slot that is added again begins with nothing owed"
    SLOTS_COMPARED = "no check whether memory was plugged or unplugged meanwhile"
    GET_MAKES_OWED = "without manual protection, a GET does not make its pages owed"
    BITS_OF_OURS_MAKE_OWED = "bits that we take from KVM's log make nothing owed"
    BITS_RETURNED = "bits that we took from KVM's log are kept from the VMM"
    RETURNED_KEEP_THEIR_BITS = "a CLEAR clears the bits of pages that the VMM got from us, too"


@dataclass(frozen=True)
class World:
    """One page of one slot, and how far each party is."""

    # the page
    tag: int = 0
    data: int = 0
    is_there: bool = True
    is_dead: bool = False  # discarded: what it holds is the guest's to write first
    dirty: bool = False  # KVM's bit
    logged: bool = False
    is_manual: bool = True  # manual protection
    owed: bool = False
    stolen: bool = False  # a bit that we took from KVM's log, and the VMM has not got
    plugged: bool = False  # the slots are others than at the start
    # the guest
    running: bool = True
    runs: int = 0  # how often it was let run
    writes: int = 0
    # the VMM
    vmm: int = 0
    got: bool = False  # the bit of its last GET
    returned: bool = False  # got, and KVM's own log did not have it
    half_cleared: bool = False
    # the carrier
    carrier: str = "idle"
    lives: int = 0
    is_final: bool = False
    counted_runs: int | None = None
    due: bool = False  # taken, and not sent yet
    kept: tuple[int, ...] = ()  # tags that came with harvests, the latest first
    early: int | None = None  # read before a harvest
    was_there: bool | None = None  # looked up before a harvest
    committed: bool = False
    # the destination
    arrived: int = 0
    arrived_data: int = 0
    loaded: bool = False
    runs_there: bool = False


class Model:
    """`plan`: what the VMM does, in order; `writes`: how often the guest changes the tag.

    The page is there from the start, unless the plan's first step is "not_there".
    """

    def __init__(
        self, plan: tuple[str, ...], *, writes: int = 2, without: Omission | None = None
    ) -> None:
        self._first = World(is_there=plan[0] != "not_there")
        self._plan = plan[1:] if plan[0] == "not_there" else plan
        self._moves_data = "send_data" in plan
        self._writes = writes
        self._without = without

    def violation(self) -> list[str] | None:
        """Return the steps to the first wrong end, None if there is none."""
        cause: dict[World, tuple[World, str] | None] = {self._first: None}
        for world in self._worlds(cause):
            if world.runs_there and self._is_wrong(world):
                return self._path(cause, world)
        return None

    def arrives(self) -> bool:
        """Return whether the guest can run at the destination at all: else nothing is shown."""
        return any(world.runs_there for world in self._worlds({self._first: None}))

    def _worlds(self, cause: dict[World, tuple[World, str] | None]) -> Iterator[World]:
        pending = deque(cause)
        while pending:
            world = pending.popleft()
            yield world
            if world.runs_there:
                continue
            for step, after in self._steps(world):
                if after not in cause:
                    cause[after] = (world, step)
                    pending.append(after)

    def _is_wrong(self, world: World) -> bool:
        is_stale = self._moves_data and world.arrived_data != world.data
        is_wrong = (world.arrived != world.tag or is_stale) and not world.is_dead
        return world.running or world.plugged or is_wrong

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

    # --- the guest ---

    def _guest(self, world: World) -> Iterator[tuple[str, World]]:
        if not world.running or world.writes == self._writes:
            return
        # KVM marks before the store can happen: a protected page faults first. A page that is
        # marked, or not logged, is written without anyone's knowledge.
        used = replace(
            world,
            dirty=world.dirty or world.logged,
            is_there=True,
            is_dead=False,
            data=world.data + 1,
            writes=world.writes + 1,
        )
        yield "guest writes a tag", replace(used, tag=world.tag + 1)
        if world.is_dead:
            yield "guest uses the page again", used

    # --- the VMM ---

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

    def _vmm_log_on_without_manual(self, world: World) -> World:
        return replace(world, logged=True, dirty=False, is_manual=False)

    def _vmm_log_off(self, world: World) -> World:
        owed = world.owed or self._without is not Omission.LOG_END_MAKES_OWED
        return replace(world, logged=False, dirty=False, got=False, owed=owed)

    def _vmm_get(self, world: World) -> World:
        got = world.dirty or (world.stolen and self._without is not Omission.BITS_RETURNED)
        if world.is_manual:
            returned = world.stolen and not world.dirty
            return replace(world, got=got, stolen=False, returned=returned)
        owed = world.owed or (world.dirty and self._without is not Omission.GET_MAKES_OWED)
        return replace(world, got=got, dirty=False, stolen=False, owed=owed)

    def _vmm_clear(self, world: World) -> World:
        if not world.got:
            return world
        if world.returned:  # it is left out, and nothing becomes owed
            loses = self._without is Omission.RETURNED_KEEP_THEIR_BITS
            return replace(world, dirty=world.dirty and not loses, got=self._moves_data)
        cleared = replace(world, dirty=False, got=self._moves_data)  # it is sent after that
        if self._without is Omission.CLEAR_MAKES_OWED:
            return cleared
        if self._without is Omission.LOCK:
            return replace(cleared, half_cleared=True)
        return replace(cleared, owed=True)

    def _vmm_send_data(self, world: World) -> World:
        """Send the page, if the last GET had it; the first time in any case."""
        is_first = "send_data" not in self._plan[: world.vmm - 1]
        sends = world.got or is_first
        return replace(world, got=False, arrived_data=world.data if sends else world.arrived_data)

    def _vmm_stop(self, world: World) -> World:
        return replace(world, running=False)

    def _vmm_run_again(self, world: World) -> World | None:
        """Continue the guest, as an operator may until the tags were handed over: see B4."""
        return None if world.committed else replace(world, running=True, runs=world.runs + 1)

    def _vmm_write_tag(self, world: World) -> World:
        owed = world.owed or self._without is not Omission.HOST_WRITE_MAKES_OWED
        return replace(world, tag=world.tag + 1, is_there=True, is_dead=False, owed=owed)

    def _vmm_discard(self, world: World) -> World:
        return replace(world, tag=0, is_there=False, is_dead=True)

    def _vmm_replace_slot(self, world: World) -> World:
        owed = self._without is not Omission.NEW_SLOT_OWED
        return replace(world, tag=world.tag + 1, dirty=False, got=False, owed=owed)

    def _vmm_plug(self, world: World) -> World | None:
        """Plug memory; once all tags have moved that is after the migration."""
        return None if world.committed else replace(world, plugged=True)

    def _vmm_complete(self, world: World) -> World:
        return replace(world, loaded=True)

    # --- the carrier ---

    def _carrier(self, world: World) -> Iterator[tuple[str, World]]:
        match world.carrier:
            case "idle":
                owed = self._without is not Omission.ALL_OWED_AT_START
                yield "carrier: start", replace(world, owed=owed, carrier="ready")
            case "ready":
                yield from self._early(world)
                yield from self._harvests(world)
            case "counted":
                yield "carrier: final harvest", self._harvested(world, is_final=True)
            case "taken":
                yield "carrier: look-up", self._looked_up(world)
            case "reading":
                yield from self._read(world)
            case "late count":
                counted = replace(world, counted_runs=world.runs, carrier="final")
                yield "carrier: count the runs", counted
            case "final":
                yield from self._end(world)
        if world.due and world.carrier in ("ready", "final"):
            yield "carrier: send", self._sent(world)

    def _early(self, world: World) -> Iterator[tuple[str, World]]:
        if self._without is Omission.READ_AFTER_HARVEST and world.early is None:
            yield "carrier: read early", replace(world, early=world.tag)
        if self._without is Omission.LOOK_AFTER_HARVEST and world.was_there is None:
            yield "carrier: look up early", replace(world, was_there=world.is_there)

    def _harvests(self, world: World) -> Iterator[tuple[str, World]]:
        # A round is sent before the next harvest, but for the last one.
        if world.lives < _LIVE_HARVESTS and not world.due:
            yield "carrier: live harvest", self._harvested(world)
            yield "carrier: protecting harvest", self._harvested(world, protects=True)
        if not world.running or self._without is Omission.STOP_BEFORE_LAST:
            if self._without is Omission.COUNT_BEFORE_HARVEST:
                yield "carrier: final harvest", self._harvested(world, is_final=True)
            else:
                counted = replace(world, counted_runs=world.runs, carrier="counted")
                yield "carrier: count the runs", counted

    def _harvested(self, world: World, *, is_final: bool = False, protects: bool = False) -> World:
        """One lock: our GET, or GET and CLEAR, what is taken, and what stays owed."""
        if world.logged and world.dirty and (protects or not world.is_manual):
            owed = world.owed or self._without is not Omission.BITS_OF_OURS_MAKE_OWED
            world = replace(world, dirty=False, stolen=True, owed=owed)
        unprotected = world.dirty or not world.logged
        if is_final:
            counted = unprotected and self._without is not Omission.UNPROTECTED_AT_LAST
            takes, owed = world.owed or counted, False
        else:
            takes, owed = world.owed and not unprotected, world.owed and unprotected
        after = replace(world, owed=owed, is_final=is_final, lives=world.lives + (not is_final))
        return replace(after, carrier="taken") if takes else self._next(after)

    def _looked_up(self, world: World) -> World:
        is_there = world.is_there if world.was_there is None else world.was_there
        looked = replace(world, was_there=None)
        return replace(looked, carrier="reading") if is_there else self._next(looked)

    def _read(self, world: World) -> Iterator[tuple[str, World]]:
        tag = world.tag if world.early is None else world.early
        kept = (tag, *world.kept)[:_KEPT_HARVESTS]
        taken = replace(world, due=True, early=None)
        yield "carrier: tags come with it", self._next(replace(taken, kept=kept))
        forgotten = world.kept if self._without is Omission.FORGET_TAGS else ()
        yield "carrier: too many tags", self._next(replace(taken, kept=forgotten))

    def _next(self, world: World) -> World:
        if not world.is_final:
            return replace(world, carrier="ready")
        is_late = self._without is Omission.COUNT_BEFORE_HARVEST
        return replace(world, carrier="late count" if is_late else "final")

    def _sent(self, world: World) -> World:
        which = -1 if self._without is Omission.LATEST_TAGS else 0
        tag = world.kept[which] if world.kept else world.tag
        return replace(world, arrived=tag, due=False)

    def _end(self, world: World) -> Iterator[tuple[str, World]]:
        if world.due:
            return
        ran = world.runs != world.counted_runs or world.running
        may_have_run = self._without in (Omission.RUN_COUNT, Omission.STOP_BEFORE_LAST)
        is_same = not world.plugged or self._without is Omission.SLOTS_COMPARED
        if is_same and (not ran or may_have_run):
            yield "carrier: COMMIT", replace(world, committed=True, carrier="over")

    # --- the destination ---

    def _destination(self, world: World) -> Iterator[tuple[str, World]]:
        may_run = world.committed or self._without is Omission.HOLD
        if world.loaded and may_run:
            yield "destination: runs", replace(world, runs_there=True)
