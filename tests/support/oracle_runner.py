"""The Linux side's runner: a fixed A64 program that runs test programs and dumps the results.

It has no main loop; everything happens in one signal handler, so that a test program starts
with all its registers by a sigreturn and ends with all of them in the signal frame:

    _start              maps the areas, installs the handler, executes UDF
    handler, at `end`   dumps the program that ended here, prepares the next one, "returns" to it
    handler, elsewhere  logs signal, code, address and PC, and goes on behind the instruction

An asynchronous tag fault is logged and skips nothing. RGSR_EL1 cannot be read or written by
EL0, so a few IRG before and after each program show it (`oracle_lfsr`).

Structures: Linux arch/arm64/include/uapi/asm/sigcontext.h, asm-generic/siginfo.h.
"""

import struct

from tagalong.mte import GRANULE_BYTES
from tests.support import a64
from tests.support.a64_code import Code
from tests.support.oracle_elf import EXECUTE, READ, WRITE, Segment, executable
from tests.support.oracle_layout import (
    CODE,
    CODE_BYTES,
    DATA,
    DATA_BYTES,
    DATA_GRANULES,
    DATA_IMAGE,
    MAX_FAULTS,
    PAGE_BYTES,
    PLAIN,
    PLAIN_IMAGE,
    READONLY,
    READONLY_GRANULES,
    READONLY_IMAGE,
    READONLY_TAGS,
    RUNNER,
    RUNNER_BYTES,
    SLOT_BYTES,
    slot_address,
)
from tests.support.oracle_program import VECTORS_BYTES, Program

IRG_PROBES = 5

# A program's input: start, end, prctl flags, pstate, sp, x0..x30, FPSR, FPCR, V0..V31, one byte
# a granule.
INPUT = struct.Struct(f"<QQQQQ31QII{VECTORS_BYTES}s{DATA_GRANULES}s")
# Its output: x0..x30, sp, pc, pstate, and FPSR, FPCR, V0..V31 as in the signal frame, IRG outputs
# before and after, how many faults, the fault log, contents of DATA and PLAIN, tags.
_FAULT_BYTES = 24
OUTPUT = struct.Struct(
    f"<31QQQQII{VECTORS_BYTES}s{IRG_PROBES}Q{IRG_PROBES}QQ{MAX_FAULTS * _FAULT_BYTES}s"
    f"{DATA_BYTES}s{PAGE_BYTES}s{DATA_GRANULES}s"
)

_STATE = RUNNER + 0x1_0000  # current input, its end, inputs left
_IMAGES = _STATE + PAGE_BYTES
_INPUTS = _IMAGES + DATA_BYTES + 3 * PAGE_BYTES
_SCRATCH = RUNNER + 0x8_0000  # output buffer, then the signal stack
_SIGNAL_STACK = _SCRATCH + 0x2_0000
_SIGNAL_STACK_BYTES = RUNNER + RUNNER_BYTES - _SIGNAL_STACK

_CURRENT, _END, _LEFT = 0, 8, 16
_FP_WORDS = VECTORS_BYTES // 8 + 1  # FPSR and FPCR in one, V0..V31
_IN_REGISTERS, _IN_FP = 40, 40 + 31 * 8
_OUT_FP = 34 * 8
_OUT_IRG_BEFORE = _OUT_FP + _FP_WORDS * 8
_OUT_IRG_AFTER = _OUT_IRG_BEFORE + IRG_PROBES * 8
_OUT_FAULTS = _OUT_IRG_AFTER + IRG_PROBES * 8
_OUT_LOG = _OUT_FAULTS + 8
_OUT_DATA = _OUT_LOG + MAX_FAULTS * _FAULT_BYTES
_OUT_PLAIN = _OUT_DATA + DATA_BYTES
_OUT_TAGS = _OUT_PLAIN + PAGE_BYTES

_UC_REGISTERS, _UC_SP, _UC_PC, _UC_PSTATE = 184, 432, 440, 448
_UC_FP = 472  # in the first record, struct fpsimd_context, behind its head
_SI_CODE, _SI_ADDRESS = 8, 16

_MMAP, _MPROTECT, _SIGALTSTACK, _SIGACTION, _PRCTL = 222, 226, 132, 134, 167
_WRITE, _EXIT = 64, 94
_PROT_READ, _PROT_WRITE, _PROT_MTE = 1, 2, 0x20
_MAP_PRIVATE_FIXED_ANONYMOUS = 0x32
_SA_SIGINFO_ONSTACK = 0x0800_0004
_PR_SET_TAGGED_ADDR_CTRL, _PR_TAGGED_ADDR_ENABLE, _PR_MTE_TAG_SHIFT = 55, 1, 3
_SIGILL, _SIGTRAP, _SIGBUS, SIGSEGV = 4, 5, 7, 11
SEGV_MTEAERR = 8

EXIT_SETUP_FAILED = 100
EXIT_WRITE_FAILED = 101


def prctl_flags(faults: int, exclude: int) -> int:
    """Return the PR_SET_TAGGED_ADDR_CTRL word: Linux takes the tags to include."""
    return _PR_TAGGED_ADDR_ENABLE | faults | (~exclude & 0xFFFF) << _PR_MTE_TAG_SHIFT


def linux_executable(programs: list[Program]) -> bytes:
    """Return an executable that runs `programs`, one in each slot, and writes an OUTPUT each."""
    images = DATA_IMAGE + PLAIN_IMAGE + READONLY_IMAGE + READONLY_TAGS.ljust(PAGE_BYTES, b"\0")
    state = struct.pack("<QQQ", 0, 0, len(programs)).ljust(PAGE_BYTES, b"\0")
    inputs = b"".join(_input(program, slot) for slot, program in enumerate(programs))
    code = b"".join(program.image.ljust(SLOT_BYTES, b"\0") for program in programs)
    scratch_bytes = _SIGNAL_STACK + _SIGNAL_STACK_BYTES - _SCRATCH
    assert len(state + images + inputs) <= _SCRATCH - _STATE
    return executable(
        RUNNER,
        [
            Segment(CODE, code.ljust(CODE_BYTES, b"\0"), READ | EXECUTE),
            Segment(RUNNER, _runner_code(), READ | EXECUTE),
            Segment(_STATE, state + images + inputs, READ | WRITE),
            Segment(_SCRATCH, b"", READ | WRITE, scratch_bytes),
        ],
    )


def _input(program: Program, slot: int) -> bytes:
    state = program.state
    return INPUT.pack(
        slot_address(slot),
        program.end(slot),
        prctl_flags(state.faults.value, state.exclude),
        state.pstate,
        state.sp,
        *state.registers,
        state.fpsr,
        state.fpcr,
        state.vectors,
        state.tags,
    )


def _runner_code() -> bytes:
    code = Code(RUNNER)
    _start(code)
    _handler(code)
    return code.to_bytes()


def _set(code: Code, register: int, value: int) -> None:
    code.emit(*a64.mov_value(register, value))


def _call(code: Code, number: int, *arguments: int) -> None:
    """Emit a system call with constant arguments."""
    for register, value in enumerate(arguments):
        _set(code, register, value)
    _set(code, 8, number)
    code.emit(a64.svc())


def _call_checked(code: Code, number: int, *arguments: int, result: int = 0) -> None:
    _call(code, number, *arguments)
    _set(code, 1, result)
    code.emit(a64.add_reg(a64.ZR, 0, 1, sub=1, s=1))
    code.branch("setup failed", lambda offset: a64.b_cond(a64.NE, offset))


def _loop(code: Code, end_register: int, cursor: int, body: list[int]) -> None:
    """Repeat `body`, which moves register `cursor`, until that equals `end_register`."""
    start = code.here
    code.emit(*body, a64.add_reg(a64.ZR, cursor, end_register, sub=1, s=1))
    code.emit(a64.b_cond(a64.NE, start - code.here))


def _copy(code: Code, target: int, source: int, size: int) -> None:
    """Copy `size` bytes; uses x9 to x13."""
    _set(code, 9, target)
    _set(code, 10, source)
    code.emit(*a64.mov_value(13, source + size))
    load = a64.pair(a64.LDP_X, a64.PAIR_POST, 11, 12, 10, 16)
    _loop(code, 13, 10, [load, a64.pair(a64.STP_X, a64.PAIR_POST, 11, 12, 9, 16)])


def _store_tags(code: Code, target: int, granules: int) -> None:
    """Set tags from the bytes at x10; uses x9 to x13."""
    _set(code, 9, target)
    _set(code, 13, target + granules * GRANULE_BYTES)
    byte_to_pointer = [
        a64.ldst9(a64.LDRB, a64.POST, 11, 10, 1),
        a64.bitfield(2, 11, 11, 8, 7),  # lsl x11, x11, #56
    ]
    _loop(code, 13, 9, [*byte_to_pointer, a64.tag_store(a64.STG, a64.POST, 11, 9, 16)])


def _start(code: Code) -> None:
    writable = _PROT_READ | _PROT_WRITE
    for area, size, protection in (
        (DATA, DATA_BYTES + PAGE_BYTES, writable | _PROT_MTE),
        (PLAIN, PAGE_BYTES, writable),
    ):
        arguments = (area, size, protection, _MAP_PRIVATE_FIXED_ANONYMOUS, (1 << 64) - 1, 0)
        _call_checked(code, _MMAP, *arguments, result=area)
    readonly_image = _IMAGES + DATA_BYTES + PAGE_BYTES
    _copy(code, READONLY, readonly_image, PAGE_BYTES)
    _set(code, 10, readonly_image + PAGE_BYTES)
    _store_tags(code, READONLY, READONLY_GRANULES)
    _call_checked(code, _MPROTECT, READONLY, PAGE_BYTES, _PROT_READ | _PROT_MTE)
    _install_handler(code)
    _set(code, 0, _STATE)
    code.branch("first", lambda offset: a64.adr(1, offset))
    code.emit(a64.str_(1, 0, _END))
    code.label("first")
    code.emit(a64.udf())
    code.label("setup failed")
    _call(code, _EXIT, EXIT_SETUP_FAILED)


def _install_handler(code: Code) -> None:
    """Emit sigaltstack and sigaction; both structures are built in the output buffer."""
    _set(code, 9, _SCRATCH)
    _set(code, 10, _SIGNAL_STACK)
    _set(code, 11, _SIGNAL_STACK_BYTES)
    code.emit(a64.str_(10, 9), a64.str_(a64.ZR, 9, 8), a64.str_(11, 9, 16))
    _call_checked(code, _SIGALTSTACK, _SCRATCH, 0)
    _set(code, 9, _SCRATCH)
    code.branch("handler", lambda offset: a64.adr(10, offset))
    _set(code, 11, _SA_SIGINFO_ONSTACK)
    code.emit(a64.str_(10, 9), a64.str_(11, 9, 8), a64.str_(a64.ZR, 9, 16), a64.str_(a64.ZR, 9, 24))
    for signal in (_SIGILL, _SIGTRAP, _SIGBUS, SIGSEGV):
        _call_checked(code, _SIGACTION, signal, _SCRATCH, 0, 8)


# The handler's registers: x19 ucontext, x20 siginfo, x21 signal, x22 _STATE, x23 output,
# x24 input.


def _handler(code: Code) -> None:
    code.label("handler")
    code.emit(a64.msr_tco(1), a64.mov(19, 2), a64.mov(20, 1), a64.mov(21, 0))
    _set(code, 22, _STATE)
    _set(code, 23, _SCRATCH)
    code.emit(
        a64.ldr(24, 22, _CURRENT),
        a64.ldr(3, 19, _UC_PC),
        a64.ldr(4, 22, _END),
        a64.add_reg(a64.ZR, 3, 4, sub=1, s=1),
    )
    code.branch("end", lambda offset: a64.b_cond(a64.EQ, offset))
    _log_fault(code)
    code.label("end")
    code.branch("next", lambda offset: a64.cbz(24, offset))
    _dump(code)
    code.label("next")
    _prepare_next(code)


def _log_fault(code: Code) -> None:
    """Log (signal, code), PC, address; skip the instruction unless asynchronous; return."""
    code.emit(a64.ldr(5, 23, _OUT_FAULTS), a64.add_imm(6, 5, 1), a64.str_(6, 23, _OUT_FAULTS))
    code.emit(a64.ldst(a64.LDR_W, 7, 20, _SI_CODE), a64.ldr(8, 20, _SI_ADDRESS))
    _set(code, 9, MAX_FAULTS)
    code.emit(a64.add_reg(a64.ZR, 5, 9, sub=1, s=1))
    code.branch("skip", lambda offset: a64.b_cond(a64.CS, offset))
    _set(code, 9, _FAULT_BYTES)
    code.emit(
        a64.multiply(a64.MADD, 9, 5, 9, 23),
        a64.add_reg(10, 21, 7, shift=a64.LSL, by=32),
        a64.str_(10, 9, _OUT_LOG),
        a64.str_(3, 9, _OUT_LOG + 8),
        a64.str_(8, 9, _OUT_LOG + 16),
    )
    code.label("skip")
    # next pc = pc + 4, or pc if signal and code say SEGV_MTEAERR
    code.emit(
        a64.add_imm(4, 3, 4),
        a64.sub_imm(a64.ZR, 21, SIGSEGV, s=1),
        a64.ccmp(7, SEGV_MTEAERR, 0, a64.EQ, imm=1, sf=0),
        a64.csel(3, 3, 4, a64.EQ),
        a64.str_(3, 19, _UC_PC),
    )
    _return_to_program(code)


def _dump(code: Code) -> None:
    for index in range(34):  # x0..x30, sp, pc, pstate lie in a row in both
        code.emit(a64.ldr(5, 19, _UC_REGISTERS + 8 * index), a64.str_(5, 23, 8 * index))
    for index in range(_FP_WORDS):
        code.emit(a64.ldr(5, 19, _UC_FP + 8 * index), a64.str_(5, 23, _OUT_FP + 8 * index))
    _copy(code, _SCRATCH + _OUT_DATA, DATA, DATA_BYTES)
    _copy(code, _SCRATCH + _OUT_PLAIN, PLAIN, PAGE_BYTES)
    _set(code, 9, DATA)
    _set(code, 10, _SCRATCH + _OUT_TAGS)
    _set(code, 13, DATA + DATA_BYTES)
    tag_to_byte = [
        a64.mov(11, 9),
        a64.ldg(11, 11),
        a64.bitfield(2, 11, 11, 56, 59),
        a64.ldst9(a64.STRB, a64.POST, 11, 10, 1),
        a64.add_imm(9, 9, GRANULE_BYTES),
    ]
    _loop(code, 13, 9, tag_to_byte)
    _probe_irg(code, _OUT_IRG_AFTER)
    _call(code, _WRITE, 1, _SCRATCH, OUTPUT.size)
    _set(code, 1, OUTPUT.size)
    code.emit(a64.add_reg(a64.ZR, 0, 1, sub=1, s=1), a64.b_cond(a64.EQ, 16))
    _set(code, 0, EXIT_WRITE_FAILED)
    code.emit(a64.movz(8, _EXIT), a64.svc())


def _probe_irg(code: Code, offset: int) -> None:
    """Store what IRG draws from all sixteen tags, a few times."""
    _call(code, _PRCTL, _PR_SET_TAGGED_ADDR_CTRL, prctl_flags(2, 0), 0, 0, 0)
    for probe in range(IRG_PROBES):
        code.emit(a64.movz(9, 0), a64.irg(9, 9), a64.str_(9, 23, offset + 8 * probe))


def _prepare_next(code: Code) -> None:
    code.emit(a64.ldr(5, 22, _LEFT))
    code.branch("more", lambda offset: a64.cbz(5, offset, nonzero=1))
    _call(code, _EXIT, 0)
    code.label("more")
    code.emit(a64.sub_imm(5, 5, 1), a64.str_(5, 22, _LEFT))
    _set(code, 6, _INPUTS)
    _set(code, 7, INPUT.size)
    code.emit(a64.add_reg(7, 24, 7), a64.sub_imm(a64.ZR, 24, 0, s=1))
    code.emit(a64.csel(24, 6, 7, a64.EQ), a64.str_(24, 22, _CURRENT))
    code.emit(a64.ldr(5, 24, 8), a64.str_(5, 22, _END), a64.str_(a64.ZR, 23, _OUT_FAULTS))
    _copy(code, DATA, _IMAGES, DATA_BYTES)
    _copy(code, PLAIN, _IMAGES + DATA_BYTES, PAGE_BYTES)
    code.emit(a64.add_imm(10, 24, INPUT.size - DATA_GRANULES))
    _store_tags(code, DATA, DATA_GRANULES)
    _probe_irg(code, _OUT_IRG_BEFORE)
    code.emit(a64.movz(0, _PR_SET_TAGGED_ADDR_CTRL), a64.ldr(1, 24, 16))
    code.emit(a64.movz(8, _PRCTL), a64.svc(), a64.msr(a64.TPIDR_EL0, a64.ZR))
    for offset, target in ((0, _UC_PC), (24, _UC_PSTATE), (32, _UC_SP)):
        code.emit(a64.ldr(5, 24, offset), a64.str_(5, 19, target))
    for index in range(31):
        code.emit(a64.ldr(5, 24, _IN_REGISTERS + 8 * index))
        code.emit(a64.str_(5, 19, _UC_REGISTERS + 8 * index))
    for index in range(_FP_WORDS):
        code.emit(a64.ldr(5, 24, _IN_FP + 8 * index), a64.str_(5, 19, _UC_FP + 8 * index))
    _return_to_program(code)


def _return_to_program(code: Code) -> None:
    """Return from the handler, with TCO already as the program will have it.

    QEMU (seen in 7.2) restores TCO at the sigreturn, but goes on checking as before it.
    """
    code.emit(a64.ldr(5, 19, _UC_PSTATE), a64.msr(a64.TCO, 5), a64.ret())
