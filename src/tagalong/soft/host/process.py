"""A user process on one CPU of the interpreter: the VMM's code beside the guest's.

It has what a VMM process has on arm64 Linux: guest RAM mapped twice (with PROT_MTE and
without), code, a stack and scratch memory, at EL0 behind stage-1 tables of its own. Its
kernel is one instruction: every exception runs HVC at its vector and so comes back to Python,
where `Trap` says what it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from tagalong._native import InterpreterExit
from tagalong.errors import (
    AddressError,
    HostError,
    MachineError,
    StateError,
)
from tagalong.machine import RegisterId, register_ids
from tagalong.machine.register_ids import register_name
from tagalong.memory import Gpa, Region
from tagalong.mte.registers import Sctlr, TagCheckMode
from tagalong.soft.host.stage1 import PAGE_BYTES, Kind, Stage1
from tagalong.soft.native import NativeMachine, StopReason

PRIVATE_GPA: Final = Gpa(1 << 46)  # far above any guest's RAM

# The process's address space. Guest RAM is at its gpa above one of two bases.
PLAIN_VA: Final = 0x1000_0000_0000
TAGGED_VA: Final = 0x2000_0000_0000
CODE_VA: Final = 0x0040_0000
RETURN_VA: Final = 0x0030_0000
VECTORS_VA: Final = 0x0020_0000
STACK_VA: Final = 0x7000_0080_0000
SCRATCH_VA: Final = 0x7000_0004_0000  # not the first page of the interpreter's TLB

STACK_BYTES: Final = 4 * PAGE_BYTES
STACK_TOP_VA: Final = STACK_VA + STACK_BYTES
CODE_BYTES: Final = 16 * PAGE_BYTES

_TABLES_BYTES: Final = 256 * PAGE_BYTES
_VECTORS_AT: Final = _TABLES_BYTES
_RETURN_AT: Final = _VECTORS_AT + PAGE_BYTES
_CODE_AT: Final = _RETURN_AT + PAGE_BYTES
_STACK_AT: Final = _CODE_AT + CODE_BYTES
_SCRATCH_AT: Final = _STACK_AT + STACK_BYTES

HVC: Final = 0xD4000002
SVC: Final = 0xD4000001
_VECTOR_STEP: Final = 0x80
_VECTORS: Final = 16

# M, A off, SA0, DZE, UCT, nTWI, nTWE, SPAN, UCI and the RES1 bits: what Linux gives EL0.
_SCTLR: Final = 0x30D0_0801 | 1 << 4 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 18 | 1 << 26
_PSTATE_EL0: Final = 0x3C0
_PSTATE_TCO: Final = 1 << 25
_BUDGET: Final = 1 << 36  # instructions; a call that needs more does not end by itself

_ARGUMENTS: Final = 8
_U64: Final = (1 << 64) - 1


class ExceptionClass(IntEnum):
    """ESR_EL1.EC of what a user process can run into (D23.2.41)."""

    UNKNOWN = 0x00
    ILLEGAL_STATE = 0x0E
    SVC = 0x15
    SYSTEM_REGISTER = 0x18
    INSTRUCTION_ABORT = 0x20
    PC_ALIGNMENT = 0x22
    DATA_ABORT = 0x24
    SP_ALIGNMENT = 0x26
    BREAKPOINT = 0x3C


@dataclass(frozen=True)
class Trap:
    """Why the process is in its kernel: the registers of the exception, unchanged."""

    esr: int
    far: int
    pc: int
    """ELR_EL1: the instruction that faulted, or the one after SVC."""

    @property
    def exception_class(self) -> int:
        """Return ESR_EL1.EC."""
        return self.esr >> 26

    @property
    def fault_status(self) -> int:
        """Return ESR_EL1.ISS.DFSC, which means something for an abort only."""
        return self.esr & 0x3F

    @property
    def is_write(self) -> bool:
        """Return ESR_EL1.ISS.WnR, which means something for a data abort only."""
        return bool(self.esr & 0x40)

    @property
    def is_return(self) -> bool:
        """Return whether the function that was called has returned."""
        return self.exception_class == ExceptionClass.SVC and self.pc == RETURN_VA + 4


class Process:
    """One process on vCPU `vcpu` of `native`, whose RAM already holds `guest`.

    `code`: position-independent, at CODE_VA. `scratch_bytes`: memory at SCRATCH_VA, which
    Python sees as `scratch`. Raises UsageError if guest RAM is where the process has to
    be, HostError if there is too much of it, or no memory for the process.
    """

    def __init__(
        self,
        native: NativeMachine,
        vcpu: int,
        guest: Sequence[Region],
        code: bytes,
        scratch_bytes: int,
    ) -> None:
        if len(code) > CODE_BYTES:
            raise HostError(f"{len(code):#x} bytes of code: at most {CODE_BYTES:#x} fit")
        self._native = native
        self._vcpu = vcpu
        self._private = Region.create(PRIVATE_GPA, _SCRATCH_AT + scratch_bytes, name="host")
        native.add_ram(self._private)
        self._fill(code)
        self._stage1 = Stage1(self._private.raw_data[:_TABLES_BYTES], PRIVATE_GPA)
        self._map(guest, scratch_bytes)
        self._set(register_ids.VBAR_EL1, VECTORS_VA)
        for register, value in self._stage1.registers().items():
            self._set(register, value)
        self.stack = self._private.raw_data[_STACK_AT:_SCRATCH_AT]
        self.scratch = self._private.raw_data[_SCRATCH_AT:]
        self.set_tag_check_mode(TagCheckMode.NONE)

    def close(self) -> None:
        """Release its memory; the machine must not run it any more."""
        self._private.close()

    def set_tag_check_mode(self, mode: TagCheckMode) -> None:
        """Set SCTLR_EL1.TCF0, as prctl(PR_SET_TAGGED_ADDR_CTRL) does for its thread."""
        sctlr = Sctlr.from_bits(_SCTLR)
        checking = Sctlr(other_bits=sctlr.other_bits, ata0=True, ata=True, tcf0=mode)
        self._set(register_ids.SCTLR_EL1, checking.to_bits())

    def forbid(self, gpa: Gpa, length_bytes: int) -> None:
        """Take all rights from a range of both mappings of guest RAM: mprotect(PROT_NONE)."""
        for base in (PLAIN_VA, TAGGED_VA):
            self._stage1.map(base + gpa, gpa, length_bytes, Kind.EL0_NONE)
        for register, value in self._stage1.registers().items():
            self._set(register, value)  # which flushes the TLB

    def enter(self, va: int, arguments: Sequence[int], *, tco: bool = False) -> None:
        """Set pc to the function at `va`, with at most 8 arguments and a fresh stack."""
        for number, argument in enumerate(arguments[:_ARGUMENTS]):
            self._set(register_ids.x(number), argument)
        self._set(register_ids.x(30), RETURN_VA)
        self._set(register_ids.SP_EL0, STACK_TOP_VA)
        self._set(register_ids.TFSRE0_EL1, 0)
        self._set(register_ids.PSTATE, _PSTATE_EL0 | (_PSTATE_TCO if tco else 0))
        self._set(register_ids.PC, va)

    def run(self) -> Trap:
        """Run until the process enters its kernel. Releases the GIL.

        Raises MachineError for a function that does not end.
        """
        leave = InterpreterExit()
        self._native.step(self._vcpu, _BUDGET, leave)
        reason = StopReason(leave.reason)
        if reason is not StopReason.HVC:
            raise MachineError(f"host code at {leave.pc:#x} does not end: {reason.name}")
        return self.trap()

    def step(self) -> bool:
        """Execute one instruction; return whether the process is in its kernel now."""
        self._native.step(self._vcpu, 1, InterpreterExit())
        return self.in_kernel

    @property
    def in_kernel(self) -> bool:
        """Return whether an exception was taken."""
        return VECTORS_VA <= self.pc < VECTORS_VA + PAGE_BYTES

    @property
    def pc(self) -> int:
        """Return the address of the next instruction."""
        return self.get(register_ids.PC)

    @property
    def stack_pointer(self) -> int:
        """Return SP_EL0."""
        return self.get(register_ids.SP_EL0)

    @property
    def saved_pstate(self) -> int:
        """Return SPSR_EL1: what PSTATE was when the process entered its kernel."""
        return self.get(register_ids.SPSR_EL1)

    def x(self, number: int) -> int:
        """Return x0 to x30."""
        return self.get(register_ids.x(number))

    def word(self, va: int) -> int:
        """Return the instruction at an address in the code, 0 (UDF) elsewhere."""
        if not CODE_VA <= va < CODE_VA + CODE_BYTES:
            return 0
        at = _CODE_AT + va - CODE_VA
        return int.from_bytes(self._private.raw_data[at : at + 4].tobytes(), "little")

    def trap(self) -> Trap:
        """Return why the process is in its kernel."""
        registers = register_ids.ESR_EL1, register_ids.FAR_EL1, register_ids.ELR_EL1
        return Trap(*(self.get(register) for register in registers))

    def take_async_fault(self) -> bool:
        """Return whether asynchronous checks failed since enter(), and forget it.

        What the kernel does at its entry (arch/arm64/include/asm/mte.h, check_mte_async_tcf).
        """
        failed = self.get(register_ids.TFSRE0_EL1) != 0
        self._set(register_ids.TFSRE0_EL1, 0)
        return failed

    def get(self, register: RegisterId) -> int:
        """Return a register that every vCPU has."""
        value = self._native.get_register(self._vcpu, register)
        if value is None:
            raise StateError(f"the host's CPU has no {register_name(register)}")
        return value

    def _set(self, register: RegisterId, value: int) -> None:
        if not self._native.set_register(self._vcpu, register, value & _U64):
            raise StateError(f"the host's CPU does not take {register_name(register)} = {value:#x}")

    def _fill(self, code: bytes) -> None:
        words = self._private.raw_data.view("<u4")
        for vector in range(_VECTORS):
            words[(_VECTORS_AT + vector * _VECTOR_STEP) // 4] = HVC
        words[_RETURN_AT // 4] = SVC
        self._private.raw_data[_CODE_AT : _CODE_AT + len(code)] = memoryview(code)

    def _map(self, guest: Sequence[Region], scratch_bytes: int) -> None:
        for va, at, size, kind in (
            (VECTORS_VA, _VECTORS_AT, PAGE_BYTES, Kind.EL1_CODE),
            (RETURN_VA, _RETURN_AT, PAGE_BYTES, Kind.EL0_CODE),
            (CODE_VA, _CODE_AT, CODE_BYTES, Kind.EL0_CODE),
            (STACK_VA, _STACK_AT, STACK_BYTES, Kind.EL0_PLAIN),
            (SCRATCH_VA, _SCRATCH_AT, scratch_bytes, Kind.EL0_PLAIN),
        ):
            self._stage1.map(va, PRIVATE_GPA + at, size, kind)
        for region in guest:
            _refuse_beyond_va(region)
            for base, kind in ((PLAIN_VA, Kind.EL0_PLAIN), (TAGGED_VA, Kind.EL0_TAGGED)):
                self._stage1.map(base + region.gpa, region.gpa, region.size_bytes, kind)


def _refuse_beyond_va(region: Region) -> None:
    if region.end > TAGGED_VA - PLAIN_VA:
        raise AddressError(f"guest RAM up to {region.end:#x} does not fit the host's mappings")
