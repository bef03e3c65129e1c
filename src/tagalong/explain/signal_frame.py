"""The frame that Linux puts on a stack for a signal's handler: what the fault was, exactly.

A handler that waits for a debugger, writes a report, sends the signal again or aborts leaves
neither the registers of the fault nor its address in the notes of a core or in a vCPU. They are on
the stack, behind the handler's own frames.

    siginfo 128 bytes, which is filled only for a handler with SA_SIGINFO
    flags, link: u64; stack 24 bytes; mask u64; 128 bytes
    address u64; x0 to x30, sp, pc, pstate: u64; 8 bytes
    records of magic u32, size u32: first the FP registers, of 528 bytes, then ESR_EL1, of 16

Source: Linux arch/arm64/kernel/signal.c (struct rt_sigframe, setup_sigframe),
arch/arm64/include/uapi/asm/sigcontext.h, ucontext.h.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from tagalong.binary.layout import Layout
from tagalong.explain.crash import CrashMemory

FRAME = Layout(
    ("si_signo", "u32"), ("si_errno", "u32"), ("si_code", "u32"), ("pad", 4), ("si_addr", "u64"),
    ("siginfo_rest", 104), ("uc_flags", "u64"), ("uc_link", "u64"), ("uc_stack", 24),
    ("uc_sigmask", "u64"), ("unused", 128), ("fault_address", "u64"), ("x", 31 * 8), ("sp", "u64"),
    ("pc", "u64"), ("pstate", "u64"), ("pad2", 8), ("magic", "u32"), ("record_bytes", "u32"),
)  # fmt: skip

SIGSEGV: Final = 11
ASYNCHRONOUS, SYNCHRONOUS = 8, 9
_FP_MAGIC, _FP_BYTES = 0x4650_8001, 528
_ESR_MAGIC, _ESR_BYTES = 0x4553_5201, 16
_RECORD: Final = Layout(("magic", "u32"), ("size", "u32"), ("esr", "u64"))
_MOST_RECORDS: Final = 16
_DATA_ABORTS, _TAG_CHECK = (0x24,), 0x11
_REGISTERS: Final = 31
_WORD_BYTES: Final = 8
_ALIGNMENT: Final = 16
_PIECE_BYTES: Final = 4096
_SEARCHED_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class SignalFrame:
    """A failed tag check as a handler was told of it. `code`: ASYNCHRONOUS or SYNCHRONOUS.

    `address` can lack the pointer's tag. `registers`: those of the fault, by name.
    """

    code: int
    address: int
    registers: dict[str, int]


def find_signal_frame(memory: CrashMemory, stack_pointer: int) -> SignalFrame | None:
    """Return the innermost frame of a failed tag check above a stack pointer, None without one.

    1 MiB is searched at most, and no further than the stack is in the source.
    """
    start = -(-stack_pointer // _ALIGNMENT) * _ALIGNMENT
    raw = _stack(memory, start)
    words = np.frombuffer(raw[: len(raw) // _ALIGNMENT * _ALIGNMENT], np.uint32).reshape(-1, 4)
    is_record = (words[:, 0] == _FP_MAGIC) & (words[:, 1] == _FP_BYTES)
    for number in np.flatnonzero(is_record).tolist():
        found = _frame(raw, number * _ALIGNMENT - FRAME.offsets["magic"])
        if found is not None:
            return found
    return None


def _stack(memory: CrashMemory, start: int) -> bytes:
    pieces, at = [], start
    while at < start + _SEARCHED_BYTES:
        size = _PIECE_BYTES - at % _PIECE_BYTES
        piece = memory.data(at, size)
        if piece is None:
            break
        pieces.append(piece)
        at += size
    return b"".join(pieces)


def _frame(raw: bytes, at: int) -> SignalFrame | None:
    if at < 0 or at + FRAME.size > len(raw):
        return None
    found = FRAME.unpack(raw, at)
    code = _code(found, _syndrome(raw, at + FRAME.offsets["magic"]))
    if code is None or found["pc"] % 4:
        return None
    named = {
        f"x{number}": int.from_bytes(found["x"][number * _WORD_BYTES :][:_WORD_BYTES], "little")
        for number in range(_REGISTERS)
    }
    registers = {**named, **{name: found[name] for name in ("sp", "pc", "pstate")}}
    return SignalFrame(code, found["fault_address"], registers)


def _code(frame: dict[str, int], syndrome: int) -> int | None:
    """Return which tag check a frame tells of, None if of another signal or another fault."""
    has_info = bool(frame["si_signo"])
    if has_info and (frame["si_signo"], frame["si_code"]) == (SIGSEGV, ASYNCHRONOUS):
        return ASYNCHRONOUS
    is_other = has_info and (frame["si_signo"], frame["si_code"]) != (SIGSEGV, SYNCHRONOUS)
    is_tag_check = syndrome >> 26 & 0x3F in _DATA_ABORTS and syndrome & 0x3F == _TAG_CHECK
    return SYNCHRONOUS if is_tag_check and not is_other else None


def _syndrome(raw: bytes, at: int) -> int:
    """Return ESR_EL1 from the records, 0 if there is none."""
    for _ in range(_MOST_RECORDS):
        if at + _RECORD.size > len(raw):
            break
        record = _RECORD.unpack(raw, at)
        if (record["magic"], record["size"]) == (_ESR_MAGIC, _ESR_BYTES):
            return int(record["esr"])
        if not record["magic"] or record["size"] < _RECORD.size:
            break
        at += record["size"]
    return 0
