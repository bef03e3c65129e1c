"""Explores all interleavings of two sides' instructions, a reduced set, or a random sample.

The explorer counts paths and does not run them. Two interleavings that lead to equal states
behave the same from there on, so each state is visited once and carries the number of paths
that lead to it. The number of states grows with the product of the two lengths; the number of
interleavings grows as a binomial coefficient. A million interleavings are some hundred states.

Equal states must mean an equal future, and also an equal verdict. The verdict on a look
compares it with every content that the granules had until the look ended
(`tagalong.access.outcome`). The set of these contents is therefore part of a state's key:
without it, a path that went through content X would merge with one that did not, and a look
that saw X would be stale on one and torn on the other.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from math import comb
from typing import Final, NamedTuple

from tagalong.access.host import Fault
from tagalong.access.outcome import Outcome
from tagalong.errors import MachineError
from tagalong.studies.race.code import Side
from tagalong.studies.race.world import Content, Granule, Saved, World

Reading = Content
"""What a look returned, granule by granule; `data` may be shorter than a granule."""

SEVERITY: Final = (Outcome.FAULT, Outcome.TORN, Outcome.STALE, Outcome.RIGHT)
"""The outcome of a look at several granules is the first of these that one of them had."""

DOZEN: Final = 12
STATES_MAX: Final = 40_000
SAMPLES: Final = 2_000
_STEPS_MAX: Final = 20_000  # of one side alone; code that waits for the other side is rejected
_LENGTH_FACTOR: Final = 4  # bounds an interleaving, in lengths of both sides alone: retries count


class Method(Enum):
    """How interleavings were chosen; the values are the words shown to people."""

    EXHAUSTIVE = "exhaustive"
    """All interleavings; counts are exact. A look that faults ends early and counts as every
    interleaving of the two whole sequences that begins as it does."""
    REDUCED = "partial-order reduction"
    """One interleaving per equivalence class: no outcome is lost, counts are of classes."""
    SAMPLED = "sampling"
    """Random interleavings: an outcome may be missed."""


class LookEnd(NamedTuple):
    """How one interleaving ended: what the look returned (None if it faulted) and the fault."""

    outcome: Outcome
    reading: Reading | None
    fault: Fault | None


@dataclass
class Found:
    """All interleavings with one outcome; the shortest one has the fewest changes of side."""

    count: int
    schedule: str
    """A letter of Side for each instruction, up to the end of the look."""
    end: LookEnd


@dataclass
class Exploration:
    """The result. `lengths`: instructions of guest and VMM when each runs alone."""

    method: Method
    reason: str
    lengths: tuple[int, int]
    states: int = 0
    unfinished: int = 0
    """Interleavings given up because the VMM's code did not end."""
    found: dict[Outcome, Found] = field(default_factory=dict)

    @property
    def interleavings(self) -> int:
        """Return how many there were, as `method` counts them."""
        return sum(found.count for found in self.found.values()) + self.unfinished

    def add(self, end: LookEnd, schedule: str, count: int) -> None:
        """Record `count` interleavings that begin as `schedule` does."""
        known = self.found.get(end.outcome)
        if known is None:
            self.found[end.outcome] = Found(count, schedule, end)
            return
        known.count += count
        if _cost(schedule) < _cost(known.schedule):
            known.schedule, known.end = schedule, end


class TooManyStatesError(Exception):
    """An exploration exceeded its limit; the caller tries another method. Never shown to users."""


Look = Callable[[World], Reading]
"""Returns what the VMM has read, from its memory and registers once its code is done."""


@dataclass
class _Node:
    """A state, the contents so far, and the paths that lead here: their number and the best.

    `best` keeps one schedule per side that moved last. The cost of a schedule counts changes
    of side, so whether the next step is a change depends on who moved last: the cheapest path
    to here need not be the beginning of the cheapest path from here.
    """

    saved: Saved
    contents: frozenset[Content]
    paths: int = 0
    best: dict[str, str] = field(default_factory=dict)

    def add_paths(self, paths: int, schedules: list[str]) -> None:
        self.paths += paths
        for schedule in schedules:
            last = schedule[-1:]
            if last not in self.best or _cost(schedule) < _cost(self.best[last]):
                self.best[last] = schedule


def explore(
    world: World, look: Look, *, method: Method | None = None, seed: int = 0
) -> Exploration:
    """Explore `world`, which must be at its start, by `method` or by the best that is possible.

    Without `method` it is exhaustive up to a dozen instructions per side, and beyond that as
    long as there are at most STATES_MAX states; otherwise reduced, with the same limit;
    otherwise SAMPLES random interleavings drawn with `seed`.

    Raises MachineError for code that does not end or takes an exception other than a tag check
    fault, UnsupportedInstructionError for code that the interpreter does not implement. The
    state of `world` is undefined afterwards; `World.restore` resets it.
    """
    start = world.save()
    lengths = _length_alone(world, start, Side.GUEST), _length_alone(world, start, Side.VMM)
    explorer = _Explorer(world, look, start, lengths)
    if method is not None:
        return explorer.run(method, "asked for", seed)
    if max(lengths) <= DOZEN:
        return explorer.run(Method.EXHAUSTIVE, "at most a dozen instructions per side", seed)
    return explorer.run_best(seed)


class _Explorer:
    def __init__(self, world: World, look: Look, start: Saved, lengths: tuple[int, int]) -> None:
        self._world = world
        self._look = look
        self._start = start
        self._lengths = lengths
        self._longest = _LENGTH_FACTOR * sum(lengths)

    def run(self, method: Method, reason: str, seed: int) -> Exploration:
        result = Exploration(method, reason, self._lengths)
        if method is Method.SAMPLED:
            self._sample(result, seed)
        else:
            self._visit_all(result, None)
        return result

    def run_best(self, seed: int) -> Exploration:
        counted = f"{self._lengths[0]} and {self._lengths[1]} instructions"
        for method in (Method.EXHAUSTIVE, Method.REDUCED):
            result = Exploration(method, f"{counted}, within {STATES_MAX:,} states", self._lengths)
            try:
                self._visit_all(result, STATES_MAX)
            except TooManyStatesError:
                continue
            return result
        return self.run(Method.SAMPLED, f"{counted} have more than {STATES_MAX:,} states", seed)

    # --- exhaustive and reduced ---

    # The search is breadth-first by the number of instructions executed. All paths to a state
    # in a layer therefore have the same length, and every path into a state is known before the
    # state is expanded: its `paths` is final, and each state needs one expansion only. (A state
    # that recurs in a later layer, as in a retry loop, is another node: `Saved.steps` differs.)

    def _visit_all(self, result: Exploration, states_max: int | None) -> None:
        self._world.restore(self._start)
        layer = {b"": _Node(self._start, frozenset({self._world.content()}), 1, {"": ""})}
        for _ in range(self._longest):
            result.states += len(layer)
            if states_max is not None and result.states > states_max:
                raise TooManyStatesError
            layer = self._next_layer(result, layer)
        result.unfinished = sum(node.paths for node in layer.values())

    def _next_layer(self, result: Exploration, layer: dict[bytes, _Node]) -> dict[bytes, _Node]:
        following: dict[bytes, _Node] = {}
        for node in layer.values():
            for side, saved, contents, end in self._moves(node, result.method):
                schedules = [before + side.value for before in node.best.values()]
                if end is not None:
                    count = node.paths * self._continuations(saved, result.method)
                    result.add(end, min(schedules, key=_cost), count)
                    continue
                key = saved.digest() + repr(sorted(contents)).encode()
                successor = following.setdefault(key, _Node(saved, contents))
                successor.add_paths(node.paths, schedules)
        return following

    def _moves(
        self, node: _Node, method: Method
    ) -> Iterator[tuple[Side, Saved, frozenset[Content], LookEnd | None]]:
        """Yield the successor of a state for each side that may move."""
        self._world.restore(node.saved)
        sides = self._sides(method)
        for number, side in enumerate(sides):
            if number:
                self._world.restore(node.saved)
            contents, end = self._step(side, node.contents)
            yield side, self._world.save(), contents, end
            if end is not None and len(sides) == 1 and method is Method.REDUCED:
                # A local instruction that ends the look is not independent after all: the
                # verdict compares the look with what the granules hold at that moment, so it
                # matters whether the other side's next store came before. Both orders count.
                yield from self._other_side(node, side)

    def _other_side(
        self, node: _Node, side: Side
    ) -> Iterator[tuple[Side, Saved, frozenset[Content], LookEnd | None]]:
        self._world.restore(node.saved)
        other = Side.GUEST if side is Side.VMM else Side.VMM
        if not self._world.is_done(other):
            contents, end = self._step(other, node.contents)
            yield other, self._world.save(), contents, end

    def _sides(self, method: Method) -> list[Side]:
        """Return the sides to move. Reduced, a local instruction is a persistent set of one.

        An instruction that touches only its own side's state commutes with everything that
        the other side can do until its own side's next one, so one order stands for all
        (`locality`). Without such an instruction both sides have to move.
        """
        sides = [side for side in Side if not self._world.is_done(side)]
        if method is Method.REDUCED and len(sides) > 1:
            alone = [side for side in sides if self._world.is_local(side)]
            return alone[-1:] or sides
        return sides

    def _step(
        self, side: Side, contents: frozenset[Content]
    ) -> tuple[frozenset[Content], LookEnd | None]:
        fault = self._world.step(side)
        if fault is not None:
            return contents, LookEnd(Outcome.FAULT, None, fault)
        now = self._world.content()
        contents |= {now}
        if not self._world.is_done(Side.VMM):
            return contents, None
        reading = self._look(self._world)
        return contents, LookEnd(judge(reading, contents, now), reading, None)

    def _continuations(self, saved: Saved, method: Method) -> int:
        """Return how many interleavings of both whole sequences begin with this ended look.

        A look ends early when it faults, and before the guest is done in most interleavings.
        What would follow cannot change the outcome, so it is counted and not run: that many
        orders of the remaining instructions, which makes outcomes of different lengths
        comparable. Retries may exceed the length alone; then nothing remains of that side.
        """
        if method is Method.REDUCED:
            return 1
        left = [
            max(length - done, 0) for length, done in zip(self._lengths, saved.steps, strict=True)
        ]
        return comb(sum(left), left[0])

    # --- sampled ---

    def _sample(self, result: Exploration, seed: int) -> None:
        source = random.Random(seed)  # noqa: S311 (a schedule, not a secret)
        for _ in range(SAMPLES):
            self._world.restore(self._start)
            schedule, end = self._one_run(source)
            result.states += len(schedule)
            if end is None:
                result.unfinished += 1
            else:
                result.add(end, schedule, 1)

    def _one_run(self, source: random.Random) -> tuple[str, LookEnd | None]:
        contents: frozenset[Content] = frozenset({self._world.content()})
        schedule: list[str] = []
        left = dict(zip(Side, self._lengths, strict=True))
        while len(schedule) < self._longest:
            sides = [side for side in Side if not self._world.is_done(side)]
            # Drawn in proportion to what each side has left, every interleaving is equally
            # likely: of the orders of m and n remaining instructions, m / (m + n) begin with
            # the first side. A fair coin would favour orders that alternate.
            weights = [max(left[side], 1) for side in sides]
            (side,) = source.choices(sides, weights)
            left[side] -= 1
            schedule.append(side.value)
            contents, end = self._step(side, contents)
            if end is not None:
                return "".join(schedule), end
        return "".join(schedule), None


def judge(reading: Reading, contents: frozenset[Content], now: Content) -> Outcome:
    """Return the outcome of a look that returned `reading`; see Outcome.

    `contents`: everything that the granules held until the look ended, `now` the last of it.

    >>> old, new = (Granule(1, b"old"),), (Granule(2, b"new"),)
    >>> judge((Granule(1, b"new"),), frozenset({old, new}), new).name
    'TORN'
    """
    outcomes = {
        _judge_granule(seen, {content[number] for content in contents}, now[number])
        for number, seen in enumerate(reading)
    }
    return next(outcome for outcome in SEVERITY if outcome in outcomes)


def _judge_granule(seen: Granule, had: set[Granule], now: Granule) -> Outcome:
    if _agrees(seen, now):
        return Outcome.RIGHT
    return Outcome.STALE if any(_agrees(seen, held) for held in had) else Outcome.TORN


def _agrees(seen: Granule, held: Granule) -> bool:
    return seen.tag == held.tag and held.data.startswith(seen.data)


def _length_alone(world: World, start: Saved, side: Side) -> int:
    """Return how many instructions a side executes while the other one stays at its start."""
    world.restore(start)
    for length in range(_STEPS_MAX):
        if world.is_done(side):
            world.restore(start)
            return length
        if world.step(side) is not None:
            world.restore(start)
            return length + 1
    name = "guest" if side is Side.GUEST else "VMM"
    raise MachineError(
        f"the {name}'s code does not end within {_STEPS_MAX:,} instructions when it runs alone; "
        "the explorer takes code that ends without the other side"
    )


def _cost(schedule: str) -> tuple[int, int, str]:
    changes = sum(a != b for a, b in pairwise(schedule))
    return len(schedule), changes, schedule
