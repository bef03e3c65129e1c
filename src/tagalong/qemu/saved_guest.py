"""A guest that QEMU saved to a file: its machine, its registers, its memory and its tags.

QEMU's TCG keeps allocation tags in a block of RAM of their own, mach-virt.tag: two tags a byte, the
lower-address granule in the low nibble, as we do. It migrates as all RAM does. KVM keeps them in
the pages, where no stream of QEMU has them. Source: QEMU hw/arm/virt.c (machvirt_init, the memory
map), target/arm/tcg/mte_helper.c (allocation_tag_mem).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.core.reader import open_file
from tagalong.errors import CoreError, NoTagsError
from tagalong.machine import (
    MachineDescription,
    MachineState,
    MemoryMap,
    RegionDescription,
    VcpuState,
    register_ids,
)
from tagalong.memory import Gpa, PageBitmap, run_pages
from tagalong.mte import PACKED_RATIO
from tagalong.mte.version import MteVersion
from tagalong.qemu.known import BLOCK_OF_RAM, BLOCK_OF_TAGS, VIRT_DEVICES, VIRT_RAM, what_file
from tagalong.qemu.ram import RamBlock, RamReader
from tagalong.qemu.stream import SavedStream, read_stream
from tagalong.qemu.vcpus import vcpus_of
from tagalong.snapshot import StillMachine

_NOT_RAM: Final = ("virt.flash", "mach-virt.tag", "mach-virt.secure-tag", "virt.secure-ram", "/rom")
_MTE_SHIFT: Final = 8  # ID_AA64PFR1_EL1.MTE
_MTE_MASK: Final = 0xF


class SavedPages:
    """RAM and tags in a stream; implements PageSource. `tags` is None if there are none."""

    def __init__(self, memory: MemoryMap, ram: RamBlock, tags: RamBlock | None, reader: RamReader):
        self.memory = memory
        self._ram = ram
        self._tags = tags
        self._reader = reader
        self._is_recording = False

    def populated_pages(self) -> list[PageBitmap]:
        """As PageSource: what the stream has data or tags of."""
        page = self.memory.page_size_bytes
        found = PageBitmap.from_pages(self.memory.page_count(0), self._ram.used_pages())
        if self._tags is not None:
            # A page of tags is of 32 pages of memory.
            starts = self._tags.used_pages() * page * PACKED_RATIO
            stops = np.minimum(starts + page * PACKED_RATIO, self._ram.size_bytes)
            extents = zip(starts.tolist(), stops.tolist(), strict=True)
            found |= PageBitmap.from_extents(found.page_count, extents, page)
        return [found]

    def changed_pages(self) -> list[PageBitmap]:
        """As PageSource: a file does not change."""
        if not self._is_recording:
            self._is_recording = True
            return self.populated_pages()
        return [PageBitmap(self.memory.page_count(0))]

    def data(self, number: int, runs: NDArray[np.int64]) -> NDArray[np.uint8]:  # noqa: ARG002
        """As PageSource."""
        return self._reader.pages(self._ram, run_pages(runs))

    def tags(self, number: int, first: int, count: int) -> NDArray[np.uint8]:
        """As PageSource."""
        page = self.memory.page_size_bytes
        if self._tags is None:
            address = self.memory.ranges[number].address + first * page
            raise NoTagsError("the stream has no tags", address=address)
        packed = page // PACKED_RATIO
        return self._reader.bytes(self._tags, first * packed, count * packed)


@contextmanager
def open_saved(path: Path, *, offset: int = 0, block: str | None = None) -> Iterator[StillMachine]:
    """Yield the guest in a file that QEMU's `migrate file:` wrote, mapped-ram or not.

    `offset`: where in the file the stream begins. `block`: which of QEMU's blocks is the guest's
    RAM, by default the one of the virt machine. The file must not change meanwhile.

    Raises HostError if it cannot be read, MalformedCoreError with the offset if it is damaged or
    cut short, CoreError with the way out if it cannot be read here.
    """
    source = open_file(path)
    try:
        what_file(source.view(0, source.size)[offset:], path)
        stream = read_stream(source, str(path), offset)
        if not stream.machine.startswith("virt"):
            raise CoreError(
                f"{path} is of machine {stream.machine or 'unknown'!r}: the memory map of "
                "virt is known, and no other"
            )
        ram, tags = _blocks(stream, path, block)
        vcpus = vcpus_of(stream, source, f"{path}: QEMU stream")
        description = _describe(stream, ram, vcpus, has_tags=tags is not None)
        reader = RamReader(source.view(0, source.size), stream.page_size_bytes)
        pages = SavedPages(MemoryMap.of(description), ram, tags, reader)
        state = MachineState(vcpus, {VIRT_DEVICES.name: b""})
        yield StillMachine(description, state, pages)
    finally:
        source.close()


def _blocks(stream: SavedStream, path: Path, name: str | None) -> tuple[RamBlock, RamBlock | None]:
    """Return the blocks of RAM and of its tags. Raises CoreError, which names all blocks."""
    tags = stream.blocks.get(BLOCK_OF_TAGS)
    ram = stream.blocks.get(name or BLOCK_OF_RAM)
    if ram is None and name is None:
        # -machine memory-backend=ID, which names the block.
        others = [b for b in stream.blocks.values() if not b.name.startswith(_NOT_RAM)]
        ram = others[0] if len(others) == 1 else None
    if ram is None:
        names = ", ".join(f"{b.name} ({b.size_bytes:#x} bytes)" for b in stream.blocks.values())
        lack = "does not say which block is the guest's RAM" if name is None else f"has no {name}"
        raise CoreError(f"{path} {lack}: {names}; name it with --ram-block")
    if tags is not None and tags.size_bytes * PACKED_RATIO != ram.size_bytes:
        raise CoreError(
            f"{path}: block {ram.name} of {ram.size_bytes:#x} bytes cannot have the "
            f"{tags.size_bytes:#x} bytes of tags in {tags.name}; name another with --ram-block"
        )
    return ram, tags


def _describe(
    stream: SavedStream, ram: RamBlock, vcpus: tuple[VcpuState, ...], *, has_tags: bool
) -> MachineDescription:
    features = vcpus[0].registers.get(register_ids.ID_AA64PFR1_EL1, 0)
    version = min(features >> _MTE_SHIFT & _MTE_MASK, MteVersion.MTE3)
    return MachineDescription(
        page_size_bytes=stream.page_size_bytes,
        vcpu_count=len(vcpus),
        # Without tags of its memory the core must not look like one whose tags are known.
        mte_version=max(version, MteVersion.MTE2) if has_tags else MteVersion.NONE,
        regions=(RegionDescription(Gpa(VIRT_RAM), ram.size_bytes),),
        devices=(VIRT_DEVICES,),
    )
