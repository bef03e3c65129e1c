"""Bayes' rule over the causes of a tag fault: each candidate is a prior and some likelihoods.

All densities are per block of the surroundings, so that causes can be compared: one of N blocks
was misused, and the fault is at one place relative to it. docs/design/explain.md has the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tagalong.explain import model
from tagalong.explain.code_place import CodePlace, code_at
from tagalong.explain.crash import Allocator, Block, BlockState, Crash, CrashWorld, DataDirection
from tagalong.explain.explanation import Cause, Evidence, Hypothesis
from tagalong.explain.stack import is_stack, stack_pointer
from tagalong.explain.surroundings import FREE_RUN, Surroundings
from tagalong.explain.words import bytes_in_words, tag_in_words
from tagalong.mte import GRANULE_BYTES

LISTED: Final = 6
"""Hypotheses that an explanation lists; what is left over is joined by its cause."""

_CLEAR_RATIO: Final = 1.25
_PAGE_BYTES: Final = 4096
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


def weigh(crash: Crash, around: Surroundings) -> tuple[Hypothesis, ...]:
    """Return the hypotheses, most likely first. The crash has an address and a pointer's tag."""
    candidates = [each for each in _candidates(crash, around) if each.weight > 0]
    total = sum(each.weight for each in candidates)
    if not total:
        return ()
    candidates.sort(key=lambda each: -each.weight)
    shares = [each.weight / total for each in candidates]
    listed = [
        Hypothesis(
            each.cause, share, each.text, each.block, each.distance_bytes,
            *_evidence(each, candidates, shares),
        )
        for each, share in zip(candidates[:LISTED], shares, strict=False)
    ]  # fmt: skip
    return tuple(sorted([*listed, *_rest(candidates[LISTED:], shares[LISTED:])],
                        key=lambda each: -each.probability))  # fmt: skip


def _rest(candidates: Sequence[Candidate], shares: Sequence[float]) -> Iterator[Hypothesis]:
    """Yield one hypothesis for each cause of what is not listed."""
    sums: dict[Cause, float] = {}
    for each, share in zip(candidates, shares, strict=True):
        sums[each.cause] = sums.get(each.cause, 0.0) + share
    for cause, share in sums.items():
        yield Hypothesis(cause, share, f"{_NAMES[cause]} that is not listed above: another block's")


def _evidence(
    candidate: Candidate, candidates: Sequence[Candidate], shares: Sequence[float]
) -> tuple[tuple[Evidence, ...], tuple[Evidence, ...]]:
    """Return what speaks for a candidate and what against it, compared with all others."""
    spoken = []
    others = [(c, s) for c, s in zip(candidates, shares, strict=True) if c.cause != candidate.cause]
    total = sum(share for _, share in others)
    for about, fact in candidate.facts.items():
        if not total:
            spoken.append(Evidence(fact.text, 1e6))
            continue
        mean = sum(
            share * (c.facts[about].likelihood if about in c.facts else 1.0) for c, share in others
        )
        spoken.append(Evidence(fact.text, min(1e6, fact.likelihood * total / max(mean, 1e-12))))
    supports = sorted((e for e in spoken if e.ratio > _CLEAR_RATIO), key=lambda e: -e.ratio)
    opposes = sorted((e for e in spoken if e.ratio < 1 / _CLEAR_RATIO), key=lambda e: e.ratio)
    return tuple(supports), tuple(opposes)


# --- the candidates ---


def _candidates(crash: Crash, around: Surroundings) -> Iterator[Candidate]:
    scene = Scene(crash, around)
    if crash.fault.is_free:
        yield from _bad_frees(scene)
        return
    if is_stack(crash, scene.address):
        yield from _on_the_stack(scene)
    else:
        yield from _overflows(scene)
        yield from _underflows(scene)
        yield from _stale(scene)
    yield from _lost_pointer_tag(scene)
    yield from _wild(scene)
    yield from _meaningless(scene)
    yield from _lost_memory_tags(scene)


class Scene:
    """What the candidates look at: the fault, its block, and how many blocks there are."""

    def __init__(self, crash: Crash, around: Surroundings) -> None:
        self.crash = crash
        self.around = around
        self.address = crash.fault.address or 0
        self.granule = self.address // GRANULE_BYTES * GRANULE_BYTES
        self.tag = crash.fault.pointer_tag or 0
        met = crash.fault.memory_tag
        self.memory_tag = around.tag_at(self.granule) if met is None else met
        self.block = around.block_at(self.address)
        self.live = 1 + around.count(BlockState.ALLOCATED)
        self.freed = 1 + around.count(BlockState.FREED)
        unknown = around.count(BlockState.UNKNOWN)
        self.live += round(unknown * (1 - model.FREED_SHARE))
        self.freed += round(unknown * model.FREED_SHARE)

    @property
    def gap_granules(self) -> int:
        """Return how many granules of the surroundings are in no block."""
        covered = sum(-(-block.size_bytes // GRANULE_BYTES) for block in self.around.blocks)
        return max(16, self.around.tags.size - covered)

    @property
    def mean_block_bytes(self) -> float:
        """Return how large the blocks in use are that are around."""
        sizes = [b.size_bytes for b in self.around.blocks if b.state is BlockState.ALLOCATED]
        return sum(sizes) / len(sizes) if sizes else _PAGE_BYTES

    @property
    def drawn_tags(self) -> int:
        """Return how many tags the allocator draws from."""
        kind = self.around.kind
        if kind is Allocator.KASAN_SW:
            return 254
        if kind is Allocator.KASAN_HW:
            return 14
        mask = self.crash.tag_mask
        return max(2, (15 if mask is None else (mask & ~1).bit_count()))

    @property
    def is_drawn(self) -> bool:
        """Return whether an allocator can have given the pointer its tag."""
        if self.around.kind in (Allocator.KASAN_HW, Allocator.KASAN_SW):
            return self.tag not in (0xFE, 0xFF)
        mask = self.crash.tag_mask
        return self.tag != 0 and (mask is None or bool(mask >> self.tag & 1))

    @property
    def lost_page(self) -> float:
        """Return how likely the fault's page is all tag 0 if nobody took its tags away."""
        return _zero_page_likelihood(self)


def _overflows(scene: Scene) -> Iterator[Candidate]:
    for block in scene.around.blocks:
        if block.tag != scene.tag or block.end > scene.address or not scene.is_drawn:
            continue
        end = _up(block.end)
        distance = scene.address - block.end
        linear = scene.around.all_between(end, scene.granule, scene.tag)
        place = model.overflow_density(
            (scene.granule - end) // GRANULE_BYTES, is_linear_possible=linear
        )
        yield Candidate(
            Cause.OVERFLOW,
            model.PRIORS[Cause.OVERFLOW] / scene.live,
            f"overflow: {_size(block)} was used {_past(distance)}",
            block,
            distance,
            {
                "tag": Fact(1.0, f"the pointer's tag {tag_in_words(scene.tag)} is that block's"),
                "place": Fact(place, f"the fault is {bytes_in_words(distance)} behind its end"),
                "state": _culprit_state(block),
                **_page(scene),
                **_shape(scene),
            },
        )


def _underflows(scene: Scene) -> Iterator[Candidate]:
    for block in scene.around.blocks:
        if block.tag != scene.tag or block.start <= scene.address or not scene.is_drawn:
            continue
        distance = scene.address - block.start
        granules = (block.start - scene.granule) // GRANULE_BYTES - 1
        linear = scene.around.all_between(scene.granule + GRANULE_BYTES, block.start, scene.tag)
        place = model.overflow_density(granules, is_linear_possible=linear)
        yield Candidate(
            Cause.UNDERFLOW,
            model.PRIORS[Cause.UNDERFLOW] / scene.live,
            f"underflow: {_size(block)} was used {bytes_in_words(-distance)} before its start",
            block,
            distance,
            {
                "tag": Fact(1.0, f"the pointer's tag {tag_in_words(scene.tag)} is that block's"),
                "place": Fact(place, f"the fault is {bytes_in_words(-distance)} before its start"),
                "state": _culprit_state(block),
                **_page(scene),
                **_shape(scene),
            },
        )


def _stale(scene: Scene) -> Iterator[Candidate]:
    """Yield what a pointer to memory that was freed can be: unused since, in use again, freed."""
    block = scene.block
    if not scene.is_drawn:
        return
    if block is None:
        yield Candidate(
            Cause.USE_AFTER_FREE,
            model.PRIORS[Cause.USE_AFTER_FREE] / scene.freed * model.STALE_OUTSIDE_SHARE,
            "use after free: of a block that is gone, its memory has been divided anew",
            None,
            None,
            {
                "tag": _stale_tag(scene, None),
                "place": Fact(1 / scene.gap_granules, "the fault is in no block"),
                **_page(scene),
                **_shape(scene),
            },
        )
        return
    offset = scene.address - block.start
    common = {
        "tag": _stale_tag(scene, block),
        "place": Fact(
            model.inside_density(offset, block.size_bytes),
            f"the fault is {bytes_in_words(offset)} inside of a block",
        ),
        **_page(scene),
    }
    if block.state is not BlockState.ALLOCATED:
        share = model.FREED_SHARE if block.state is BlockState.UNKNOWN else 1.0
        both = block.state is BlockState.UNKNOWN
        prior = model.PRIORS[Cause.USE_AFTER_FREE] / scene.freed * share
        if both:  # nothing tells whether it is in use again
            prior += model.PRIORS[Cause.USE_AFTER_REUSE] / scene.live * (1 - share)
        yield Candidate(
            Cause.USE_AFTER_FREE,
            prior,
            f"use after free: {bytes_in_words(offset)} into {_size(block)}"
            + (", which may be in use again" if both else ", which is free"),
            block,
            offset,
            {**common, "state": _freed_state(block), **_shape(scene)},
        )
        if scene.crash.world is CrashWorld.PROCESS:  # a kernel says that it is a free
            yield _double_free(scene, block, offset, common)
        return
    yield Candidate(
        Cause.USE_AFTER_REUSE,
        model.PRIORS[Cause.USE_AFTER_REUSE] / scene.live,
        f"use after free: {bytes_in_words(offset)} into {_size(block)}, which is in use again",
        block,
        offset,
        {**common, **_shape(scene)},
    )


def _double_free(scene: Scene, block: Block, offset: int, common: dict[str, Fact]) -> Candidate:
    """Return the candidate that the allocator itself met the pointer."""
    place = 1.0 if offset == 0 else 1e-4
    if block.known_by == FREE_RUN and scene.address % GRANULE_BYTES == 0:
        # Where blocks began in a run of free memory is not known.
        place = GRANULE_BYTES / block.size_bytes
    facts = {**common, "place": Fact(place, "the fault is at the first byte of a block")}
    share = model.FREED_SHARE if block.state is BlockState.UNKNOWN else 1.0
    return Candidate(
        Cause.DOUBLE_FREE,
        model.PRIORS[Cause.DOUBLE_FREE] / scene.freed * share,
        f"double free of {_size(block)}",
        block,
        offset,
        {**facts, "state": _freed_state(block), **_shape(scene, is_free_call=True)},
    )


def _bad_frees(scene: Scene) -> Iterator[Candidate]:
    """Yield what a function that frees can have been given."""
    block = scene.block
    offset = None if block is None else scene.address - block.start
    said = scene.crash.fault.reason
    if block is not None and offset is not None:
        double = _double_free(scene, block, offset, {"tag": _stale_tag(scene, block)})
        double.facts["report"] = _said(said, "double-free")
        yield double
    is_start = offset is not None and offset < GRANULE_BYTES and not scene.address % GRANULE_BYTES
    owns = block is not None and block.tag == scene.tag == scene.memory_tag
    yield Candidate(
        Cause.INVALID_FREE,
        model.PRIORS[Cause.INVALID_FREE] / scene.live,
        "invalid free: of a pointer that no allocation returned",
        block,
        offset,
        {
            "place": Fact(1e-3 if is_start and not owns else 1.0,
                          "the pointer is not the start of a block" if not is_start
                          else "the pointer is the start of a block"),
            "report": _said(said, "invalid-free"),
        },
    )  # fmt: skip


def _said(reason: str, title: str) -> Fact:
    """Return what the reporter's own check of the object says."""
    if title in reason:
        return Fact(0.95, f"the report calls it {title}, by the state of the object")
    return Fact(0.05, f"the report does not call it {title}")


def _lost_pointer_tag(scene: Scene) -> Iterator[Candidate]:
    if scene.tag != 0 or not scene.memory_tag or scene.crash.tag_bits != 4:
        return
    offset = 0 if scene.block is None else scene.address - scene.block.start
    size = GRANULE_BYTES if scene.block is None else scene.block.size_bytes
    yield Candidate(
        Cause.LOST_POINTER_TAG,
        model.PRIORS[Cause.LOST_POINTER_TAG] / scene.live,
        "lost tag: the pointer has none, its memory has one; something cut or rebuilt the pointer",
        scene.block,
        None if scene.block is None else offset,
        {
            "tag": Fact(1.0, "the pointer's tag is 0, which no allocator gives a block in use"),
            "place": Fact(model.inside_density(offset, size), "the fault is in tagged memory"),
            **_shape(scene),
        },
    )


def _wild(scene: Scene) -> Iterator[Candidate]:
    """Yield a corrupt pointer: a bit of its tag flipped, or anything at any place."""
    prior, block = model.PRIORS[Cause.WILD_POINTER], scene.block
    difference = None if block is None or block.tag is None else block.tag ^ scene.tag
    if block is not None and difference is not None and difference.bit_count() == 1:
        offset = scene.address - block.start
        yield Candidate(
            Cause.WILD_POINTER,
            prior * model.FLIPPED_SHARE / scene.live,
            f"corrupt pointer: one bit of its tag differs from that of {_size(block)}",
            block,
            offset,
            {
                "tag": Fact(1 / scene.crash.tag_bits, "the tags differ in one bit"),
                "place": Fact(
                    model.inside_density(offset, block.size_bytes),
                    f"the fault is {bytes_in_words(offset)} inside of a block",
                ),
                **_page(scene),
                **_shape(scene),
            },
        )
    granules = max(1, scene.around.tags.size)
    count = 16 if scene.around.kind is Allocator.KASAN_HW else scene.crash.largest_tag + 1
    yield Candidate(
        Cause.WILD_POINTER,
        prior * (1 - model.FLIPPED_SHARE),
        "wild pointer: its place and its tag are those of no block",
        None,
        None,
        {
            "tag": Fact(1 / count, "a wild pointer has any tag"),
            "place": Fact(1 / granules, "a wild pointer points anywhere"),
            **_page(scene),
            **_shape(scene),
        },
    )


def _lost_memory_tags(scene: Scene) -> Iterator[Candidate]:
    if scene.memory_tag != 0 or not scene.is_drawn or not _page_is_zero(scene):
        return
    block = scene.block
    if block is None or block.known_by == FREE_RUN:
        block = None
        # Without headers the page's blocks cannot be seen any more, but their content can.
        is_used = _page_has_content(scene)
        place = Fact(
            model.UNSEEN_BLOCK if is_used else 1 / scene.gap_granules,
            f"the fault's page has {'content' if is_used else 'no content'}",
        )
    else:
        offset = scene.address - block.start
        place = Fact(
            model.inside_density(offset, block.size_bytes),
            f"the fault is {bytes_in_words(offset)} inside of a block",
        )
    yield Candidate(
        Cause.LOST_MEMORY_TAGS,
        model.PRIORS[Cause.LOST_MEMORY_TAGS] / scene.live,
        "lost tags: the whole page has tag 0, as if DMA, a VMM, swap or madvise had taken its tags",
        block,
        None if block is None else scene.address - block.start,
        {
            "page": Fact(1.0, _PAGE_WORDS),
            "tag": Fact(1 / scene.drawn_tags, "the pointer has a tag that an allocator gives"),
            "place": place,
            **_shape(scene),
        },
    )


def _meaningless(scene: Scene) -> Iterator[Candidate]:
    """Yield that the tag is none that is ever drawn: it was made, not allocated."""
    mask = scene.crash.tag_mask
    if mask is None or not scene.tag or mask >> scene.tag & 1:
        return
    yield Candidate(
        Cause.MATCH_ALL,
        model.PRIORS[Cause.MATCH_ALL],
        "a tag without a meaning: the process never draws the pointer's tag, so that it was made by"
        " arithmetic, or by code with another set of tags",
        scene.block,
        None,
        {"tag": Fact(1.0, "the pointer's tag is outside of the set that IRG draws from")},
    )


def _on_the_stack(scene: Scene) -> Iterator[Candidate]:
    pointer = stack_pointer(scene.crash)
    is_below = pointer is not None and scene.address < pointer
    place = 0.9 if is_below else 0.1
    yield Candidate(
        Cause.STACK_USE_AFTER_RETURN,
        model.PRIORS[Cause.STACK_USE_AFTER_RETURN],
        "stack use after return: a local variable was used when its function, or its scope, had"
        " ended",
        None,
        None,
        {
            "place": Fact(
                place, f"the fault is {'below' if is_below else 'above'} the stack pointer"
            ),
            "tag": Fact(
                1 / scene.drawn_tags,
                f"the pointer's tag is one of {scene.drawn_tags} that the variable could have had",
            ),
            "state": Fact(
                1.0 if scene.memory_tag == 0 else 0.3,
                f"the memory's tag is {tag_in_words(scene.memory_tag or 0)}, and a stack that is"
                " not in use has 0",
            ),
            **_shape(scene),
        },
    )
    for block in scene.around.blocks:
        if block.tag != scene.tag or not scene.is_drawn:
            continue
        gap = scene.granule - block.end if block.end <= scene.granule else None
        if gap is None or gap > _PAGE_BYTES:
            continue
        density = model.overflow_density(
            gap // GRANULE_BYTES, is_linear_possible=gap == 0, furthest=model.FURTHEST_ON_STACK
        )
        yield Candidate(
            Cause.STACK_OVERFLOW,
            model.PRIORS[Cause.STACK_OVERFLOW],
            f"overflow of a local variable, {bytes_in_words(scene.address - block.end)} behind it",
            block,
            scene.address - block.end,
            {
                "tag": Fact(1.0, f"a run with the pointer's tag {tag_in_words(scene.tag)} is near"),
                "place": Fact(
                    density * (0.05 if is_below else 1.0),
                    f"the fault is {bytes_in_words(gap)} behind that run",
                ),
                **_shape(scene),
            },
        )


# --- what was seen ---


def _culprit_state(block: Block) -> Fact:
    if block.state is BlockState.FREED:
        return Fact(model.FREED_CULPRIT, "that block is free itself")
    return Fact(1.0, "that block is in use" if block.state in _KNOWN_STATES else "nothing tells"
                " whether that block is in use")  # fmt: skip


def _freed_state(block: Block) -> Fact:
    if block.state is BlockState.FREED:
        return Fact(1.0, "the block is free")
    return Fact(1.0, "nothing tells whether the block is in use")


def _stale_tag(scene: Scene, block: Block | None) -> Fact:
    """Return how likely the tag is one that the block's memory had before."""
    for before in scene.crash.allocator.previous:
        if before.start <= scene.address < before.end and before.tag == scene.tag:
            return Fact(0.9, "a block with the pointer's tag was freed here")
    now = None if block is None else block.tag
    if scene.around.has_parity and now:
        if (now ^ scene.tag) & 1:
            return Fact(1e-3, "blocks here keep the parity of their tags, and it differs")
        return Fact(1 / 6, "the pointer's tag has the parity that blocks here keep")
    count = scene.drawn_tags - (1 if now else 0)
    return Fact(1 / max(1, count), f"the pointer's tag is one of {count} that the memory could"
                " have had before")  # fmt: skip


def _shape(scene: Scene, *, is_free_call: bool = False) -> dict[str, Fact]:
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


def _page_is_zero(scene: Scene) -> bool:
    page = scene.granule // _PAGE_BYTES * _PAGE_BYTES
    first = (page - scene.around.start) // GRANULE_BYTES
    tags = scene.around.tags[max(0, first) : max(0, first) + _PAGE_BYTES // GRANULE_BYTES]
    return first >= 0 and tags.size * GRANULE_BYTES == _PAGE_BYTES and bool((tags == 0).all())


def _zero_page_likelihood(scene: Scene) -> float:
    """Return how likely the page is all tag 0 with no tags lost: 1 if it is not."""
    if scene.memory_tag != 0 or not _page_is_zero(scene):
        return 1.0
    page = scene.granule // _PAGE_BYTES * _PAGE_BYTES
    inside = [b for b in scene.around.blocks if b.start < page + _PAGE_BYTES and b.end > page]
    if scene.around.kind is Allocator.GLIBC:
        # All of them free at once, and never joined to one.
        return float(0.4 ** max(0, len(inside) - 1))
    if any(block.state is BlockState.ALLOCATED for block in inside):
        return 1e-4
    if scene.around.kind is Allocator.HARDENED_MALLOC:
        return float(0.4 ** max(0.0, _PAGE_BYTES / scene.mean_block_bytes - 1))
    return 0.02 if _page_has_content(scene) else 1.0


def _page_has_content(scene: Scene) -> bool:
    data = scene.crash.memory.data(scene.granule // _PAGE_BYTES * _PAGE_BYTES, _PAGE_BYTES)
    return data is not None and any(data)


_PAGE_WORDS: Final = "all granules of the fault's page have tag 0"


def _page(scene: Scene) -> dict[str, Fact]:
    """Return what a page without any tag says about causes that take no tags away."""
    return {"page": Fact(scene.lost_page, _PAGE_WORDS)} if _page_is_zero(scene) else {}


def _size(block: Block) -> str:
    return f"a block of {'' if block.is_exact else 'up to '}{bytes_in_words(block.size_bytes)}"


def _past(distance: int) -> str:
    where = f"{bytes_in_words(distance)} behind its end"
    return where if distance else "right behind its end"


def _up(address: int) -> int:
    return -(-address // GRANULE_BYTES) * GRANULE_BYTES


_NAMES: Final = {
    Cause.OVERFLOW: "an overflow",
    Cause.UNDERFLOW: "an underflow",
    Cause.USE_AFTER_FREE: "a use after free",
    Cause.USE_AFTER_REUSE: "a use after free",
    Cause.DOUBLE_FREE: "a double free",
    Cause.INVALID_FREE: "an invalid free",
    Cause.LOST_POINTER_TAG: "a pointer without its tag",
    Cause.WILD_POINTER: "a wild pointer",
    Cause.LOST_MEMORY_TAGS: "lost tags",
    Cause.MATCH_ALL: "a tag without a meaning",
    Cause.STACK_OVERFLOW: "an overflow on the stack",
    Cause.STACK_USE_AFTER_RETURN: "a use after return",
}


def weigh_blind(crash: Crash) -> tuple[Hypothesis, ...]:
    """Return the causes where no tag of memory is known: the priors, and the pointer's tag."""
    likelihoods = {}
    for cause, prior in model.PRIORS.items():
        if cause in _NEED_MEMORY:
            continue
        is_any = cause is Cause.WILD_POINTER
        chance = 1 / 16 if is_any else float((crash.fault.pointer_tag != 0) ^ (cause in _UNTAGGED))
        likelihoods[cause] = prior * chance
    total = sum(likelihoods.values())
    return tuple(
        Hypothesis(cause, weight / total, f"{_NAMES[cause]}, by how often that is the cause")
        for cause, weight in sorted(likelihoods.items(), key=lambda item: -item[1])
        if weight
    )


_UNTAGGED: Final = frozenset((Cause.LOST_POINTER_TAG,))
_NEED_MEMORY: Final = frozenset((Cause.MATCH_ALL, Cause.INVALID_FREE))
