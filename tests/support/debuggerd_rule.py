"""The rule by which scudo tells debuggerd the cause of a fault, from its description.

First the blocks 0 and +-1 from the fault: one in use whose first granule has the pointer's tag was
overflowed or underflowed. Then the ring of freed blocks, newest first: a tagged entry that holds
the fault is a use after free. Then blocks +-2 to +-15, as in the first step. It says no more than
three causes, and this takes the first. No probabilities, and no other causes.

Source: LLVM, compiler-rt/lib/scudo/standalone/combined.h (getErrorInfo).
"""

from collections.abc import Sequence

from tagalong.explain.crash import Block, BlockState, Crash
from tagalong.explain.explanation import Cause
from tagalong.explain.surroundings import look_around

_NEAR, _FAR = 1, 15


def debuggerd_says(crash: Crash) -> Cause | None:
    """Return the first cause that the rule finds, None if it finds none."""
    address, tag = crash.fault.address, crash.fault.pointer_tag
    around = look_around(crash)
    if around is None or address is None or not tag:
        return None
    blocks = around.blocks
    here = sum(block.start <= address for block in blocks) - 1
    near = _neighbour(blocks, here, range(_NEAR + 1), address, tag)
    if near is not None:
        return near
    if any(b.start <= address < b.end and b.tag == tag for b in crash.allocator.previous):
        return Cause.USE_AFTER_FREE
    if not crash.allocator.previous:
        # No ring came with the crash: the rule at its best, as if the ring had the block.
        held = around.block_at(address)
        if held is not None and held.state is BlockState.FREED:
            return Cause.USE_AFTER_FREE
    return _neighbour(blocks, here, range(_NEAR + 1, _FAR + 1), address, tag)


def _neighbour(
    blocks: Sequence[Block], here: int, distances: range, address: int, tag: int
) -> Cause | None:
    for distance in distances:
        for number in (here - distance, here + distance):
            if not 0 <= number < len(blocks):
                continue
            block = blocks[number]
            if block.tag != tag or block.state is BlockState.FREED:
                continue
            if address >= block.end:
                return Cause.OVERFLOW
            if address < block.start:
                return Cause.UNDERFLOW
    return None
