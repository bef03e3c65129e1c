"""Runs one floating-point instruction of the embedded machine on many operands at once."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tagalong.machine import register_ids
from tagalong.memory import Gpa
from tests.support import a64, bare

IOC, DZC, OFC, UFC, IXC, IDC = 1, 2, 4, 8, 16, 128
FZ16, FZ, DN, AHP = 1 << 19, 1 << 24, 1 << 25, 1 << 26
TIE_EVEN, PLUS_INFINITY, MINUS_INFINITY, TOWARDS_ZERO = (mode << 22 for mode in range(4))
RD, RN, RM, RA = 3, 0, 1, 2  # what the instruction that is calculated with must name

_OPERANDS, _RESULTS = struct.Struct("<3Q"), struct.Struct("<2Q")
_RESULTS_AT = bare.DATA + 0x6_0000
_FMOV_D_X, _FMOV_X_D = 0x9E670000, 0x9E660000
_COUNT, _IN, _OUT = 0, 1, 2
MOST = (_RESULTS_AT - bare.DATA) // _OPERANDS.size


def calculate(
    word: int, operands: Sequence[tuple[int, ...]], fpcr: int = 0, fpsr: int = 0
) -> list[tuple[int, int]]:
    """Return the low 64 bits of V3 and FPSR after `word`, for each of `operands`.

    An operand tuple is what V0, V1 and V2 hold; `fpsr` is FPSR before each instruction.
    """
    assert len(operands) <= MOST
    program = [
        a64.pair(a64.LDP_X, a64.PAIR_POST, 3, 4, _IN, 16),
        a64.ldst9(a64.LDR_X, a64.POST, 5, _IN, 8),
        *(_FMOV_D_X | 3 + number << 5 | number for number in range(3)),
        a64.msr(a64.FPSR, 8),
        word,
        _FMOV_X_D | RD << 5 | 6,
        a64.mrs(7, a64.FPSR),
        a64.pair(a64.STP_X, a64.PAIR_POST, 6, 7, _OUT, 16),
        a64.sub_imm(_COUNT, _COUNT, 1, s=1),
    ]
    program.append(a64.b_cond(a64.NE, -4 * len(program)))
    machine = bare.machine_with([*program, a64.b(0)])
    content = b"".join(_OPERANDS.pack(*(*values, 0, 0)[:3]) for values in operands)
    machine.memory.write(Gpa(bare.DATA), content)
    bare.set_x(machine, {_COUNT: len(operands), _IN: bare.DATA, _OUT: _RESULTS_AT, 8: fpsr})
    vcpu = machine.vcpus[0]
    vcpu.set_register(register_ids.CPACR_EL1, 3 << 20)
    vcpu.set_register(register_ids.FPCR, fpcr)
    vcpu.step(len(program) * len(operands))
    results = machine.memory.read(Gpa(_RESULTS_AT), _RESULTS.size * len(operands))
    machine.close()
    return list(_RESULTS.iter_unpack(bytes(results)))


def calculate_one(word: int, *operands: int, fpcr: int = 0) -> tuple[int, int]:
    """Return what `calculate` returns for one tuple of operands."""
    [result] = calculate(word, [operands], fpcr)
    return result


@dataclass(frozen=True)
class Format:
    """A binary floating-point format of the architecture."""

    name: str
    bits: int
    fraction_bits: int
    ptype: int  # bits 23:22 of a scalar instruction

    @property
    def sign(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def infinity(self) -> int:
        return self.sign - (1 << self.fraction_bits)

    @property
    def quiet(self) -> int:
        """Return the bit that tells a quiet NaN from a signalling one."""
        return 1 << (self.fraction_bits - 1)

    @property
    def default_nan(self) -> int:
        return self.infinity | self.quiet

    @property
    def largest(self) -> int:
        return self.infinity - 1

    @property
    def smallest_normal(self) -> int:
        return 1 << self.fraction_bits

    def one(self) -> int:
        return (self.infinity >> 1) & self.infinity

    def is_finite(self, value: int) -> bool:
        return value & ~self.sign < self.infinity

    def is_nan(self, value: int) -> bool:
        return value & ~self.sign > self.infinity

    def value(self, encoding: int) -> Fraction:
        """Return the number that an encoding stands for, exactly."""
        exponent = (encoding & self.infinity) >> self.fraction_bits
        fraction = encoding & (self.smallest_normal - 1)
        if exponent:
            fraction |= self.smallest_normal
        bias = self.infinity >> (self.fraction_bits + 1)
        scale = max(exponent, 1) - bias - self.fraction_bits
        magnitude = Fraction(fraction) * Fraction(2) ** scale
        return -magnitude if encoding & self.sign else magnitude

    def word(self, word: int, sources: int = 2) -> int:
        """Return a scalar instruction for this format, with the registers of `calculate`."""
        rm = RM << 16 if sources > 1 else 0
        return word | self.ptype << 22 | rm | RN << 5 | RD


HALF = Format("half", 16, 10, 3)
SINGLE = Format("single", 32, 23, 0)
DOUBLE = Format("double", 64, 52, 1)
