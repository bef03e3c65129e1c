"""A machine whose guest is being debugged: the registers by name, and where exceptions go."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tagalong.machine import RegisterId, register_ids
from tagalong.memory import Gpa
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import SoftMachine
from tests.support import a64, bare

MDSCR, MDCCINT = register_ids.sysreg(2, 0, 0, 2, 2), register_ids.sysreg(2, 0, 0, 2, 0)
CONTEXTIDR = register_ids.sysreg(3, 0, 13, 0, 1)
OSLSR = register_ids.sysreg(2, 0, 1, 1, 4)
SS, TDCC, KDE, MDE = 1, 1 << 12, 1 << 13, 1 << 15
EL1, EL0 = 0x3C5, 0x3C0  # all masked
EL1_DEBUG, EL0_DEBUG = 0x1C5, 0x1C0  # PSTATE.D clear
SPSR_SS = 1 << 21
AT_EL1, AT_EL0, AT_BOTH = 1 << 1, 2 << 1, 3 << 1
ENABLE, LOAD, STORE = 1, 1 << 3, 2 << 3
LINKED, CONTEXT, LINKED_CONTEXT = 1 << 20, 2 << 20, 3 << 20
WATCH_LINKED = 1 << 20
SECURE_ONLY = 2 << 14
ISS = 0x22
WNR, STEP_VALID, STEP_EXCLUSIVE = 1 << 6, 1 << 24, 1 << 6
# Read-only at both levels: what EL0 can write, EL1 cannot execute.
EL0_BLOCK = 0x40000000 | 1 << 10 | 3 << 8 | 3 << 6 | 1
LOWER_EL_VECTOR = bare.VECTORS + 0x400
NOP = a64.hint(0)


def bvr(number: int) -> RegisterId:
    return register_ids.sysreg(2, 0, 0, number, 4)


def bcr(number: int) -> RegisterId:
    return register_ids.sysreg(2, 0, 0, number, 5)


def wvr(number: int) -> RegisterId:
    return register_ids.sysreg(2, 0, 0, number, 6)


def wcr(number: int) -> RegisterId:
    return register_ids.sysreg(2, 0, 0, number, 7)


def every_byte(bas: int = 0xFF) -> int:
    return bas << 5


@contextmanager
def machine(
    words: Sequence[int], registers: dict[RegisterId, int], *, pstate: int = EL1_DEBUG
) -> Iterator[SoftMachine]:
    made = bare.machine_with(words, mode=TagCheckMode.NONE)
    if pstate & 0xF == 0:
        made.memory.write(Gpa(bare.TABLES + 8), EL0_BLOCK.to_bytes(8, "little"))
    set_registers(made, {register_ids.PSTATE: pstate, **registers})
    yield made
    made.close()


def set_registers(target: SoftMachine, registers: dict[RegisterId, int]) -> None:
    for register, value in registers.items():
        target.vcpus[0].set_register(register, value)


def syndrome(target: SoftMachine) -> tuple[int, int]:
    """Return the exception class and the rest of ESR_EL1."""
    esr = bare.get(target, register_ids.ESR_EL1)
    return esr >> 26, esr & 0x1FF_FFFF


def elr(target: SoftMachine) -> int:
    return bare.get(target, register_ids.ELR_EL1)
