"""Which guest memory goes into which segment of a core, for each kind of address space."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from tagalong.core import CoreSegment, Space
from tagalong.errors import TranslationError, UsageError
from tagalong.machine import MachineDescription, MachineState, PageSource, register_ids
from tagalong.machine.page_source import read_bytes
from tagalong.memory import Gpa
from tagalong.mte import PAGE_SIZES_BYTES
from tagalong.paging import Half, Mapping, Regime, walk
from tagalong.snapshot.vmcoreinfo_search import VmcoreinfoSearch

_EL: Final = 0b1100  # of PSTATE.M
_HALVES: Final = {Space.KERNEL: Half.KERNEL, Space.USER: Half.USER}


@dataclass(frozen=True, slots=True)
class RamPiece:
    """Guest RAM from `gpa` on, which goes to byte `offset` of a segment."""

    segment: int
    offset: int
    gpa: Gpa
    size_bytes: int
    has_tags: bool


@dataclass(frozen=True)
class MemoryLayout:
    """The segments of a core and the pieces of guest RAM that fill them.

    `page_size_bytes`: what segments and pieces are multiples of: the machine's page, and that of
    the smallest granule where the guest's own tables say what is mapped. `unreadable_tables`:
    translation tables that are not in RAM, so that what they map is missing; `not_ram_bytes`: what
    is mapped to devices or to nothing.
    """

    page_size_bytes: int
    segments: tuple[CoreSegment, ...]
    pieces: tuple[RamPiece, ...]
    unreadable_tables: tuple[Gpa, ...] = ()
    not_ram_bytes: int = 0


def physical_layout(description: MachineDescription) -> MemoryLayout:
    """Return a segment for each region, keyed by gpa."""
    has_tags = description.mte_version != 0
    segments = [CoreSegment(r.gpa, Gpa(r.gpa), r.size_bytes, has_tags) for r in description.regions]
    pieces = [
        RamPiece(number, 0, Gpa(region.gpa), region.size_bytes, has_tags)
        for number, region in enumerate(description.regions)
    ]
    return MemoryLayout(description.page_size_bytes, tuple(segments), tuple(pieces))


def virtual_layout(
    description: MachineDescription,
    state: MachineState,
    source: PageSource,
    space: Space,
    vcpu: int,
) -> MemoryLayout:
    """Return what the tables of one vCPU map, keyed by virtual address.

    `source`: the memory that the tables are in, of a machine or of a core.

    Neighbours of one memory type are one segment, wherever their pages are in RAM; its
    p_paddr is 0 if they are in more than one place. Only Normal Tagged memory has tags.
    Raises UsageError for a vCPU that is not there, TranslationError if the tables cannot be
    walked or map no RAM.
    """
    if not 0 <= vcpu < len(state.vcpus):
        raise UsageError(
            f"there is no vCPU {vcpu}: the machine has {len(state.vcpus)}, the first is 0"
        )
    regime = _regime(state, source, space, vcpu)
    found = walk(partial(read_bytes, source), description.regions, regime)
    if not found.mappings:
        register = f"TTBR{regime.half.value}_EL1"
        raise TranslationError(
            f"{register} of vCPU {vcpu}: the tables from gpa {regime.table:#x} on map no RAM; give "
            f"another --space, or another --vcpu"
        )
    segments, pieces = _join(found.mappings, can_have_tags=description.mte_version != 0)
    unreadable = tuple(found.unreadable_tables)
    return MemoryLayout(PAGE_SIZES_BYTES[0], segments, pieces, unreadable, found.not_ram_bytes)


def _regime(state: MachineState, source: PageSource, space: Space, vcpu: int) -> Regime:
    """Return the regime to walk.

    Linux can have other tables in TTBR1_EL1 while a program runs, which map hardly anything of the
    kernel (KPTI): then VMCOREINFO says where the kernel's own are.
    """
    registers = state.vcpus[vcpu].registers
    regime = Regime.of(registers, _HALVES[space])
    runs_a_program = not registers.get(register_ids.PSTATE, _EL) & _EL
    if space is Space.KERNEL and runs_a_program:
        search = VmcoreinfoSearch(source)
        search.look_everywhere()
        if (kernel := search.chosen(state)) is not None:
            return replace(regime, table=Gpa(kernel.kernel_table))
    return regime


def _join(
    mappings: Sequence[Mapping], *, can_have_tags: bool
) -> tuple[tuple[CoreSegment, ...], tuple[RamPiece, ...]]:
    segments: list[CoreSegment] = []
    pieces: list[RamPiece] = []
    start = 0
    for index, mapping in enumerate(mappings):
        has_tags = mapping.is_tagged and can_have_tags
        if index and not _continues(mappings[index - 1], mapping):
            start = index
        if start == index:
            segments.append(CoreSegment(mapping.address, mapping.gpa, 0, has_tags))
        offset = mapping.address - segments[-1].address
        pieces.append(
            RamPiece(len(segments) - 1, offset, mapping.gpa, mapping.size_bytes, has_tags)
        )
        physical = segments[-1].physical if start == index else Gpa(0)
        size = offset + mapping.size_bytes
        segments[-1] = CoreSegment(segments[-1].address, physical, size, has_tags)
    return tuple(segments), tuple(pieces)


def _continues(last: Mapping, mapping: Mapping) -> bool:
    return last.end == mapping.address and last.is_tagged is mapping.is_tagged
