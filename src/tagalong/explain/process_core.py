"""Reads a Linux process's core as a crash: the thread that died, its fault, what is around it.

Source: Linux include/uapi/asm-generic/siginfo.h, fs/binfmt_elf.c (fill_files_note),
include/linux/elfcore.h (elf_prpsinfo), include/uapi/linux/prctl.h.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from tagalong.binary.layout import Layout
from tagalong.core import Core, CoreVcpu, Note
from tagalong.core.note_types import OWNER_CORE
from tagalong.core.thread_notes import PR_MTE_TCF_ASYNC, PR_MTE_TCF_SYNC
from tagalong.errors import MalformedCoreError
from tagalong.explain.backtrace import Frames, frame_of, unwind
from tagalong.explain.crash import (
    UNKNOWN_TAG,
    Allocator,
    AllocatorFacts,
    CheckMode,
    Crash,
    CrashMapping,
    CrashMemory,
    CrashWorld,
    FaultingAccess,
    SourceKind,
    StackFrame,
    TagFault,
)
from tagalong.explain.drgn_frames import DrgnStacks
from tagalong.explain.instruction import decode_access, index_bytes
from tagalong.explain.memory import CoreMemory
from tagalong.explain.modules import Modules
from tagalong.explain.scudo_records import find_records
from tagalong.explain.signal_frame import (
    ASYNCHRONOUS,
    SIGSEGV,
    SYNCHRONOUS,
    SignalFrame,
    find_signal_frame,
)
from tagalong.explain.surroundings import SEARCHED_BYTES
from tagalong.machine.register_ids import GENERAL_REGISTERS
from tagalong.mte import GRANULE_BYTES
from tagalong.mte.pointers import address_of, logical_tag
from tagalong.printable import one_line

NT_PRPSINFO: Final = 3
NT_SIGINFO: Final = 0x5349_4749
NT_FILE: Final = 0x4649_4C45

SIGINFO = Layout(("si_signo", "u32"), ("si_errno", "u32"), ("si_code", "u32"), ("pad", 4),
                 ("si_addr", "u64"))  # fmt: skip
FILE_HEAD = Layout(("count", "u64"), ("page_size", "u64"))
FILE_ENTRY = Layout(("start", "u64"), ("end", "u64"), ("offset_pages", "u64"))
MAX_FILES: Final = 1 << 17

_CODES: Final = {1: "SEGV_MAPERR", 2: "SEGV_ACCERR", 8: "SEGV_MTEAERR", 9: "SEGV_MTESERR",
                 10: "SEGV_CPERR"}  # fmt: skip
_NAME_AT, _NAME_BYTES = 40, 16
_TAG_SHIFT: Final = 3
_ALL_TAGS: Final = 0xFFFF
_INSTRUCTION_BYTES: Final = 4
_POINTER_MASK: Final = (1 << 64) - 1


def read_process_core(core: Core, name: str, modules: Path | None = None) -> Crash:
    """Return the crash in the core of a process.

    `modules`: the folder with its program and libraries, if not where they were.

    Raises MalformedCoreError for damaged notes, or if the core has no thread.
    """
    if not core.vcpus:
        raise MalformedCoreError("the core has no thread's registers (NT_PRSTATUS)", offset=0)
    thread = core.vcpus[0]  # Linux writes the thread that died first
    memory = CoreMemory(core)
    mappings = _mappings(core.notes)
    files = Modules(memory, mappings, modules)
    handled = None if _is_tag_check(core) else find_signal_frame(memory, address_of(thread.sp))
    registers = registers_of(thread) if handled is None else handled.registers
    access = read_access(memory, registers["pc"], files)
    fault = _fault(core, thread, access, registers, handled)
    named = partial(_named_frame, mappings, files)
    drgn = DrgnStacks(core, modules)
    addresses = unwind(memory, registers)
    control = thread.tagged_address_control
    return Crash(
        source=SourceKind.PROCESS_CORE,
        world=CrashWorld.PROCESS,
        name=name,
        fault=fault,
        access=access,
        registers=registers,
        memory=memory,
        mappings=mappings,
        backtrace=drgn.of_process(addresses, named) or tuple(map(named, addresses)),
        allocator=_allocator(memory, mappings, fault, named),
        process=_process_name(core.notes),
        thread=thread.thread,
        tag_mask=None if control is None else control >> _TAG_SHIFT & _ALL_TAGS,
        notes=(*_notes(core, fault, access, handled), *drgn.notes),
    )


def _named_frame(mappings: Sequence[CrashMapping], files: Modules, pc: int) -> StackFrame:
    frame = frame_of(pc, mappings)
    build = None if frame.module is None else files.build_id(frame.module)
    return replace(frame, symbol=files.symbol(pc), build=build)


def registers_of(thread: CoreVcpu) -> dict[str, int]:
    """Return a thread's registers by name."""
    named = {f"x{number}": value for number, value in enumerate(thread.x)}
    return {**named, "sp": thread.sp, "pc": thread.pc, "pstate": thread.pstate}


def read_access(memory: CrashMemory, pc: int, files: Modules | None = None) -> FaultingAccess:
    """Return the instruction at `pc`; the place alone if neither memory nor a file has it."""
    word = memory.data(pc, _INSTRUCTION_BYTES)
    if word is None and files is not None:
        word = files.code(pc, _INSTRUCTION_BYTES)
    return FaultingAccess(pc) if word is None else decode_access(int.from_bytes(word, "little"), pc)


def effective_pointer(access: FaultingAccess, registers: Mapping[str, int]) -> int | None:
    """Return the pointer that an access used, None if its registers are not known."""
    if access.base is None or access.base not in registers:
        return None
    pointer = registers[access.base] + (access.offset_bytes or 0)
    if access.index is not None:
        # Register 31 is XZR as an index.
        added = index_bytes(access, registers.get(access.index, 0) if access.index != "sp" else 0)
        pointer += added or 0
    return pointer & _POINTER_MASK


def _is_tag_check(core: Core) -> bool:
    """Return whether the core's own notes tell of a failed tag check."""
    info = _siginfo(core.notes)
    return (
        info is not None
        and info["si_signo"] == SIGSEGV
        and (_signed(info["si_code"]) in (SYNCHRONOUS, ASYNCHRONOUS))
    )


def _fault(
    core: Core,
    thread: CoreVcpu,
    access: FaultingAccess,
    registers: Mapping[str, int],
    handled: SignalFrame | None,
) -> TagFault:
    info = _siginfo(core.notes)
    signal = info["si_signo"] if info else thread.signal
    code = _signed(info["si_code"]) if info else None
    words = _reason(signal, code)
    if handled is not None:
        return handled_fault(handled, f"handled, then {words}", access)
    if info is not None and _is_tag_check(core):
        return _checked(info["si_code"], info["si_addr"], words, access, registers)
    if signal == SIGSEGV and (code is None or code <= 0):
        # A handler sent the signal again, and the address was lost: the registers tell.
        control = thread.tagged_address_control or PR_MTE_TCF_SYNC
        if control & (PR_MTE_TCF_SYNC | PR_MTE_TCF_ASYNC) == PR_MTE_TCF_ASYNC:
            return TagFault(CheckMode.ASYNC, words)
        return _from_registers(core, access, registers, words)
    return TagFault(CheckMode.NONE, words, None if info is None else address_of(info["si_addr"]))


def handled_fault(handled: SignalFrame, words: str, access: FaultingAccess) -> TagFault:
    """Return the fault that a handler was told of. `words`: what became of it."""
    words = f"{_reason(SIGSEGV, handled.code)}, {words}"
    found = _checked(handled.code, handled.address, words, access, handled.registers)
    # A handler is shown the address without its tag, unless it asks for it.
    if found.pointer_tag or effective_pointer(access, handled.registers) is not None:
        return found
    return replace(found, pointer_tag=_tag_in(handled.registers, found))


def _checked(
    code: int, reported: int, words: str, access: FaultingAccess, registers: Mapping[str, int]
) -> TagFault:
    """Return the fault that a siginfo tells of: its code and its address."""
    if code == ASYNCHRONOUS:
        return TagFault(CheckMode.ASYNC, words)
    address, tag = address_of(reported), logical_tag(reported)
    pointer = effective_pointer(access, registers)
    if pointer is not None and is_near(address_of(pointer), address, access):
        # The address may lack its tag; the register has it.
        tag = logical_tag(pointer)
        address = max(address_of(pointer), address // GRANULE_BYTES * GRANULE_BYTES)
    return TagFault(CheckMode.SYNC, words, address, tag, None, access.size_bytes, access.direction)


def _tag_in(registers: Mapping[str, int], fault: TagFault) -> int | None:
    """Return the tag of the first register that points to the fault's granule, None without one."""
    for value in registers.values():
        if fault.granule is not None and fault.granule == address_of(value) & -GRANULE_BYTES:
            return logical_tag(value)
    return None


def _from_registers(
    core: Core, access: FaultingAccess, registers: Mapping[str, int], words: str
) -> TagFault:
    """Return the fault of a core that does not say where.

    It is at the pointer of the instruction. Without that, at the first register that points to
    memory with another tag.
    """
    pointer = effective_pointer(access, registers)
    if pointer is not None:
        found = [_mismatch(core, pointer, access.size_bytes or 1)]
    else:
        general = (registers[f"x{number}"] for number in range(GENERAL_REGISTERS))
        found = [_mismatch(core, value, 1) for value in general]
    met = next((each for each in found if each is not None), None)
    if met is None:
        return TagFault(CheckMode.NONE, words, None if pointer is None else address_of(pointer))
    address, tag = met
    return TagFault(CheckMode.SYNC, words, address, tag, None, access.size_bytes, access.direction)


def _mismatch(core: Core, pointer: int, size: int) -> tuple[int, int] | None:
    """Return the first byte whose tag is not the pointer's, and the pointer's tag."""
    address, tag = address_of(pointer), logical_tag(pointer)
    start = address // GRANULE_BYTES * GRANULE_BYTES
    count = -(-(address + size - start) // GRANULE_BYTES)
    met = CoreMemory(core).tags(start, count * GRANULE_BYTES).tolist()
    for number, memory_tag in enumerate(met):
        if memory_tag not in (UNKNOWN_TAG, tag):
            return max(address, start + number * GRANULE_BYTES), tag
    return None


def is_near(pointer: int, address: int, access: FaultingAccess) -> bool:
    """Return whether an access by `pointer` touches `address`; both without tag bits."""
    start = pointer // GRANULE_BYTES * GRANULE_BYTES
    return start <= address < pointer + max(GRANULE_BYTES, access.size_bytes or 0)


def _siginfo(notes: Sequence[Note]) -> dict[str, int] | None:
    note = _first(notes, NT_SIGINFO)
    if note is None or len(note.content) < SIGINFO.size:
        return None
    return SIGINFO.unpack(note.content[: SIGINFO.size].tobytes())


def _reason(signal: int, code: int | None) -> str:
    name = "SIGSEGV" if signal == SIGSEGV else f"signal {signal}"
    if code is None:
        return name
    return f"{name}, {_CODES.get(code, f'code {code}') if signal == SIGSEGV else f'code {code}'}"


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


def _first(notes: Sequence[Note], kind: int) -> Note | None:
    return next((n for n in notes if n.owner == OWNER_CORE and n.type == kind), None)


def _process_name(notes: Sequence[Note]) -> str | None:
    note = _first(notes, NT_PRPSINFO)
    if note is None or len(note.content) < _NAME_AT + _NAME_BYTES:
        return None
    raw = note.content[_NAME_AT : _NAME_AT + _NAME_BYTES].tobytes()
    return one_line(raw.split(b"\0")[0].decode("utf-8", "replace")) or None


def _mappings(notes: Sequence[Note]) -> tuple[CrashMapping, ...]:
    """Return the files of NT_FILE.

    Raises MalformedCoreError for one that claims more entries than it has.
    """
    note = _first(notes, NT_FILE)
    if note is None:
        return ()
    raw = note.content.tobytes()
    if len(raw) < FILE_HEAD.size:
        raise MalformedCoreError("the list of mapped files (NT_FILE) is cut", offset=note.at)
    head = FILE_HEAD.unpack(raw[: FILE_HEAD.size])
    table_end = FILE_HEAD.size + head["count"] * FILE_ENTRY.size
    if head["count"] > MAX_FILES or table_end > len(raw):
        raise MalformedCoreError(
            f"the list of mapped files (NT_FILE) claims {head['count']:#x} entries in "
            f"{len(raw):#x} bytes",
            offset=note.content_at,
        )
    names = raw[table_end:].split(b"\0")
    found = []
    for number in range(head["count"]):
        at = FILE_HEAD.size + number * FILE_ENTRY.size
        entry = FILE_ENTRY.unpack(raw[at : at + FILE_ENTRY.size])
        name = names[number] if number < len(names) else b""
        found.append(
            CrashMapping(
                entry["start"], entry["end"], one_line(name.decode("utf-8", "replace")),
                entry["offset_pages"] * head["page_size"],
            )
        )  # fmt: skip
    return tuple(found)


_LIBRARIES: Final = (
    ("scudo", Allocator.SCUDO),
    ("hardened_malloc", Allocator.HARDENED_MALLOC),
)


def _allocator(
    memory: CrashMemory, mappings: Sequence[CrashMapping], fault: TagFault, frames: Frames
) -> AllocatorFacts:
    """Return what a mapped library and the allocator's records show of it.

    What the fault's own surroundings show is found later.
    """
    facts = _library(mappings)
    if fault.address is None or facts.kind is Allocator.HARDENED_MALLOC:
        return facts
    records = find_records(memory, mappings, frames)
    if records is None:
        return facts
    return AllocatorFacts(
        Allocator.SCUDO,
        facts.known_by or "its records of frees",
        previous=records.freed_near(fault.address, SEARCHED_BYTES),
        has_all_frees=records.is_whole,
        records=records,
    )


def _library(mappings: Sequence[CrashMapping]) -> AllocatorFacts:
    for mapping in mappings:
        file = mapping.name.rsplit("/", 1)[-1]
        for part, kind in _LIBRARIES:
            if part in file:
                return AllocatorFacts(kind, "the name of a mapped library")
    return AllocatorFacts()


def _notes(
    core: Core, fault: TagFault, access: FaultingAccess, handled: SignalFrame | None
) -> tuple[str, ...]:
    said = []
    if not core.tag_segments:
        said.append(
            "The core has no tags: Linux writes them from 5.18 on, for memory with PROT_MTE."
        )
    if any(header.is_cut for header in core.headers):
        said.append("The file was cut short: what is missing counts as not known.")
    if fault.mode is CheckMode.NONE:
        said.append(f"No tag check failed here ({fault.reason}).")
    if handled is not None:
        said.append("The program handled the fault and ended later: registers and address are those"
                    " that Linux left on the stack for its handler.")  # fmt: skip
    elif fault.mode is CheckMode.SYNC and _is_sent_again(core):
        said.append(
            "A handler sent the signal again, and the fault's address was lost: it is taken from "
            + (
                "the instruction's registers."
                if access.base
                else "the first register that"
                " points to memory with another tag, for the instruction is not known"
                " (--modules can help)."
            )
        )
    return tuple(said)


def _is_sent_again(core: Core) -> bool:
    info = _siginfo(core.notes)
    return info is not None and _signed(info["si_code"]) <= 0
