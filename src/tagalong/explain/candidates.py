"""What can be behind a fault: for each cause its candidates, with what each would have left.

All densities are per block of the surroundings, so that causes can be compared: one of N blocks
was misused, and the fault is at one place relative to it. docs/design/explain.md has the model.
"""

from collections.abc import Iterator
from typing import Final

from tagalong.explain import model
from tagalong.explain.crash import Allocator, Block, BlockState, Crash, CrashWorld
from tagalong.explain.explanation import Cause
from tagalong.explain.observations import (
    PAGE_WORDS,
    Candidate,
    Fact,
    culprit_state,
    freed_state,
    page_facts,
    previous_block,
    report_says,
    shape,
    stale_tag,
)
from tagalong.explain.scene import Scene, page_has_content, page_is_zero, round_up
from tagalong.explain.stack import is_stack, stack_pointer
from tagalong.explain.surroundings import FREE_RUN, Surroundings
from tagalong.explain.words import bytes_in_words, tag_in_words
from tagalong.mte import GRANULE_BYTES

_PAGE_BYTES: Final = 4096


def candidates_of(crash: Crash, around: Surroundings) -> Iterator[Candidate]:
    """Yield all candidates for a fault with an address and a pointer's tag."""
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


def _overflows(scene: Scene) -> Iterator[Candidate]:
    for block in scene.around.blocks:
        if block.tag != scene.tag or block.end > scene.address or not scene.is_drawn:
            continue
        end = round_up(block.end)
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
                "state": culprit_state(block),
                **page_facts(scene),
                **shape(scene),
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
                "state": culprit_state(block),
                **page_facts(scene),
                **shape(scene),
            },
        )


def _stale(scene: Scene) -> Iterator[Candidate]:
    """Yield what a pointer to memory that was freed can be: unused since, in use again, freed."""
    block = scene.block
    if not scene.is_drawn:
        return
    if block is None:
        yield _stale_outside(scene)
        return
    offset = scene.address - block.start
    common = {
        "tag": stale_tag(scene, block),
        "place": Fact(
            model.inside_density(offset, block.size_bytes),
            f"the fault is {bytes_in_words(offset)} inside of a block",
        ),
        **page_facts(scene),
    }
    if block.state is BlockState.ALLOCATED:
        yield Candidate(
            Cause.USE_AFTER_REUSE,
            model.PRIORS[Cause.USE_AFTER_REUSE] / scene.live,
            f"use after free: {_into(scene, block)}, which is in use again",
            *_whose(scene, block),
            {**common, **shape(scene)},
        )
        return
    yield _freed(scene, block, common)
    if scene.crash.world is CrashWorld.PROCESS:  # a kernel says that it is a free
        yield _double_free(scene, block, offset, common)


def _stale_outside(scene: Scene) -> Candidate:
    """Return the candidate that a block was here whose bounds are gone."""
    return Candidate(
        Cause.USE_AFTER_FREE,
        model.PRIORS[Cause.USE_AFTER_FREE] / scene.freed * model.STALE_OUTSIDE_SHARE,
        "use after free: of a block that is gone, its memory has been divided anew",
        None,
        None,
        {
            "tag": stale_tag(scene, None),
            "place": Fact(1 / scene.gap_granules, "the fault is in no block"),
            **page_facts(scene),
            **shape(scene),
        },
    )


def _freed(scene: Scene, block: Block, common: dict[str, Fact]) -> Candidate:
    """Return the candidate that a block is free, or that nothing tells whether it is."""
    is_open = block.state is BlockState.UNKNOWN
    share = model.FREED_SHARE if is_open else 1.0
    prior = model.PRIORS[Cause.USE_AFTER_FREE] / scene.freed * share
    if is_open:  # nothing tells whether it is in use again
        prior += model.PRIORS[Cause.USE_AFTER_REUSE] / scene.live * (1 - share)
    return Candidate(
        Cause.USE_AFTER_FREE,
        prior,
        f"use after free: {_into(scene, block)}"
        + (", which may be in use again" if is_open else ", which is free"),
        *_whose(scene, block),
        {**common, "state": freed_state(block), **shape(scene)},
    )


def _whose(scene: Scene, block: Block) -> tuple[Block, int]:
    """Return the block whose pointer is stale, and the offset in it.

    It is the one of which a record tells that it was freed here, else what is there now.
    """
    had = previous_block(scene) or block
    return had, scene.address - had.start


def _into(scene: Scene, block: Block) -> str:
    had, offset = _whose(scene, block)
    return f"{bytes_in_words(offset)} into {_size(had)}"


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
        {**facts, "state": freed_state(block), **shape(scene, is_free_call=True)},
    )


def _bad_frees(scene: Scene) -> Iterator[Candidate]:
    """Yield what a function that frees can have been given."""
    block = scene.block
    offset = None if block is None else scene.address - block.start
    said = scene.crash.fault.reason
    if block is not None and offset is not None:
        double = _double_free(scene, block, offset, {"tag": stale_tag(scene, block)})
        double.facts["report"] = report_says(said, "double-free")
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
            "report": report_says(said, "invalid-free"),
        },
    )  # fmt: skip


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
            **shape(scene),
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
                **page_facts(scene),
                **shape(scene),
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
            **page_facts(scene),
            **shape(scene),
        },
    )


def _lost_memory_tags(scene: Scene) -> Iterator[Candidate]:
    if scene.memory_tag != 0 or not scene.is_drawn or not page_is_zero(scene):
        return
    block = scene.block
    if block is None or block.known_by == FREE_RUN:
        block = None
        # Without headers the page's blocks cannot be seen any more, but their content can.
        place = _unseen_place(scene)
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
            "page": Fact(1.0, PAGE_WORDS),
            "tag": Fact(1 / scene.drawn_tags, "the pointer has a tag that an allocator gives"),
            "place": place,
            **shape(scene),
        },
    )


def _unseen_place(scene: Scene) -> Fact:
    """Return how likely the fault is in a block that lost its tags and cannot be seen."""
    has_content = page_has_content(scene)
    if has_content is None:
        return Fact(model.UNSEEN_BLOCK / 2, "what the fault's page has is not known")
    if has_content:
        return Fact(model.UNSEEN_BLOCK, "the fault's page has content")
    return Fact(
        min(model.UNSEEN_EMPTY_BLOCK, 1 / scene.gap_granules), "the fault's page has no content"
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
    yield _returned(scene, is_below=is_below)
    for block in scene.around.blocks:
        gap = scene.granule - block.end
        if block.tag == scene.tag and scene.is_drawn and 0 <= gap <= _PAGE_BYTES:
            yield _stack_overflow(scene, block, gap, is_below=is_below)


def _returned(scene: Scene, *, is_below: bool) -> Candidate:
    count, met = scene.drawn_tags, scene.memory_tag or 0
    return Candidate(
        Cause.STACK_USE_AFTER_RETURN,
        model.PRIORS[Cause.STACK_USE_AFTER_RETURN],
        "stack use after return: a local variable was used when its function, or its scope, had"
        " ended",
        None,
        None,
        {
            "place": Fact(
                0.9 if is_below else 0.1,
                f"the fault is {'below' if is_below else 'above'} the stack pointer",
            ),
            "tag": Fact(
                1 / count, f"the pointer's tag is one of {count} that the variable could have had"
            ),
            "state": Fact(
                1.0 if met == 0 else 0.3,
                f"the memory's tag is {tag_in_words(met)}, and a stack that is not in use has 0",
            ),
            **shape(scene),
        },
    )


def _stack_overflow(scene: Scene, block: Block, gap: int, *, is_below: bool) -> Candidate:
    density = model.overflow_density(
        gap // GRANULE_BYTES, is_linear_possible=gap == 0, furthest=model.FURTHEST_ON_STACK
    )
    distance = scene.address - block.end
    return Candidate(
        Cause.STACK_OVERFLOW,
        model.PRIORS[Cause.STACK_OVERFLOW],
        f"overflow of a local variable, {bytes_in_words(distance)} behind it",
        block,
        distance,
        {
            "tag": Fact(1.0, f"a run with the pointer's tag {tag_in_words(scene.tag)} is near"),
            "place": Fact(
                density * (0.05 if is_below else 1.0),
                f"the fault is {bytes_in_words(gap)} behind that run",
            ),
            **shape(scene),
        },
    )


def _size(block: Block) -> str:
    return f"a block of {'' if block.is_exact else 'up to '}{bytes_in_words(block.size_bytes)}"


def _past(distance: int) -> str:
    where = f"{bytes_in_words(distance)} behind its end"
    return where if distance else "right behind its end"
