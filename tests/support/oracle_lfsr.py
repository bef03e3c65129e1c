"""Computes the value that RGSR_EL1 had, from the tags that IRG drew.

IRG takes four bits from a 16-bit LFSR and moves on by that many tags from the last one; the
bits it takes are also what the LFSR shifts in. So after four draws the LFSR consists of known
bits only (Arm ARM, AArch64.RandomTag and AArch64.NextRandomTagBit).
"""

from collections.abc import Sequence

_TAGS = 16
_BITS = 4


def recover_rgsr(tags: Sequence[int]) -> int:
    """Return RGSR_EL1 after the draws that gave `tags`: at least five, nothing excluded."""
    seed = 0
    for previous, tag in zip(tags[-5:-1], tags[-4:], strict=True):
        seed = seed >> _BITS | ((tag - previous) % _TAGS) << (16 - _BITS)
    return seed << 8 | tags[-1]


def draw_tags(rgsr: int, count: int) -> list[int]:
    """Return what `count` IRG draw from here on, with nothing excluded."""
    tag, seed = rgsr & 15, rgsr >> 8 & 0xFFFF
    tags = []
    for _ in range(count):
        offset = 0
        for bit in range(_BITS):
            top = (seed >> 5 ^ seed >> 3 ^ seed >> 2 ^ seed) & 1
            seed = top << 15 | seed >> 1
            offset |= top << bit
        tag = (tag + offset) % _TAGS
        tags.append(tag)
    return tags
