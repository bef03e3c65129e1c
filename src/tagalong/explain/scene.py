"""What the candidates look at: the fault, its block, its page, and how many blocks there are."""

from typing import Final

from tagalong.explain import model
from tagalong.explain.crash import UNKNOWN_TAG, Allocator, BlockState, Crash
from tagalong.explain.surroundings import Surroundings
from tagalong.mte import GRANULE_BYTES

_PAGE_BYTES: Final = 4096


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
        """Return how likely the fault's page is all tag 0 if its tags were not lost."""
        return zero_page_likelihood(self)


def page_is_zero(scene: Scene) -> bool:
    """Return whether all granules of the fault's page have tag 0, as far as they are known.

    Half of them have to be: a tombstone shows 2 KiB to each side of the fault.
    """
    page = scene.granule // _PAGE_BYTES * _PAGE_BYTES
    first, last = ((at - scene.around.start) // GRANULE_BYTES for at in (page, page + _PAGE_BYTES))
    tags = scene.around.tags[max(0, first) : max(0, last)]
    known = tags[tags != UNKNOWN_TAG]
    return 2 * known.size * GRANULE_BYTES >= _PAGE_BYTES and bool((known == 0).all())


def page_has_content(scene: Scene) -> bool | None:
    """Return whether the fault's page holds anything but zeros, None if that is not known."""
    data = scene.crash.memory.data(scene.granule // _PAGE_BYTES * _PAGE_BYTES, _PAGE_BYTES)
    return None if data is None else any(data)


def zero_page_likelihood(scene: Scene) -> float:
    """Return how likely the page is all tag 0 with no tags lost: 1 if it is not."""
    if scene.memory_tag != 0 or not page_is_zero(scene):
        return 1.0
    page = scene.granule // _PAGE_BYTES * _PAGE_BYTES
    inside = [b for b in scene.around.blocks if b.start < page + _PAGE_BYTES and b.end > page]
    if scene.around.kind is Allocator.GLIBC:
        # All of them free at once, and never joined to one.
        return float(0.4 ** max(0, len(inside) - 1))
    if any(block.state is BlockState.ALLOCATED for block in inside):
        return 1e-4
    if scene.around.kind is Allocator.HARDENED_MALLOC and page_has_content(scene) is not False:
        return float(0.4 ** max(0.0, _PAGE_BYTES / scene.mean_block_bytes - 1))
    return _FREE_BY_CONTENT[page_has_content(scene)]


_FREE_BY_CONTENT: Final = {True: 0.02, None: 0.5, False: 1.0}


def round_up(address: int) -> int:
    """Return the first granule that does not lie before an address."""
    return -(-address // GRANULE_BYTES) * GRANULE_BYTES
