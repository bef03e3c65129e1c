"""The granules around an address, with what is to be drawn in: a pointer, blocks."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from tagalong.errors import UsageError
from tagalong.explain.crash import UNKNOWN_TAG, Block, TagArray
from tagalong.explain.explanation import Explanation
from tagalong.mte import GRANULE_BYTES
from tagalong.mte.pointers import address_of, logical_tag
from tagalong.views.survey import TagMemory, tagged_parts

MAX_GRANULES: Final = 1 << 16
"""More than a person looks at one by one; larger ranges are drawn in cells."""

_AROUND_BYTES: Final = 1 << 10


@dataclass(frozen=True)
class MarkedBlock:
    """A block to draw in: its letter, where it is, and what the legend says of it."""

    letter: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class GranuleWindow:
    """Granules from `start` on, one tag each; UNKNOWN_TAG where nothing is known.

    `tag_bits` is 8 for a kernel with KASAN_SW_TAGS. `pointer` has all its bits, and `pointer_text`
    says what it is.
    """

    start: int
    tags: TagArray
    tag_bits: int = 4
    pointer: int | None = None
    pointer_text: str = ""
    blocks: tuple[MarkedBlock, ...] = ()

    @property
    def end(self) -> int:
        """Return the first address behind the window."""
        return self.start + len(self.tags) * GRANULE_BYTES

    @property
    def has_tags(self) -> bool:
        """Return whether any granule's tag is known."""
        return bool((self.tags != UNKNOWN_TAG).any())

    @property
    def pointer_granule(self) -> int | None:
        """Return the number of the pointer's granule, None if it is not in the window."""
        if self.pointer is None:
            return None
        number = (address_of(self.pointer) - self.start) // GRANULE_BYTES
        return number if 0 <= number < len(self.tags) else None


def granules_of_range(memory: TagMemory, start: int, end: int) -> GranuleWindow:
    """Return the granules that [start, end) touches, those without tags as unknown.

    Raises UsageError for more than MAX_GRANULES, and what reading the memory raises.
    """
    start = start // GRANULE_BYTES * GRANULE_BYTES
    count = -(-(end - start) // GRANULE_BYTES)
    if not 0 < count <= MAX_GRANULES:
        raise UsageError(f"{count} granules are too many to draw: {MAX_GRANULES} are possible")
    tags = np.full(count, UNKNOWN_TAG, np.int16)
    for low, high in tagged_parts(memory, start, start + count * GRANULE_BYTES):
        first, stop = (low - start) // GRANULE_BYTES, (high - start) // GRANULE_BYTES
        tags[first:stop] = memory.granule_tags(low, high - low)
    return GranuleWindow(start, tags)


def granules_around(memory: TagMemory, pointer: int) -> GranuleWindow:
    """Return 2 KiB of granules around a pointer, and the pointer to draw in.

    Raises what reading the memory raises.
    """
    address = address_of(pointer)
    start = max(address // 256 * 256 - _AROUND_BYTES, 0)
    window = granules_of_range(memory, start, start + 2 * _AROUND_BYTES)
    tag = int(window.tags[(address - start) // GRANULE_BYTES])
    return GranuleWindow(
        window.start, window.tags, pointer=pointer, pointer_text=_verdict(pointer, tag)
    )


def _verdict(pointer: int, tag: int) -> str:
    if tag == UNKNOWN_TAG:
        return "the core has no tag here"
    own = logical_tag(pointer)
    verdict = "passes" if own == tag else "fails"
    return f"logical tag {own:x}, allocation tag {tag:x}: {verdict} the check"


def granules_of_fault(explanation: Explanation) -> GranuleWindow | None:
    """Return the granules around a fault with pointer and blocks, None if no place is known."""
    crash, found = explanation.crash, explanation.neighbourhood
    address = crash.fault.address
    if address is None or found is None:
        return None
    start = max(address // 256 * 256 - _AROUND_BYTES, 0)
    shown = range(start, start + 2 * _AROUND_BYTES)
    tags = crash.memory.tags(start, len(shown))
    near = [each for each in found.blocks if each.start < shown.stop and shown.start < each.end]
    top = explanation.top.block if explanation.top else None
    if top is not None and top not in near:
        near.append(top)
    near.sort(key=lambda block: (block is not top, abs(block.start - address)))
    marked = sorted(near[: len(_LETTERS)], key=lambda block: block.start)
    return GranuleWindow(
        start,
        tags,
        crash.tag_bits,
        address | (crash.fault.pointer_tag or 0) << 56 if crash.tag_bits == 4 else address,
        _fault_text(explanation),
        tuple(
            MarkedBlock(letter, block.start, block.end, block_text(block))
            for letter, block in zip(_LETTERS, marked, strict=False)
        ),
    )


_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _fault_text(explanation: Explanation) -> str:
    fault = explanation.crash.fault
    parts = [
        f"logical tag {fault.pointer_tag:x}" if fault.pointer_tag is not None else "",
        f"allocation tag {fault.memory_tag:x}" if fault.memory_tag is not None else "",
    ]
    return ", ".join(["the fault", *filter(None, parts)])


def block_text(block: Block) -> str:
    """Return what a legend says of a block: range, size, tag, state, and what tells of it."""
    tag = "" if block.tag is None else f", tag {block.tag:x}"
    size = f"{block.size_bytes} bytes" if block.is_exact else f"{block.size_bytes} bytes at most"
    return (
        f"[{block.start:#x}, {block.end:#x})  {size}{tag}, {block.state.value} ({block.known_by})"
    )
