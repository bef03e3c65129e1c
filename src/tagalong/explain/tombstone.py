"""What both forms of a tombstone have in common: their fields, and the crash in them."""

import re
from dataclasses import dataclass, field
from typing import Final

from tagalong.explain.crash import (
    Allocator,
    AllocatorFacts,
    Block,
    BlockState,
    CheckMode,
    Crash,
    CrashMapping,
    CrashWorld,
    FaultingAccess,
    ReportedCause,
    SourceKind,
    StackFrame,
    TagFault,
)
from tagalong.explain.memory import ShownMemory, WindowMemory
from tagalong.explain.process_core import effective_pointer, read_access
from tagalong.mte.pointers import address_of, logical_tag

_SEGV: Final = 11
_ASYNCHRONOUS, _SYNCHRONOUS = 8, 9
_ALLOCATION: Final = re.compile(
    r"(\d{1,15}) bytes? (into|left of|right of|before|after) a (\d{1,15})-byte allocation at"
    r" 0x([0-9a-f]{1,16})"
)
_POINTER_MASK: Final = (1 << 64) - 1
_ALL_TAGS: Final = 0xFFFF


@dataclass
class TombstoneCause:
    """One cause that debuggerd names, in its own words."""

    text: str
    allocated_by: list[StackFrame] = field(default_factory=list)
    freed_by: list[StackFrame] = field(default_factory=list)
    allocating_thread: int | None = None
    freeing_thread: int | None = None


@dataclass
class TombstoneFields:
    """What a tombstone says; what it leaves out keeps its default."""

    signal: int
    code: int
    code_name: str
    address: int | None
    process: str | None = None
    thread: int | None = None
    control: int | None = None
    registers: dict[str, int] = field(default_factory=dict)
    windows: list[ShownMemory] = field(default_factory=list)
    mappings: list[CrashMapping] = field(default_factory=list)
    causes: list[TombstoneCause] = field(default_factory=list)
    backtrace: tuple[StackFrame, ...] = ()


def crash_of(fields: TombstoneFields, name: str) -> Crash:
    """Return the crash that a tombstone tells of."""
    memory = WindowMemory(fields.windows)
    pc = fields.registers.get("pc")
    access = None if pc is None else read_access(memory, pc)
    return Crash(
        SourceKind.TOMBSTONE,
        CrashWorld.PROCESS,
        name,
        _fault(fields, access),
        access=access,
        registers=fields.registers or None,
        memory=memory,
        mappings=tuple(fields.mappings),
        backtrace=fields.backtrace,
        allocator=_facts(fields),
        process=fields.process,
        thread=fields.thread,
        tag_mask=None if fields.control is None else fields.control >> 3 & _ALL_TAGS,
    )


def _fault(fields: TombstoneFields, access: FaultingAccess | None) -> TagFault:
    reason = (
        f"{'SIGSEGV' if fields.signal == _SEGV else f'signal {fields.signal}'}, {fields.code_name}"
    )
    if fields.signal != _SEGV or fields.code not in (_ASYNCHRONOUS, _SYNCHRONOUS):
        address = None if fields.address is None else address_of(fields.address & _POINTER_MASK)
        return TagFault(CheckMode.NONE, reason, address)
    if fields.code == _ASYNCHRONOUS or fields.address is None:
        return TagFault(CheckMode.ASYNC, reason)
    pointer = fields.address & _POINTER_MASK
    size = direction = None
    if access is not None:
        used = effective_pointer(access, fields.registers)
        if used is not None and address_of(used) // 16 == address_of(pointer) // 16:
            size, direction = access.size_bytes, access.direction
    return TagFault(
        CheckMode.SYNC, reason, address_of(pointer), logical_tag(pointer), None, size, direction
    )


def _facts(fields: TombstoneFields) -> AllocatorFacts:
    """Return which allocator it is, and the blocks that debuggerd's causes name."""
    names = {mapping.name for mapping in fields.mappings}
    kind, known_by = Allocator.UNKNOWN, None
    if any("scudo" in name for name in names) or any("[MTE]" in c.text for c in fields.causes):
        kind, known_by = Allocator.SCUDO, "the names of its mappings and the report's causes"
    if any("hardened_malloc" in name or "malloc_slab" in name for name in names):
        kind, known_by = Allocator.HARDENED_MALLOC, "the names of its mappings"
    tag = None if fields.address is None else logical_tag(fields.address & _POINTER_MASK)
    blocks: list[Block] = []
    previous: list[Block] = []
    reported = []
    for cause in fields.causes:
        block, is_freed = _block(cause, tag)
        reported.append(ReportedCause(f"debuggerd: {cause.text}", block))
        if block is not None:
            (previous if is_freed else blocks).append(block)
    return AllocatorFacts(kind, known_by, tuple(blocks), tuple(previous), tuple(reported))


def _block(cause: TombstoneCause, tag: int | None) -> tuple[Block | None, bool]:
    found = _ALLOCATION.search(cause.text)
    if found is None:
        return None, False
    is_freed = "Free" in cause.text
    start, size = address_of(int(found[4], 16)), int(found[3])
    state = BlockState.FREED if is_freed else BlockState.ALLOCATED
    block = Block(
        start, start + size, tag, state, "the allocator's records, by debuggerd", True,
        tuple(cause.allocated_by), tuple(cause.freed_by), cause.allocating_thread,
        cause.freeing_thread,
    )  # fmt: skip
    return block, is_freed
