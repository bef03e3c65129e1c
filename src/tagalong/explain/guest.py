"""Reads a crash out of a guest: what the last exception of a vCPU was, by its system registers.

A snapshot or a dump by physical addresses has all of a machine. A tag check fault leaves ESR_EL1,
FAR_EL1 and ELR_EL1 behind, and they stay until the next exception: so a guest that stopped in its
handler, or was dumped by it, still says what happened. The guest's own tables lead to the memory.

Source: Arm ARM (DDI 0487), D24.2.40 "ESR_EL1", D24.2.44 "FAR_EL1", D24.2.205 "TFSR_EL1".
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from tagalong.core import Core, CoreRegion, Space
from tagalong.core.pages import CorePages
from tagalong.errors import TagalongError, TranslationError
from tagalong.explain.backtrace import unwind
from tagalong.explain.crash import (
    UNKNOWN_TAG,
    CheckMode,
    Crash,
    CrashMemory,
    CrashWorld,
    DataDirection,
    FaultingAccess,
    SourceKind,
    StackFrame,
    TagArray,
    TagFault,
)
from tagalong.explain.kernel_names import KernelNames
from tagalong.explain.memory import CoreMemory
from tagalong.explain.process_core import (
    effective_pointer,
    handled_fault,
    is_near,
    read_access,
)
from tagalong.explain.signal_frame import SignalFrame, find_signal_frame
from tagalong.machine import RegisterId, VcpuState, register_ids
from tagalong.machine.page_source import granule_tags, read_bytes
from tagalong.machine.register_ids import GENERAL_REGISTERS
from tagalong.memory import Gpa
from tagalong.mte import GRANULE_BYTES
from tagalong.mte.pointers import SELECT_BIT, address_of, logical_tag
from tagalong.mte.registers import Pstate
from tagalong.paging import Half, Regime, translate, walk
from tagalong.paging import Mapping as PageMapping

_CLASS_SHIFT: Final = 26
_ABORT_LOWER, _ABORT_SAME = 0x24, 0x25
_STATUS_MASK, _TAG_CHECK = 0x3F, 0x11
_WRITE: Final = 1 << 6
_ALL_TAGS: Final = 0xFFFF
_PAGE_BYTES: Final = 4096
_LOOKED_AT_BYTES: Final = 128 << 10

_NO_TAG_CHECK: Final = "No vCPU's last exception was a tag check fault."
_CHANGED: Final = "The registers are those of now: the handler has changed them since the fault."
_LOST: Final = (
    "FAR_EL1 is lost: a Linux kernel that isolates its page tables returns to user space by it. In"
    " user space the first pointer in the registers that would fault now is taken instead."
)
_HANDLED: Final = (
    "A process handles the fault: registers and address are those that its kernel left on the stack"
    " for its handler."
)


def read_guest(core: Core, path: Path, modules: Path | None = None) -> list[Crash]:
    """Return a crash for each vCPU whose last exception was a tag check fault, or that handles one.

    If there is none, one for vCPU 0 that says so. `modules`: the folder with the kernel's vmlinux
    or System.map. Raises MalformedCoreError for a damaged core.
    """
    machine = core.machine
    vcpus: Sequence[VcpuState] = () if machine is None else machine.state.vcpus
    names = KernelNames(core, modules)
    found = [_Vcpu(core, path, number, vcpu, names).crash() for number, vcpu in enumerate(vcpus)]
    faulted = [crash for crash in found if crash.fault.mode is not CheckMode.NONE]
    return faulted or found[:1]


class WalkedMemory:
    """A guest's memory as one vCPU sees it: by virtual addresses, through its tables."""

    def __init__(self, core: Core, path: Path, vcpu: VcpuState) -> None:
        self._core = core
        self._pages = CorePages(core, path)
        self._regions = core.machine.description.regions if core.machine else ()
        self._registers = vcpu.registers
        self._looked_up: dict[int, PageMapping | None] = {}
        self._looked_at: list[int] = []

    def look_at(self, address: int) -> None:
        """Let `extents` have what is mapped around an address."""
        self._looked_at.append(address)

    @property
    def extents(self) -> Sequence[CoreRegion]:
        """As CrashMemory, of the pages that were read."""
        pages: set[int] = set()
        for address in self._looked_at:
            low = max(0, address - _LOOKED_AT_BYTES) // _PAGE_BYTES
            high = min((1 << 64) - 1, address + _LOOKED_AT_BYTES) // _PAGE_BYTES
            pages.update(range(low, high + 1))
        found: list[CoreRegion] = []
        for page in sorted(pages):
            here = self._mapping(page * _PAGE_BYTES)
            if here is None:
                continue
            last = found[-1] if found else None
            if last and last.end == page * _PAGE_BYTES and last.has_tags == here.is_tagged:
                found[-1] = CoreRegion(
                    last.address, last.size_bytes + _PAGE_BYTES, True, here.is_tagged
                )
            else:
                found.append(CoreRegion(page * _PAGE_BYTES, _PAGE_BYTES, True, here.is_tagged))
        return found

    @cached_property
    def address_space(self) -> Sequence[CoreRegion]:
        """As CrashMemory. Tables that make no sense map nothing but what was looked at."""
        return [*_joined(self._mapped)] or self.extents

    def stored_tags(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """As CrashMemory."""
        for here, low, high in self._parts(start, stop):
            shift = here.address - here.gpa
            for stored_low, stored_high in self._core.stored_tags(low - shift, high - shift):
                yield stored_low + shift, stored_high + shift
        if not self._mapped:
            yield start, stop

    @cached_property
    def _mapped(self) -> Sequence[PageMapping]:
        """All that both tables map to RAM, in ascending order; nothing if one is not sane."""
        try:
            return [
                mapping
                for regime in (self._user, self._kernel)
                if regime is not None
                for mapping in walk(self._read, self._regions, regime).mappings
            ]
        except TagalongError:
            return []

    def _parts(self, start: int, stop: int) -> Iterator[tuple[PageMapping, int, int]]:
        """Yield the mappings that a range meets, and the addresses [low, high) of each part."""
        first = max(0, bisect_right(self._mapped, start, key=_address) - 1)
        for here in islice(self._mapped, first, None):
            if here.address >= stop:
                return
            low, high = max(start, here.address), min(stop, here.end)
            if low < high:
                yield here, low, high

    def data(self, address: int, length: int) -> bytes | None:
        """As CrashMemory."""
        parts = []
        for start, size in _pages_of(address, length):
            here = self._mapping(start)
            if here is None:
                return None
            try:
                parts.append(read_bytes(self._pages, Gpa(here.gpa + start - here.address), size))
            except TagalongError:
                return None
        return b"".join(parts)

    def tags(self, address: int, length: int) -> TagArray:
        """As CrashMemory; memory that is not mapped Normal Tagged has none."""
        found = np.full(length // GRANULE_BYTES, UNKNOWN_TAG, np.int16)
        for here, low, high in self._near(address, length):
            if not here.is_tagged:
                continue
            try:
                known = granule_tags(self._pages, here.gpa + low - here.address, high - low)
            except TagalongError:
                continue
            at = (low - address) // GRANULE_BYTES
            found[at : at + known.size] = known
        return found

    def _near(self, address: int, length: int) -> Iterator[tuple[PageMapping, int, int]]:
        """Yield what maps a range: page by page, or as parts of all that is mapped."""
        if length > _LOOKED_AT_BYTES and self._mapped:
            yield from self._parts(address, address + length)
            return
        for start, size in _pages_of(address, length):
            here = self._mapping(start)
            if here is not None:
                yield here, start, start + size

    def _mapping(self, address: int) -> PageMapping | None:
        page = address // _PAGE_BYTES
        if page not in self._looked_up:
            self._looked_up[page] = self._translated(page * _PAGE_BYTES)
        return self._looked_up[page]

    def _translated(self, address: int) -> PageMapping | None:
        regime = self._kernel if address >> SELECT_BIT & 1 else self._user
        if regime is None:
            return None
        try:
            return translate(self._read, self._regions, regime, address)
        except TagalongError:
            return None

    @cached_property
    def _user(self) -> Regime | None:
        return _regime(self._registers, Half.USER)

    @cached_property
    def _kernel(self) -> Regime | None:
        return _regime(self._registers, Half.KERNEL)

    @cached_property
    def _read(self) -> "partial[bytes]":
        return partial(read_bytes, self._pages)


def _address(mapping: PageMapping) -> int:
    return mapping.address


def _joined(mappings: Sequence[PageMapping]) -> Iterator[CoreRegion]:
    """Yield what is mapped; neighbours are one region wherever in RAM they are."""
    pending: CoreRegion | None = None
    for each in mappings:
        if pending and (pending.end, pending.has_tags) == (each.address, each.is_tagged):
            pending = replace(pending, size_bytes=pending.size_bytes + each.size_bytes)
            continue
        if pending:
            yield pending
        pending = CoreRegion(each.address, each.size_bytes, True, each.is_tagged)
    if pending:
        yield pending


def _regime(registers: Mapping[RegisterId, int], half: Half) -> Regime | None:
    try:
        return Regime.of(registers, half)
    except TranslationError:
        return None


def _pages_of(address: int, length: int) -> list[tuple[int, int]]:
    """Return the pieces of a range, none across the end of a page."""
    found, end = [], address + length
    while address < end:
        size = min(end, (address // _PAGE_BYTES + 1) * _PAGE_BYTES) - address
        found.append((address, size))
        address += size
    return found


@dataclass(frozen=True)
class _LastException:
    """What a vCPU's registers say about its last exception to EL1."""

    syndrome: int
    address: int
    returns_to: int
    saved_state: int

    @property
    def kind(self) -> int:
        return self.syndrome >> _CLASS_SHIFT & 0x3F

    @property
    def is_tag_check(self) -> bool:
        is_abort = self.kind in (_ABORT_LOWER, _ABORT_SAME)
        return is_abort and self.syndrome & _STATUS_MASK == _TAG_CHECK


class _Vcpu:
    """One vCPU of the core, and the crash that it tells of."""

    def __init__(
        self, core: Core, path: Path, number: int, vcpu: VcpuState, names: KernelNames
    ) -> None:
        self._core = core
        self._path = path
        self._number = number
        self._registers = vcpu.registers
        self._names = names
        # A dump of virtual addresses has been walked already.
        is_physical = core.machine is not None and core.machine.space is Space.PHYSICAL
        self._walked = WalkedMemory(core, path, vcpu) if is_physical else None
        self._memory: CrashMemory = CoreMemory(core) if self._walked is None else self._walked

    def crash(self) -> Crash:
        """Return what a handler in user space was told, else what the last exception was."""
        handled = self._handled()
        if handled is not None:
            access = read_access(self._memory, handled.registers["pc"])
            fault = handled_fault(handled, "a process of the guest handles it", access)
            return self._crash(CrashWorld.PROCESS, fault, access, handled.registers, [_HANDLED])
        last = _LastException(
            self._value(register_ids.ESR_EL1),
            self._value(register_ids.FAR_EL1),
            self._value(register_ids.ELR_EL1),
            self._value(register_ids.SPSR_EL1),
        )
        registers = self._named(last)
        world = CrashWorld.PROCESS if last.kind == _ABORT_LOWER else CrashWorld.KERNEL
        fault = self._fault(last)
        if not last.is_tag_check:
            return self._crash(world, fault, None, registers, [_NO_TAG_CHECK])
        access = read_access(self._memory, last.returns_to)
        pointer = effective_pointer(access, registers)
        address = address_of(last.address)
        is_it = pointer is not None and is_near(address_of(pointer), address, access)
        if is_it or access.encoding is None:
            return self._crash(world, fault, access, registers, [])
        if self._is_lost(last.address):
            world = CrashWorld.KERNEL if self._level else CrashWorld.PROCESS
            return self._crash(world, self._refound(fault), None, registers, [_LOST])
        # Then ELR_EL1 can be of a later exception, too: an interrupt changes it, and FAR_EL1 not.
        return self._crash(world, fault, None, registers, [_CHANGED])

    def _crash(
        self,
        world: CrashWorld,
        fault: TagFault,
        access: FaultingAccess | None,
        registers: Mapping[str, int],
        notes: Sequence[str],
    ) -> Crash:
        if self._walked is not None:
            self._walked.look_at(address_of(registers["sp"]))
            if fault.address is not None:
                self._walked.look_at(fault.address)
        excluded = self._value(register_ids.GCR_EL1) & _ALL_TAGS
        return Crash(
            SourceKind.GUEST,
            world,
            str(self._path),
            fault,
            access=access,
            registers=registers,
            memory=self._memory,
            backtrace=tuple(self._backtrace(registers)),
            thread=self._number,
            tag_mask=~excluded & _ALL_TAGS,
            notes=(*notes, *self._names.notes),
        )

    @property
    def _level(self) -> int:
        """Return the exception level that the vCPU is at."""
        return Pstate.from_bits(self._value(register_ids.PSTATE)).el

    def _met(self, pointer: int) -> int:
        """Return the allocation tag behind a pointer, UNKNOWN_TAG if there is none."""
        granule = address_of(pointer) & -GRANULE_BYTES
        return int(self._memory.tags(granule, GRANULE_BYTES)[0])

    def _fails(self, pointer: int) -> bool:
        """Return whether an access by a pointer would fail its tag check now."""
        return self._met(pointer) not in (UNKNOWN_TAG, logical_tag(pointer))

    def _is_lost(self, pointer: int) -> bool:
        """Return whether the address of the fault cannot be this one.

        A handler in the kernel may have given the memory another tag; no other code can have.
        """
        if self._level:
            return self._met(pointer) == UNKNOWN_TAG
        return not self._fails(pointer)

    def _refound(self, fault: TagFault) -> TagFault:
        """Return a fault whose address is lost, at the first pointer that would fault now.

        In the kernel the registers are the kernel's own: they tell nothing of it.
        """
        count = 0 if self._level else GENERAL_REGISTERS
        values = (self._value(register_ids.x(number)) for number in range(count))
        pointer = next((v for v in values if logical_tag(v) and self._fails(v)), None)
        if pointer is None:
            return replace(fault, address=None, pointer_tag=None)
        return replace(fault, address=address_of(pointer), pointer_tag=logical_tag(pointer))

    def _handled(self) -> SignalFrame | None:
        """Return what a handler of SIGSEGV was told that this vCPU runs in user space."""
        if self._level:
            return None
        return find_signal_frame(self._memory, address_of(self._value(register_ids.SP_EL0)))

    def _backtrace(self, registers: Mapping[str, int]) -> Iterator[StackFrame]:
        """Yield the frames, those in the kernel with its build."""
        for frame in self._names.frames(unwind(self._memory, registers)):
            is_kernel = frame.pc is not None and frame.pc >> SELECT_BIT & 1
            yield replace(frame, build=self._kernel_build) if is_kernel else frame

    @cached_property
    def _kernel_build(self) -> str | None:
        try:
            kernel = self._core.vmcoreinfo
        except TagalongError:  # a note that makes no sense says nothing
            return None
        return None if kernel is None else kernel.lines.get("BUILD-ID") or kernel.osrelease

    def _value(self, register: RegisterId) -> int:
        return self._registers.get(register, 0)

    def _named(self, last: _LastException) -> dict[str, int]:
        """Return the registers by name, the pc and the stack those of the fault."""
        named = {f"x{n}": self._value(register_ids.x(n)) for n in range(31)}
        state = Pstate.from_bits(self._value(register_ids.PSTATE))
        came_from_user = last.is_tag_check and last.kind == _ABORT_LOWER
        stack = register_ids.SP_EL0 if came_from_user or not state.el else register_ids.SP_EL1
        pc = last.returns_to if last.is_tag_check else self._value(register_ids.PC)
        return {**named, "sp": self._value(stack), "pc": pc}

    def _fault(self, last: _LastException) -> TagFault:
        if last.is_tag_check:
            level = "EL0" if last.kind == _ABORT_LOWER else "EL1"
            return TagFault(
                CheckMode.SYNC,
                f"ESR_EL1 {last.syndrome:#x}: a synchronous tag check fault at {level}",
                address_of(last.address),
                logical_tag(last.address),
                direction=DataDirection.WRITE if last.syndrome & _WRITE else DataDirection.READ,
            )
        pending = {
            name: self._value(register)
            for name, register in (
                ("TFSR_EL1", register_ids.TFSR_EL1),
                ("TFSRE0_EL1", register_ids.TFSRE0_EL1),
            )
        }
        for name, value in pending.items():
            if value & 3:
                return TagFault(CheckMode.ASYNC, f"{name} {value:#x}: an asynchronous one")
        return TagFault(CheckMode.NONE, f"ESR_EL1 {last.syndrome:#x}: no tag check fault")
