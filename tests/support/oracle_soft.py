"""Our side: runs programs on the embedded machine, as a kernel would run them.

Stage-1 tables map the areas of `oracle_layout` where the oracle has them. A vector table at EL1
does what the oracle's signal handler does: it logs ESR, FAR and ELR, goes on behind the
instruction with ERET, and at a program's end saves the registers and switches the vCPU off.
"""

import struct

import numpy as np

from tagalong.machine import PowerState, RegisterId, VcpuState, register_ids
from tagalong.memory import Gpa
from tagalong.mte import tags as tag_arrays
from tagalong.soft import SoftMachine
from tagalong.soft.native import StopReason
from tests.support import a64
from tests.support.a64_code import Code
from tests.support.oracle_layout import (
    AREA_END,
    CODE,
    CODE_BYTES,
    DATA,
    DATA_BYTES,
    DATA_IMAGE,
    HOLE,
    PAGE_BYTES,
    PLAIN,
    PLAIN_IMAGE,
    RAM,
    RAM_BYTES,
    READONLY,
    READONLY_IMAGE,
    READONLY_TAGS,
    SLOT_BYTES,
    SUPERVISOR,
    SUPERVISOR_BYTES,
    slot_address,
)
from tests.support.oracle_lfsr import draw_tags
from tests.support.oracle_outcome import MEMORY_FAULTS, Fault, FaultKind, Outcome
from tests.support.oracle_program import VECTOR_BYTES, Program, State, TagCheckFaults
from tests.support.oracle_runner import IRG_PROBES

_TABLES = RAM
_SUPERVISOR_GPA = RAM + 0x1_0000
_FRAME = 0x1_0000  # in SUPERVISOR: x0..x30, then end of program, log pointer
_LOG = 0x2_0000  # in SUPERVISOR, to its end
_FRAME_END_PC, _FRAME_LOG = 256, 264
_LOG_ENTRY = struct.Struct("<QQQ")  # ELR, ESR, FAR
_CPU_OFF = 0x8400_0002

_NORMAL, _TAGGED = 0, 1  # indices of MAIR_EL1
_MAIR = 0xF0_FF
_AF, _INNER_SHAREABLE = 1 << 10, 3 << 8
_PRIVILEGED, _READ_WRITE, _READ_ONLY = 0 << 6, 1 << 6, 3 << 6
_PXN, _UXN = 1 << 53, 1 << 54
_TABLE, _PAGE, _ENTRIES = 3, 3, 512
_T0SZ_48_BITS = 16
_TCR = (
    _T0SZ_48_BITS
    | 1 << 8  # IRGN0, ORGN0, SH0: write-back, inner shareable
    | 1 << 10
    | 3 << 12
    | 1 << 23  # EPD1: no walks through TTBR1
    | 2 << 32  # IPS: 40 bits
    | 1 << 37  # TBI0
)
# M, C, I, DZE, UCT, nTWI, nTWE, SPAN, UCI, and MTE's ATA0 and ATA; RES1 bits 11, 20, 22, 28, 29.
_SCTLR = sum(1 << bit for bit in (0, 2, 12, 14, 15, 16, 18, 23, 26, 42, 43, 11, 20, 22, 28, 29))
_SCTLR_TCF0, _SCTLR_TCF = 38, 40
_TCF = {TagCheckFaults.NONE: 0, TagCheckFaults.SYNC: 1, TagCheckFaults.ASYNC: 2}
_CPACR = 3 << 20  # FPEN: no traps
_DAIF = 0xF << 6
_EL0T, _EL1T = 0b0000, 0b0100

_BUDGET = 400_000  # instructions; a program of 500 with all its faults needs 30,000


class SoftSide:
    """One embedded machine that runs program after program."""

    def __init__(self) -> None:
        self._machine = SoftMachine.create(ram_bytes=RAM_BYTES)
        self._memory = self._machine.memory
        self._vcpu = self._machine.vcpus[0]
        self._write(_SUPERVISOR_GPA, _vectors())
        self._write(READONLY, READONLY_IMAGE)
        self._write_tags(READONLY, READONLY_TAGS)
        self._write(_TABLES, _tables())
        fixed = {
            register_ids.MAIR_EL1: _MAIR,
            register_ids.TCR_EL1: _TCR,
            register_ids.TTBR0_EL1: _TABLES,
            register_ids.VBAR_EL1: SUPERVISOR,
            register_ids.SP_EL1: SUPERVISOR + _FRAME,
            register_ids.CPACR_EL1: _CPACR,
        }
        self._registers = {**self._vcpu.save().registers, **fixed}

    def close(self) -> None:
        """Release the machine."""
        self._machine.close()

    def load_code(self, programs: list[Program]) -> None:
        """Put all programs into their slots, as the oracle has them."""
        code = b"".join(program.image.ljust(SLOT_BYTES, b"\0") for program in programs)
        self._write(CODE, code.ljust(CODE_BYTES, b"\0"))

    def run(self, program: Program, slot: int, rgsr: int) -> Outcome:
        """Run the program in `slot` from its state and from this RGSR_EL1."""
        self._prepare(program, slot, rgsr)
        unsupported = self._execute()
        return self._outcome(program, unsupported)

    def _prepare(self, program: Program, slot: int, rgsr: int) -> None:
        self._write(DATA, DATA_IMAGE)
        self._write(PLAIN, PLAIN_IMAGE)
        self._write_tags(DATA, program.state.tags)
        frame = struct.pack("<QQ", program.end(slot), SUPERVISOR + _LOG)
        self._write(_SUPERVISOR_GPA + _FRAME + _FRAME_END_PC, frame)
        registers = dict(self._registers)
        registers.update(_program_registers(program.state))
        registers[register_ids.PC] = slot_address(slot)
        registers[register_ids.RGSR_EL1] = rgsr
        level = _EL1T if program.privileged else _EL0T
        registers[register_ids.PSTATE] = program.state.pstate | _DAIF | level
        self._vcpu.load(VcpuState(registers, PowerState.ON))

    def _execute(self) -> list[Fault]:
        """Run to the end; skip what the machine does not implement and return it."""
        skipped: list[Fault] = []
        while True:
            reason = self._vcpu.step(_BUDGET)
            pc = self._vcpu.get_register(register_ids.PC)
            if reason is StopReason.IDLE:
                return skipped
            if reason is not StopReason.UNSUPPORTED:
                raise RuntimeError(f"the program did not end: {reason.name} at {pc:#x}")
            skipped.append(Fault(FaultKind.UNSUPPORTED, pc))
            self._vcpu.set_register(register_ids.PC, pc + 4)

    def _outcome(self, program: Program, unsupported: list[Fault]) -> Outcome:
        get = self._vcpu.get_register
        frame = self._read(_SUPERVISOR_GPA + _FRAME, _FRAME_LOG + 8)
        log_end = int.from_bytes(frame[_FRAME_LOG:], "little")
        log = self._read(_SUPERVISOR_GPA + _LOG, log_end - SUPERVISOR - _LOG)
        faults = [_fault(*entry) for entry in _LOG_ENTRY.iter_unpack(log)]
        # At EL1, LDTR and STTR are accesses of EL0.
        tfsr = get(register_ids.TFSRE0_EL1)
        tfsr |= get(register_ids.TFSR_EL1) if program.privileged else 0
        return Outcome(
            registers=struct.unpack_from("<31Q", frame),
            sp=get(register_ids.SP_EL0),
            pstate=get(register_ids.SPSR_EL1),
            data=self._read(DATA, DATA_BYTES),
            plain=self._read(PLAIN, PAGE_BYTES),
            tags=tag_arrays.unpack(self._memory.read_tags(Gpa(DATA), DATA_BYTES)).tobytes(),
            faults=(*faults, *unsupported),
            asynchronous=bool(tfsr & 1),
            irg=tuple(draw_tags(get(register_ids.RGSR_EL1), IRG_PROBES)),
            vectors=b"".join(
                get(register_ids.v(number)).to_bytes(VECTOR_BYTES, "little") for number in range(32)
            ),
            fpcr=get(register_ids.FPCR),
            fpsr=get(register_ids.FPSR),
        )

    def _read(self, address: int, size: int) -> bytes:
        return bytes(self._memory.read(Gpa(address), size))

    def _write(self, address: int, content: bytes) -> None:
        self._memory.write(Gpa(address), content)

    def _write_tags(self, address: int, tags: bytes) -> None:
        self._memory.write_tags(Gpa(address), tag_arrays.pack(np.frombuffer(tags, np.uint8)))


def _program_registers(state: State) -> dict[RegisterId, int]:
    mode = _TCF[state.faults]
    registers = {register_ids.x(number): value for number, value in enumerate(state.registers)}
    for number in range(32):
        lanes = state.vectors[number * VECTOR_BYTES : (number + 1) * VECTOR_BYTES]
        registers[register_ids.v(number)] = int.from_bytes(lanes, "little")
    registers[register_ids.FPCR] = state.fpcr
    registers[register_ids.FPSR] = state.fpsr
    registers[register_ids.SP_EL0] = state.sp
    registers[register_ids.GCR_EL1] = state.exclude  # RRND 0: the LFSR decides
    registers[register_ids.SCTLR_EL1] = _SCTLR | mode << _SCTLR_TCF0 | mode << _SCTLR_TCF
    return registers


def _fault(elr: int, esr: int, far: int) -> Fault:
    ec, status = esr >> 26 & 0x3F, esr & 0x3F
    detail = f"esr {esr:#x}"
    if ec in {0x24, 0x25}:  # data abort from EL0, from EL1
        kind = _STATUS.get(status & ~3 if status < 0x10 else status, FaultKind.OTHER)
    else:
        kind = _CLASSES.get(ec, FaultKind.OTHER)
    return Fault(kind, elr, far if kind in MEMORY_FAULTS else 0, detail)


_STATUS = {
    0x04: FaultKind.TRANSLATION,
    0x0C: FaultKind.PERMISSION,
    0x11: FaultKind.TAG,
    0x21: FaultKind.ALIGNMENT,
}
# Linux answers a trapped MRS, MSR or SYS (0x18) that it does not emulate with SIGILL as well.
_CLASSES = {0x00: FaultKind.UNDEFINED, 0x18: FaultKind.UNDEFINED, 0x3C: FaultKind.BREAKPOINT}


def _tables() -> bytes:
    """Return the stage-1 tables, for _TABLES; what is not in an area is a translation fault."""
    plain_data = _PXN | _UXN | _NORMAL << 2
    tagged_data = _PXN | _UXN | _TAGGED << 2
    tables = StageOneTables(_TABLES)
    for start, end, attributes in (
        (DATA, READONLY, tagged_data | _READ_WRITE),
        (READONLY, HOLE, tagged_data | _READ_ONLY),
        (PLAIN, AREA_END, plain_data | _READ_WRITE),
        (CODE, CODE + CODE_BYTES, _READ_ONLY | _NORMAL << 2),
    ):
        tables.map(start, start, end - start, attributes)
    supervisor = _UXN | _PRIVILEGED | _NORMAL << 2
    tables.map(SUPERVISOR, _SUPERVISOR_GPA, SUPERVISOR_BYTES, supervisor)
    return tables.to_bytes()


class StageOneTables:
    """Tables for 48-bit addresses and 4 KiB pages, from physical address `base` on."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._pages: list[list[int]] = [[0] * _ENTRIES]

    def map(self, va: int, gpa: int, size: int, attributes: int) -> None:
        """Map `size` bytes, page by page."""
        for offset in range(0, size, PAGE_BYTES):
            page = self._pages[0]
            for shift in (39, 30, 21):
                page = self._next(page, (va + offset) >> shift & (_ENTRIES - 1))
            entry = gpa + offset | attributes | _AF | _INNER_SHAREABLE | _PAGE
            page[(va + offset) >> 12 & (_ENTRIES - 1)] = entry

    def to_bytes(self) -> bytes:
        return b"".join(struct.pack(f"<{_ENTRIES}Q", *page) for page in self._pages)

    def _next(self, page: list[int], index: int) -> list[int]:
        if not page[index]:
            page[index] = self._base + len(self._pages) * PAGE_BYTES | _TABLE
            self._pages.append([0] * _ENTRIES)
        return self._pages[(page[index] - self._base) // PAGE_BYTES]


def _vectors() -> bytes:
    code = Code(SUPERVISOR)
    for offset in range(0, 0x800, 0x80):
        code.pad_to(SUPERVISOR + offset)
        # Synchronous exceptions from EL1 with SP_EL0 and from EL0; there can be no others.
        code.branch("log" if offset in {0x000, 0x400} else "never")
    code.pad_to(SUPERVISOR + 0x800)
    code.label("never")
    code.emit(a64.b(0))
    code.label("log")
    for number in (0, 2, 4):
        code.emit(a64.pair(a64.STP_X, a64.PAIR_OFFSET, number, number + 1, a64.SP, 8 * number))
    code.emit(
        a64.mrs(0, a64.ELR_EL1),
        a64.ldr(1, a64.SP, _FRAME_END_PC),
        a64.add_reg(a64.ZR, 0, 1, sub=1, s=1),
    )
    code.branch("end", lambda offset: a64.b_cond(a64.EQ, offset))
    code.emit(
        a64.ldr(2, a64.SP, _FRAME_LOG),
        a64.mrs(3, a64.ESR_EL1),
        a64.mrs(4, a64.FAR_EL1),
        a64.pair(a64.STP_X, a64.PAIR_POST, 0, 3, 2, 16),
        a64.ldst9(a64.STR_X, a64.POST, 4, 2, 8),
        a64.str_(2, a64.SP, _FRAME_LOG),
        a64.add_imm(0, 0, 4),
        a64.msr(a64.ELR_EL1, 0),
    )
    for number in (0, 2, 4):
        code.emit(a64.pair(a64.LDP_X, a64.PAIR_OFFSET, number, number + 1, a64.SP, 8 * number))
    code.emit(a64.eret())
    code.label("end")
    for number in range(6, 30, 2):
        code.emit(a64.pair(a64.STP_X, a64.PAIR_OFFSET, number, number + 1, a64.SP, 8 * number))
    code.emit(a64.str_(30, a64.SP, 240))
    code.emit(*a64.mov_value(0, _CPU_OFF), a64.hvc())
    return code.to_bytes()
