"""The notes that debuggers read: one thread for each vCPU, in the forms of Linux on arm64.

Source: Linux include/uapi/linux/elf.h, include/linux/elfcore.h (struct elf_prstatus),
arch/arm64/include/uapi/asm/ptrace.h (user_pt_regs, user_fpsimd_state),
include/uapi/linux/prctl.h (PR_SET_TAGGED_ADDR_CTRL), include/uapi/linux/auxvec.h.
"""

from collections.abc import Iterator, Mapping

from tagalong.binary import elf
from tagalong.binary.layout import Layout
from tagalong.core.machine_note import CoreNotes, encode_machine_note
from tagalong.core.note_types import (
    OWNER_CORE,
    OWNER_LINUX,
    OWNER_TAGALONG,
    OWNER_VMCOREINFO,
    KernelNoteType,
    NoteType,
    VendorNoteType,
)
from tagalong.machine import RegisterId
from tagalong.machine import register_ids as ids
from tagalong.machine.register_ids import GENERAL_REGISTERS, VECTOR_REGISTERS
from tagalong.mte.registers import Gcr, Pstate, Sctlr, TagCheckMode, Tcr
from tagalong.mte.version import MteVersion

USER_PT_REGS = Layout(("x", GENERAL_REGISTERS * 8), ("sp", "u64"), ("pc", "u64"), ("pstate", "u64"))
PRSTATUS = Layout(
    ("si_signo", "u32"),
    ("si_code", "u32"),
    ("si_errno", "u32"),
    ("pr_cursig", "u16"),
    ("padding", 2),
    ("pr_sigpend", "u64"),
    ("pr_sighold", "u64"),
    ("pr_pid", "u32"),
    ("pr_ppid", "u32"),
    ("pr_pgrp", "u32"),
    ("pr_sid", "u32"),
    ("pr_times", 64),
    ("pr_reg", USER_PT_REGS.size),
    ("pr_fpvalid", "u32"),
    ("padding_end", 4),
)
FPREGSET = Layout(("vregs", VECTOR_REGISTERS * 16), ("fpsr", "u32"), ("fpcr", "u32"), ("unused", 8))
TAGGED_ADDR_CTRL = Layout(("control", "u64"))
AUXV_ENTRY = Layout(("a_type", "u64"), ("a_val", "u64"))

AT_NULL = 0
AT_PAGESZ = 6
AT_HWCAP2 = 26
HWCAP2_MTE = 1 << 18
HWCAP2_MTE3 = 1 << 22

PR_TAGGED_ADDR_ENABLE = 1 << 0
PR_MTE_TCF_SYNC = 1 << 1
PR_MTE_TCF_ASYNC = 1 << 2
PR_MTE_TAG_SHIFT = 3
_ALL_TAGS = 0xFFFF

_CHECK_BITS = {
    TagCheckMode.NONE: 0,
    TagCheckMode.SYNC: PR_MTE_TCF_SYNC,
    TagCheckMode.ASYNC: PR_MTE_TCF_ASYNC,
    # The kernel prefers asymmetric where both are asked for and the CPU has it.
    TagCheckMode.ASYMMETRIC: PR_MTE_TCF_SYNC | PR_MTE_TCF_ASYNC,
}
_SPSEL = 1

Registers = Mapping[RegisterId, int]


def encode_notes(notes: CoreNotes) -> bytes:
    """Return all notes of a core, as its PT_NOTE segment holds them.

    Raises UsageError for a machine or a state that the format cannot hold.
    """
    return b"".join(_parts(notes))


def _parts(notes: CoreNotes) -> Iterator[bytes]:
    machine = encode_machine_note(notes)  # first, for it refuses what does not fit
    version = MteVersion(notes.description.mte_version)
    for number, vcpu in enumerate(notes.state.vcpus):
        # A vCPU whose registers are not known is no thread: its zeros would look like registers.
        if vcpu.registers:
            # Threads are numbered from 1, as QEMU does: to gdb 0 is no thread.
            yield _note(OWNER_CORE, NoteType.NT_PRSTATUS, _prstatus(vcpu.registers, number + 1))
        if not number:
            auxv = _auxv(notes.description.page_size_bytes, version)
            yield _note(OWNER_CORE, NoteType.NT_AUXV, auxv)
        if vcpu.registers:
            yield _note(OWNER_CORE, NoteType.NT_FPREGSET, _fpregset(vcpu.registers))
        control = TAGGED_ADDR_CTRL.pack(control=tagged_address_control(vcpu.registers, version))
        yield _note(OWNER_LINUX, NoteType.NT_ARM_TAGGED_ADDR_CTRL, control)
    if notes.vmcoreinfo is not None:
        yield _note(OWNER_VMCOREINFO, KernelNoteType.VMCOREINFO, notes.vmcoreinfo)
    yield _note(OWNER_TAGALONG, VendorNoteType.MACHINE, machine)


def _note(owner: str, kind: int, content: bytes) -> bytes:
    name = owner.encode("ascii") + b"\0"
    header = elf.NOTE_HEADER.pack(n_namesz=len(name), n_descsz=len(content), n_type=kind)
    return header + _padded(name) + _padded(content)


def _padded(content: bytes) -> bytes:
    return content.ljust(elf.align_up(len(content), elf.NOTE_ALIGNMENT), b"\0")


def _prstatus(registers: Registers, thread: int) -> bytes:
    pstate = registers.get(ids.PSTATE, 0)
    x = b"".join(
        registers.get(ids.x(number), 0).to_bytes(8, "little") for number in range(GENERAL_REGISTERS)
    )
    pr_reg = USER_PT_REGS.pack(
        x=x,
        sp=registers.get(_stack_pointer(pstate), 0),
        pc=registers.get(ids.PC, 0),
        pstate=pstate,
    )
    zero = {name: bytes(kind) if isinstance(kind, int) else 0 for name, kind in PRSTATUS.fields}
    return PRSTATUS.pack(**{**zero, "pr_pid": thread, "pr_reg": pr_reg, "pr_fpvalid": 1})


def _stack_pointer(pstate: int) -> RegisterId:
    """Return which register SP is (Arm ARM, C5.2 "SPSel")."""
    if not pstate & _SPSEL:
        return ids.SP_EL0
    return {1: ids.SP_EL1, 2: ids.SP_EL2}.get(Pstate.from_bits(pstate).el, ids.SP_EL0)


def _fpregset(registers: Registers) -> bytes:
    """Return the SIMD registers, zero for a vCPU that has none."""
    vregs = b"".join(
        registers.get(ids.v(number), 0).to_bytes(16, "little") for number in range(VECTOR_REGISTERS)
    )
    return FPREGSET.pack(
        vregs=vregs,
        fpsr=registers.get(ids.FPSR, 0),
        fpcr=registers.get(ids.FPCR, 0),
        unused=bytes(8),
    )


def _auxv(page_size_bytes: int, version: MteVersion) -> bytes:
    hwcap2 = HWCAP2_MTE if version >= MteVersion.MTE2 else 0
    if version >= MteVersion.MTE3:
        hwcap2 |= HWCAP2_MTE3
    entries = ((AT_PAGESZ, page_size_bytes), (AT_HWCAP2, hwcap2), (AT_NULL, 0))
    return b"".join(AUXV_ENTRY.pack(a_type=kind, a_val=value) for kind, value in entries)


def tagged_address_control(registers: Registers, version: MteVersion) -> int:
    """Return the word of PR_SET_TAGGED_ADDR_CTRL that matches a vCPU's registers.

    Of its present exception level: whether the top byte is ignored, how tags are checked,
    and which tags IRG may choose.
    """
    tcr = Tcr.from_bits(registers.get(ids.TCR_EL1, 0))
    control = PR_TAGGED_ADDR_ENABLE if tcr.tbi0 or tcr.tbi1 else 0
    if version < MteVersion.MTE2:
        return control
    sctlr = Sctlr.from_bits(registers.get(ids.SCTLR_EL1, 0))
    at_el1 = Pstate.from_bits(registers.get(ids.PSTATE, 0)).el == 1
    control |= _CHECK_BITS[sctlr.tcf if at_el1 else sctlr.tcf0]
    allowed = _ALL_TAGS & ~Gcr.from_bits(registers.get(ids.GCR_EL1, 0)).exclude
    return control | allowed << PR_MTE_TAG_SHIFT
