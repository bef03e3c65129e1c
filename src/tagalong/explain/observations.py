"""Single observations: how likely each is under a cause, and the words for it."""

from dataclasses import dataclass, field
from typing import Final

from tagalong.explain import model
from tagalong.explain.code_place import CodePlace, code_at
from tagalong.explain.crash import Block, BlockState, DataDirection
from tagalong.explain.explanation import Cause
from tagalong.explain.scene import Scene, page_is_zero
from tagalong.explain.words import bytes_in_words

_KNOWN_STATES: Final = frozenset((BlockState.ALLOCATED, BlockState.FREED))


@dataclass(frozen=True)
class Fact:
    """One observation under one candidate: how likely it is, and what was seen."""

    likelihood: float
    text: str


@dataclass
class Candidate:
    """One cause with its block. `facts` by what they are about."""

    cause: Cause
    prior: float
    text: str
    block: Block | None = None
    distance_bytes: int | None = None
    facts: dict[str, Fact] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """Return prior times likelihood."""
        product = self.prior
        for fact in self.facts.values():
            product *= fact.likelihood
        return product


def culprit_state(block: Block) -> Fact:
    """Return whether a block that was overflowed is in use itself."""
    if block.state is BlockState.FREED:
        return Fact(model.FREED_CULPRIT, "that block is free itself")
    return Fact(1.0, "that block is in use" if block.state in _KNOWN_STATES else "nothing tells"
                " whether that block is in use")  # fmt: skip


def freed_state(block: Block) -> Fact:
    """Return whether a block that a stale pointer leads to is free."""
    if block.state is BlockState.FREED:
        return Fact(1.0, "the block is free")
    return Fact(1.0, "nothing tells whether the block is in use")


def previous_block(scene: Scene) -> Block | None:
    """Return a block with the pointer's tag that was freed at the fault, by any record."""
    for before in scene.crash.allocator.previous:
        if before.start <= scene.address < before.end and before.tag == scene.tag:
            return before
    return None


def stale_tag(scene: Scene, block: Block | None) -> Fact:
    """Return how likely the tag is one that the block's memory had before."""
    if previous_block(scene) is not None:
        return Fact(0.9, "a block with the pointer's tag was freed here")
    if scene.crash.allocator.has_all_frees:
        return Fact(model.UNRECORDED_FREE, "the allocator recorded no free of such a block here")
    now = None if block is None else block.tag
    if scene.around.has_parity and now:
        if (now ^ scene.tag) & 1:
            return Fact(1e-3, "blocks here keep the parity of their tags, and it differs")
        return Fact(1 / 6, "the pointer's tag has the parity that blocks here keep")
    count = scene.drawn_tags - (1 if now else 0)
    return Fact(1 / max(1, count), f"the pointer's tag is one of {count} that the memory could"
                " have had before")  # fmt: skip


def shape(scene: Scene, *, is_free_call: bool = False) -> dict[str, Fact]:
    """Return how likely the instruction and its place are.

    free and realloc first read one byte of the block, glibc's and ours; other code rarely does.
    """
    facts = {}
    access, fault = scene.crash.access, scene.crash.fault
    size = fault.size_bytes if access is None else access.size_bytes
    direction = fault.direction if access is None else access.direction
    if size is not None and direction is not None:
        is_byte_read = size == 1 and direction is DataDirection.READ
        share = 0.98 if is_free_call else model.BYTE_READ_SHARE
        facts["instruction"] = Fact(
            share if is_byte_read else 1 - share,
            f"the instruction {direction.value}s {bytes_in_words(size)}",
        )
    code = code_at(scene.crash)
    if code is not CodePlace.UNKNOWN:
        table = model.PLACE_OF_FREE if is_free_call else model.PLACE_OF_OTHERS
        facts["code"] = Fact(table[code], f"the instruction is {code.value}")
    return facts


PAGE_WORDS: Final = "all granules of the fault's page have tag 0"


def page_facts(scene: Scene) -> dict[str, Fact]:
    """Return what a page without any tag says about causes that take no tags away."""
    return {"page": Fact(scene.lost_page, PAGE_WORDS)} if page_is_zero(scene) else {}


def report_says(reason: str, title: str) -> Fact:
    """Return what the reporter's own check of the object says."""
    if title in reason:
        return Fact(0.95, f"the report calls it {title}, by the state of the object")
    return Fact(0.05, f"the report does not call it {title}")
