"""The report of a race; each shortest interleaving is replayed and written down."""

from collections.abc import Mapping
from dataclasses import dataclass

from tagalong.access.outcome import Outcome
from tagalong.mte.registers import TagCheckMode
from tagalong.studies.race.code import Order, Side
from tagalong.studies.race.explore import SEVERITY, Exploration, LookEnd
from tagalong.studies.race.world import Granule, Saved, World


@dataclass(frozen=True)
class Step:
    """One instruction of an interleaving and its effect on the first granule.

    `granule`: what the granule holds afterwards, None if the step did not change it.
    `is_local`: the instruction touches only its own side's state. `what`: the call that it
    belongs to.
    """

    side: Side
    pc: int
    word: int
    text: str
    what: str
    is_local: bool
    granule: Granule | None

    def to_json(self) -> dict[str, object]:
        """Return the step as what `json.dumps` takes."""
        return {
            "side": self.side.name.lower(),
            "pc": self.pc,
            "word": self.word,
            "text": self.text,
            "what": self.what,
            "local": self.is_local,
            "granule": _granule(self.granule),
        }


@dataclass(frozen=True)
class OutcomeLine:
    """One outcome: how many interleavings have it, and the shortest one."""

    outcome: Outcome
    count: int
    steps: tuple[Step, ...]
    end: LookEnd

    def to_json(self) -> dict[str, object]:
        """Return the outcome as what `json.dumps` takes."""
        reading = self.end.reading
        return {
            "interleavings": self.count,
            "fault": None if self.end.fault is None else self.end.fault.name,
            "reading": None if reading is None else [_granule(seen) for seen in reading],
            "shortest": [step.to_json() for step in self.steps],
        }


@dataclass(frozen=True)
class RaceReport:
    """One race. `lines`: the outcomes that occurred, from the worst to the best."""

    guest: str
    vmm: str
    order: Order | None
    """None for code of a user's own."""
    mode: TagCheckMode
    exploration: Exploration
    start: Granule
    lines: tuple[OutcomeLine, ...]

    @property
    def outcomes(self) -> Mapping[Outcome, int]:
        """Return the number of interleavings per outcome, zeros included."""
        counts = {line.outcome: line.count for line in self.lines}
        return {outcome: counts.get(outcome, 0) for outcome in SEVERITY}

    def to_json(self) -> dict[str, object]:
        """Return the report as what `json.dumps` takes."""
        explored = self.exploration
        return {
            "guest": self.guest,
            "access": self.vmm,
            "order": None if self.order is None else self.order.value,
            "checking": self.mode.name.lower(),
            "method": explored.method.value,
            "reason": explored.reason,
            "guest_instructions": explored.lengths[0],
            "vmm_instructions": explored.lengths[1],
            "interleavings": explored.interleavings,
            "unfinished": explored.unfinished,
            "states": explored.states,
            "start": _granule(self.start),
            "outcomes": {line.outcome.value: line.to_json() for line in self.lines},
        }


def make_report(
    world: World, start: Saved, exploration: Exploration, order: Order | None, mode: TagCheckMode
) -> RaceReport:
    """Return the report of an exploration of `world` from `start`."""
    world.restore(start)
    first = world.content()[0]
    lines = tuple(
        OutcomeLine(outcome, found.count, _play(world, start, found.schedule), found.end)
        for outcome in SEVERITY
        if (found := exploration.found.get(outcome)) is not None
    )
    return RaceReport(
        world.guest_code.name, world.vmm_code.name, order, mode, exploration, first, lines
    )


def _play(world: World, start: Saved, schedule: str) -> tuple[Step, ...]:
    world.restore(start)
    return tuple(_step(world, Side(letter)) for letter in schedule)


def _step(world: World, side: Side) -> Step:
    pc, word, text = world.next_instruction(side)
    what, is_local, before = world.what(side), world.is_local(side), world.content()[0]
    world.step(side)
    after = world.content()[0]
    return Step(side, pc, word, text, what, is_local, after if after != before else None)


def _granule(granule: Granule | None) -> dict[str, object] | None:
    return None if granule is None else {"tag": granule.tag, "data": granule.data.hex()}
