"""All interleavings of two sides' instructions, or what stands for all, or a sample of them.

States that are equal are visited once, with the number of ways that lead there, so that the
number of states grows with the product of the two lengths while the number of interleavings
grows as a binomial coefficient. What a look gave is judged against every content that the
granules had up to its end (`tagalong.access.outcome`), so those contents are part of a state.
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
"""What a look gave, granule by granule; `data` may be shorter than a granule."""

SEVERITY: Final = (Outcome.FAULT, Outcome.TORN, Outcome.STALE, Outcome.RIGHT)
"""The outcome of a look at several granules is the first of these that one of them had."""

DOZEN: Final = 12
STATES_MAX: Final = 40_000
SAMPLES: Final = 2_000
_STEPS_MAX: Final = 20_000  # of one side alone; a loop that waits for the other is not for us
_PATIENCE: Final = 4  # times the lengths of both sides alone: retries are allowed that much


class Method(Enum):
    """How interleavings were chosen; the values are the words shown to people."""

    EXHAUSTIVE = "exhaustive"
    """All of them; the numbers are exact. A look that faults is cut short: it counts as all the
    interleavings of both whole sequences that begin as it does."""
    REDUCED = "partial-order reduction"
    """One for each class of equivalent ones: every outcome is found, the numbers are of classes."""
    SAMPLED = "sampling"
    """Some, drawn at random: an outcome may be missed."""


class LookEnd(NamedTuple):
    """How one interleaving ended: what the look gave (None if it faulted) and the fault."""

    outcome: Outcome
    reading: Reading | None
    fault: Fault | None


@dataclass
class Found:
    """All interleavings with one outcome, and the shortest with the fewest changes of side."""

    count: int
    schedule: str
    """A letter of Side for each instruction, up to the end of the look."""
    end: LookEnd


@dataclass
class Exploration:
    """What came out. `lengths`: instructions of guest and VMM when each runs alone."""

    method: Method
    reason: str
    lengths: tuple[int, int]
    states: int = 0
    unfinished: int = 0
    """Interleavings given up because the VMM's code went on and on."""
    found: dict[Outcome, Found] = field(default_factory=dict)

    @property
    def interleavings(self) -> int:
        """Return how many there were, as `method` counts them."""
        return sum(found.count for found in self.found.values()) + self.unfinished

    def add(self, end: LookEnd, schedule: str, count: int) -> None:
        """Take note of `count` interleavings that begin as `schedule` does."""
        known = self.found.get(end.outcome)
        if known is None:
            self.found[end.outcome] = Found(count, schedule, end)
            return
        known.count += count
        if _cost(schedule) < _cost(known.schedule):
            known.schedule, known.end = schedule, end


class TooManyStatesError(Exception):
    """An exploration was given up: nothing for users, the caller tries another way."""


Look = Callable[[World], Reading]
"""What the VMM has seen, from its memory and registers once its code is done."""


@dataclass
class _Node:
    """A state, the contents so far, and the ways that lead here: how many, and the best."""

    saved: Saved
    contents: frozenset[Content]
    ways: int = 0
    best: dict[str, str] = field(default_factory=dict)
    """By the last side that moved, since that decides what the next change costs."""

    def reach(self, ways: int, schedules: list[str]) -> None:
        self.ways += ways
        for schedule in schedules:
            last = schedule[-1:]
            if last not in self.best or _cost(schedule) < _cost(self.best[last]):
                self.best[last] = schedule


def explore(
    world: World, look: Look, *, method: Method | None = None, seed: int = 0
) -> Exploration:
    """Explore `world`, which stands at its start, by `method` or by what suits it.

    Left to itself: exhaustively up to a dozen instructions a side, and beyond as long as the
    states stay below STATES_MAX; else reduced, with the same limit; else by SAMPLES seeded
    samples. Raises MachineError for code that does not end by itself or that takes an
    exception other than a tag check fault, UnsupportedInstructionError for code that the
    interpreter does not run.
    """
    start = world.save()
    lengths = _length_alone(world, start, Side.GUEST), _length_alone(world, start, Side.VMM)
    explorer = _Explorer(world, look, start, lengths)
    if method is not None:
        return explorer.run(method, "asked for", seed)
    if max(lengths) <= DOZEN:
        return explorer.run(Method.EXHAUSTIVE, "at most a dozen instructions a side", seed)
    return explorer.run_best(seed)


class _Explorer:
    def __init__(self, world: World, look: Look, start: Saved, lengths: tuple[int, int]) -> None:
        self._world = world
        self._look = look
        self._start = start
        self._lengths = lengths
        self._longest = _PATIENCE * sum(lengths)

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

    # --- all of them ---

    def _visit_all(self, result: Exploration, states_max: int | None) -> None:
        self._world.restore(self._start)
        layer = {b"": _Node(self._start, frozenset({self._world.content()}), 1, {"": ""})}
        for _ in range(self._longest):
            result.states += len(layer)
            if states_max is not None and result.states > states_max:
                raise TooManyStatesError
            layer = self._next_layer(result, layer)
        result.unfinished = sum(node.ways for node in layer.values())

    def _next_layer(self, result: Exploration, layer: dict[bytes, _Node]) -> dict[bytes, _Node]:
        following: dict[bytes, _Node] = {}
        for node in layer.values():
            for side, saved, contents, end in self._moves(node, result.method):
                schedules = [before + side.value for before in node.best.values()]
                if end is not None:
                    ways = node.ways * self._continuations(saved, result.method)
                    result.add(end, min(schedules, key=_cost), ways)
                    continue
                key = saved.digest() + repr(sorted(contents)).encode()
                reached = following.setdefault(key, _Node(saved, contents))
                reached.reach(node.ways, schedules)
        return following

    def _moves(
        self, node: _Node, method: Method
    ) -> Iterator[tuple[Side, Saved, frozenset[Content], LookEnd | None]]:
        """Yield what each side that may move makes of a state."""
        self._world.restore(node.saved)
        sides = self._sides(method)
        for number, side in enumerate(sides):
            if number:
                self._world.restore(node.saved)
            contents, end = self._step(side, node.contents)
            yield side, self._world.save(), contents, end
            if end is not None and len(sides) == 1 and method is Method.REDUCED:
                # The end of the look commutes with nothing that changes what was looked at.
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
        """Return in how many ways both sequences could go on from the end of a look."""
        if method is Method.REDUCED:
            return 1
        left = [
            max(length - done, 0) for length, done in zip(self._lengths, saved.steps, strict=True)
        ]
        return comb(sum(left), left[0])

    # --- some of them ---

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
            # In proportion to what each has left, all interleavings are equally likely.
            weights = [max(left[side], 1) for side in sides]
            (side,) = source.choices(sides, weights)
            left[side] -= 1
            schedule.append(side.value)
            contents, end = self._step(side, contents)
            if end is not None:
                return "".join(schedule), end
        return "".join(schedule), None


def judge(reading: Reading, contents: frozenset[Content], now: Content) -> Outcome:
    """Return what a look that gave `reading` is worth; see Outcome.

    `contents`: all that the granules held up to the end of the look, `now` the last of it.

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
    """Return how many instructions a side executes while the other stands at its start."""
    world.restore(start)
    for length in range(_STEPS_MAX):
        if world.is_done(side):
            world.restore(start)
            return length
        if world.step(side) is not None:
            world.restore(start)
            return length + 1
    who = "guest" if side is Side.GUEST else "VMM"
    raise MachineError(f"the {who}'s code does not end within {_STEPS_MAX} instructions")


def _cost(schedule: str) -> tuple[int, int, str]:
    changes = sum(a != b for a, b in pairwise(schedule))
    return len(schedule), changes, schedule
