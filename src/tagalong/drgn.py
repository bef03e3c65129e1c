"""drgn programs of cores, with allocation tags. Needs the extra: pip install 'tagalong[drgn]'.

    from tagalong.drgn import allocation_tag, open_program, tag_mismatch

    prog = open_program("vm.core")               # or a snapshot, or vm.core.zst
    load_symbols(prog)                           # the kernel's names, without debug information
    allocation_tag(prog, prog.symbol("init_task").address)

drgn reads no tags itself: it knows data and registers. A core by physical addresses with
VMCOREINFO is a kernel to it, and kernel addresses are read through the kernel's own tables.
Functions here take addresses, pointers with tags, and drgn's objects of pointer type. An address of
the kernel's half is translated by the kernel's tables, as drgn does. One of the lower half is what
the core is keyed by, a physical address in most; with `vcpu` it is a virtual address of what runs
on that vCPU. In a core by virtual addresses all are its own.

Of tagalong itself only `tagalong explain` imports this module, where drgn is installed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final, TypeAlias

import drgn
import numpy as np
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms
from numpy.typing import NDArray

from tagalong.binary import elf
from tagalong.binary.layout import MalformedError
from tagalong.core import Core, Space, open_core
from tagalong.core.pages import CorePages
from tagalong.core.tag_runs import ReadTags, TagRun, runs_of_tags, tag_range
from tagalong.errors import CoreError, NoTagsError, NotInCoreError, TranslationError, UsageError
from tagalong.machine import VcpuState
from tagalong.machine.page_source import read_bytes
from tagalong.memory import Gpa
from tagalong.mte.pointers import SELECT_BIT, address_of
from tagalong.mte.pointers import logical_tag as _logical_tag
from tagalong.paging import Half, Mapping, ReadMemory, Regime, translate

__all__ = [
    "TagRun",
    "allocation_tag",
    "find_tag",
    "load_symbols",
    "logical_tag",
    "open_program",
    "physical_address",
    "program_of",
    "tag_mismatch",
    "tag_runs",
]

_CACHE: Final = "tagalong"
_SYMBOLS: Final = "tagalong kallsyms"
_PLATFORM: Final = drgn.Platform(
    drgn.Architecture.AARCH64,
    drgn.PlatformFlags.IS_64_BIT | drgn.PlatformFlags.IS_LITTLE_ENDIAN,
)

Pointer: TypeAlias = int | drgn.Object
"""An address, with a logical tag or without, or drgn's object of a pointer."""


def open_program(path: str | Path) -> drgn.Program:
    """Return a drgn program of the core at `path`: a dump, a snapshot, compressed or not.

    Also of cores that others wrote. It has the core's memory and the registers of its threads. The
    file must not change as long as the program is used. Raises HostError, MalformedCoreError, and
    what drgn raises for a core that it does not take.

    >>> open_program("vm.core").read(0x4000_0000, 8)  # doctest: +SKIP
    """
    core = open_core(path)
    try:
        program = program_of(core)
        program.cache[_CACHE] = _Tags(core, Path(path))
    except BaseException:
        core.close()
        raise
    return program


def program_of(core: Core) -> drgn.Program:
    """Return a drgn program of an open core, without its tags.

    The core must stay open as long as the program is used. Raises what drgn raises for a core that
    it does not take.
    """
    program = drgn.Program(_PLATFORM)
    if core.source.fd is not None:
        # The file may have no name any more.
        program.set_core_dump(f"/proc/self/fd/{core.source.fd}")
    else:
        _add_compressed(program, core)
    return program


def load_symbols(program: drgn.Program) -> None:
    """Let drgn know the names of a kernel, which it has in its own memory (kallsyms).

    Without debug information there are no types. Raises what drgn raises if the kernel has no
    such table, UsageError if the program is not of a kernel.
    """
    if not program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
        raise UsageError(f"{_tags(program).path} is not a core of a Linux kernel to drgn")
    if _SYMBOLS not in program.registered_symbol_finders():
        finder = load_vmlinux_kallsyms(program)
        program.register_symbol_finder(_SYMBOLS, finder, enable_index=0)


def logical_tag(pointer: Pointer) -> int:
    """Return the tag in a pointer, bits 59:56.

    >>> logical_tag(0x0A00_0000_4000_0000)
    10
    """
    return _logical_tag(_value(pointer))


def allocation_tag(program: drgn.Program, pointer: Pointer, *, vcpu: int | None = None) -> int:
    """Return the allocation tag of the granule at `pointer`.

    `vcpu`: whose tables translate an address of the lower half. Raises NoTagsError if the memory
    has no tags, or is mapped without (not Normal Tagged); NotInCoreError if it is not there or not
    mapped.

    >>> allocation_tag(prog, 0xFFFF_8000_8123_4560)  # doctest: +SKIP
    10
    """
    wanted = tag_range(_value(pointer), 1)
    return next(runs_of_tags(_tags(program).reader(vcpu), wanted)).tag


def tag_runs(
    program: drgn.Program, pointer: Pointer, length_bytes: int, *, vcpu: int | None = None
) -> Iterator[TagRun]:
    """Yield runs of granules with the same tag, in order, of `length_bytes` from `pointer` on.

    Widened to whole granules. Raises as `allocation_tag`, when it comes to such memory.
    """
    return runs_of_tags(_tags(program).reader(vcpu), tag_range(_value(pointer), length_bytes))


def find_tag(
    program: drgn.Program, tag: int, pointer: Pointer, length_bytes: int, *, vcpu: int | None = None
) -> Iterator[TagRun]:
    """Yield the runs of a range that have `tag`. Raises as `allocation_tag`."""
    return (run for run in tag_runs(program, pointer, length_bytes, vcpu=vcpu) if run.tag == tag)


def tag_mismatch(
    program: drgn.Program, pointer: Pointer, length_bytes: int = 1, *, vcpu: int | None = None
) -> TagRun | None:
    """Return the first run whose tag is not that of `pointer`; None if an access would succeed.

    That is what a checked access of `length_bytes` through `pointer` faults at. Raises as
    `allocation_tag`.
    """
    wanted = tag_range(_value(pointer), length_bytes)
    runs = runs_of_tags(_tags(program).reader(vcpu), wanted)
    return next((run for run in runs if wanted.is_mismatch(run)), None)


def physical_address(program: drgn.Program, pointer: Pointer, *, vcpu: int | None = None) -> int:
    """Return the guest physical address behind a virtual one.

    `vcpu`: whose tables translate an address of the lower half, by default those of vCPU 0; one of
    the kernel's half is translated by the kernel's own. Raises NotInCoreError if nothing is mapped
    there, TranslationError if the core does not say how to translate.
    """
    address = address_of(_value(pointer))
    mapping = _tags(program).mapping(address, vcpu)
    return mapping.gpa + address - mapping.address


def _value(pointer: Pointer) -> int:
    return pointer if isinstance(pointer, int) else int(pointer.value_())


def _tags(program: drgn.Program) -> "_Tags":
    found = program.cache.get(_CACHE)
    if not isinstance(found, _Tags):
        raise UsageError("this program was not made by tagalong.drgn.open_program")
    return found


class _Tags:
    """What drgn does not know of a core: tags, and how its addresses are translated."""

    def __init__(self, core: Core, path: Path) -> None:
        self.path = path
        self._core = core

    def reader(self, vcpu: int | None) -> ReadTags:
        """Return how to read the tags of a range of the program's addresses, one a byte."""
        return partial(self._granule_tags, vcpu)

    def _granule_tags(self, vcpu: int | None, start: int, length: int) -> NDArray[np.uint8]:
        if not self._is_translated(start, vcpu):
            return self._core.granule_tags(start, length)
        parts, at, end = [], start, start + length
        while at < end:
            here = self.mapping(at, vcpu)
            if not here.is_tagged:
                raise NoTagsError("it is mapped without tags (not Normal Tagged)", address=at)
            size = min(end, here.end) - at
            parts.append(self._core.granule_tags(here.gpa + at - here.address, size))
            at += size
        return np.concatenate(parts)

    def _is_translated(self, address: int, vcpu: int | None) -> bool:
        """Return whether an address is not one that the core is keyed by."""
        machine = self._core.machine
        if machine is None or machine.space is not Space.PHYSICAL:
            return False
        return vcpu is not None or bool(address >> SELECT_BIT & 1)

    def mapping(self, address: int, vcpu: int | None) -> Mapping:
        """Return what maps an address. Raises NotInCoreError, TranslationError, UsageError."""
        machine = self._core.machine
        if machine is None or machine.space is not Space.PHYSICAL:
            raise TranslationError(
                f"{self.path} is no core of a machine by physical addresses: there are no tables "
                "in it that could be walked"
            )
        is_kernel = bool(address >> SELECT_BIT & 1)
        regime = self._kernel if is_kernel else self._user(0 if vcpu is None else vcpu)
        found = translate(self._read, machine.description.regions, regime, address)
        if found is None:
            raise NotInCoreError("nothing is mapped here", address=address)
        return found

    @cached_property
    def _read(self) -> ReadMemory:
        return partial(read_bytes, CorePages(self._core, self.path))

    @cached_property
    def _kernel(self) -> Regime:
        """Return the kernel's half: registers of a vCPU whose MMU is on, and the kernel's table.

        A vCPU in user space can have another table in TTBR1_EL1 (KPTI).
        """
        kernel, lack = self._core.vmcoreinfo, None
        for vcpu in self._vcpus:
            try:
                regime = Regime.of(vcpu.registers, Half.KERNEL)
            except TranslationError as error:
                lack = lack or error
                continue
            return regime if kernel is None else replace(regime, table=Gpa(kernel.kernel_table))
        if kernel is None:
            raise lack or TranslationError(f"{self.path} has no vCPUs")
        try:  # a core that was made without system registers
            return Regime.of(kernel.table_registers, Half.KERNEL)
        except MalformedError as error:
            raise TranslationError(f"{self.path}: {error}") from lack

    def _user(self, vcpu: int) -> Regime:
        if not 0 <= vcpu < len(self._vcpus):
            raise UsageError(f"there is no vCPU {vcpu}: the machine has {len(self._vcpus)}")
        return Regime.of(self._vcpus[vcpu].registers, Half.USER)

    @property
    def _vcpus(self) -> Sequence[VcpuState]:
        machine = self._core.machine
        return () if machine is None else machine.state.vcpus


def _add_compressed(program: drgn.Program, core: Core) -> None:
    """Let drgn read a compressed core: its notes from a small core of notes, memory through us."""
    with _notes_alone(core) as path:
        program.set_core_dump(path)
    is_kernel = bool(program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL)
    for load in core.loads:
        read = partial(_read_segment, core, load.address)
        program.add_memory_segment(load.address, load.file_bytes, read, False)
        if is_kernel:
            program.add_memory_segment(load.physical, load.file_bytes, read, True)


def _read_segment(
    core: Core, start: int, address: int, count: int, offset: int, _physical: bool
) -> bytes:
    try:
        return core.data(start + offset, count).tobytes()
    except CoreError as error:
        raise drgn.FaultError(str(error), address) from error


@contextmanager
def _notes_alone(core: Core) -> Iterator[str]:
    """Yield the name of a core with the same notes and no memory."""
    notes = b"".join(
        core.source.view(each.offset, each.file_bytes).tobytes()
        for each in core.headers
        if each.type == elf.PT_NOTE
    )
    start = elf.ELF_HEADER.size + elf.PROGRAM_HEADER.size
    head = elf.ElfHeader.new(kind=elf.ET_CORE, machine=elf.EM_AARCH64, phnum=1, shoff=0).pack()
    head += elf.PROGRAM_HEADER.pack(
        p_type=elf.PT_NOTE, p_flags=0, p_offset=start, p_vaddr=0, p_paddr=0,
        p_filesz=len(notes), p_memsz=0, p_align=elf.NOTE_ALIGNMENT,
    )  # fmt: skip
    with NamedTemporaryFile(prefix="tagalong-notes-") as file:
        file.write(head + notes)
        file.flush()
        yield file.name
