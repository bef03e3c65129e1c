"""Instruction forms for the program generator: floating point, scalar and vector.

Sources are mostly V0 to V15, which keep the special values that a program starts with, and targets
mostly V16 to V31. After each instruction its result and its flags go into a digest in a
general-purpose register, so that a later instruction cannot hide them, and FPSR starts at zero
again, or at IXC: then the embedded machine may compute with the host's FPU.
"""

from tests.support import a64
from tests.support.oracle_draw import SCRATCH, Draw
from tests.support.oracle_forms_data import Form

SINGLE, DOUBLE, HALF = 0, 1, 3  # ptype
_SIZES = (SINGLE, DOUBLE, HALF)
_DIGEST = 29
_SOURCES, _TARGETS = range(16), range(16, 32)

# MOV to a general-purpose register, of lane 0 and of lane 1 of 64 bits.
_FMOV_LOW, _FMOV_HIGH = 0x9E660000, 0x9EAE0000
_FMOV_FROM_X = 0x9E670000

_IXC = 1 << 4
_TRAP_ENABLES = 0x9F00  # of FPCR: no exception is trapped, so that they read as zero


def _source(d: Draw) -> int:
    return d.bits(5) if d.chance(10) else d.pick(_SOURCES)


def _target(d: Draw) -> int:
    return d.bits(5) if d.chance(3) else d.pick(_TARGETS)


def _general_target(d: Draw) -> int:
    return a64.ZR if d.chance(4) else d.pick(_SOURCES)


def _digest(value: int) -> int:
    return a64.logical_reg(2, _DIGEST, value, _DIGEST, shift=a64.ROR, by=7)


def _flags(d: Draw) -> list[int]:
    reset = [a64.movz(SCRATCH, d.bits(1) * _IXC), a64.msr(a64.FPSR, SCRATCH)]
    return [a64.mrs(SCRATCH, a64.FPSR), _digest(SCRATCH), *reset]


def _vector_result(d: Draw, word: int) -> list[int]:
    rd = word & 31
    return [
        word,
        _FMOV_LOW | rd << 5 | SCRATCH,
        _digest(SCRATCH),
        _FMOV_HIGH | rd << 5 | SCRATCH,
        _digest(SCRATCH),
        *_flags(d),
    ]


def _general_result(d: Draw, word: int) -> list[int]:
    return [word, _digest(word & 31), *_flags(d)]


def _registers(d: Draw) -> int:
    """Draw the fields Rm, Rn and Rd."""
    return _source(d) << 16 | _source(d) << 5 | _target(d)


# --- scalar ---------------------------------------------------------------------------------


def two_sources(d: Draw) -> list[int]:
    opcode = d.randrange(9)
    return _vector_result(d, 0x1E200800 | d.pick(_SIZES) << 22 | opcode << 12 | _registers(d))


def one_source(d: Draw) -> list[int]:
    opcode = d.pick((0, 1, 2, 3, 3, 3, 8, 9, 10, 11, 12, 14, 15))
    rn_rd = _registers(d) & 0x3FF
    return _vector_result(d, 0x1E204000 | d.pick(_SIZES) << 22 | opcode << 15 | rn_rd)


def convert(d: Draw) -> list[int]:
    start, end = d.sample(_SIZES, 2)
    return _vector_result(d, 0x1E224000 | start << 22 | end << 15 | _registers(d) & 0x3FF)


def three_sources(d: Draw) -> list[int]:
    fields = d.pick(_SIZES) << 22 | d.bits(1) << 21 | d.bits(1) << 15 | _source(d) << 10
    return _vector_result(d, 0x1F000000 | fields | _registers(d))


def compare(d: Draw) -> list[int]:
    fields = d.pick(_SIZES) << 22 | _source(d) << 5
    if d.bits(1):
        condition, signals, flags = d.bits(4), d.bits(1), d.bits(4)
        fields |= 0x1E200400 | _source(d) << 16 | condition << 12 | signals << 4 | flags
    else:
        with_zero = d.bits(1)
        rm = 0 if with_zero else _source(d)
        fields |= 0x1E202000 | rm << 16 | d.bits(1) << 4 | with_zero << 3
    return [fields, a64.mrs(SCRATCH, a64.NZCV), _digest(SCRATCH), *_flags(d)]


def select(d: Draw) -> list[int]:
    fields = d.pick(_SIZES) << 22 | d.bits(4) << 12
    return _vector_result(d, 0x1E200C00 | fields | _registers(d))


def move_immediate(d: Draw) -> list[int]:
    return _vector_result(d, 0x1E201000 | d.pick(_SIZES) << 22 | d.bits(8) << 13 | _target(d))


def move_general(d: Draw) -> list[int]:
    sf, ptype, rmode = d.pick(((0, 0, 0), (1, 1, 0), (0, 3, 0), (1, 3, 0), (1, 2, 1)))
    fields = 0x1E260000 | sf << 31 | ptype << 22 | rmode << 19
    if d.bits(1):
        return _vector_result(d, fields | 1 << 16 | d.source() << 5 | _target(d))
    return _general_result(d, fields | _source(d) << 5 | _general_target(d))


_TO_GENERAL = (*((rmode, opcode) for rmode in range(4) for opcode in (0, 1)), (0, 4), (0, 5))


def to_general(d: Draw) -> list[int]:
    fields = d.bits(1) << 31 | d.pick(_SIZES) << 22 | _source(d) << 5 | _general_target(d)
    if d.bits(1):
        rmode, opcode = d.pick(_TO_GENERAL)
        return _general_result(d, 0x1E200000 | fields | rmode << 19 | opcode << 16)
    return _general_result(d, 0x1E180000 | fields | d.bits(1) << 16 | _scale(d, fields >> 31))


def from_general(d: Draw) -> list[int]:
    fields = d.bits(1) << 31 | d.pick(_SIZES) << 22 | d.bits(1) << 16 | _target(d)
    fields |= (SCRATCH if d.bits(1) else d.source()) << 5
    base = 0x1E220000 if d.bits(1) else 0x1E020000 | _scale(d, fields >> 31)
    return [*a64.mov_value(SCRATCH, d.integer()), *_vector_result(d, base | fields)]


def _scale(d: Draw, is_64_bit: int) -> int:
    return d.randrange(0 if is_64_bit else 32, 64) << 10


# --- vectors, and scalars of their groups ------------------------------------------------------

_Q, _U, _SCALAR = 1 << 30, 1 << 29, 0x50000000

# U, bit 23, opcode; the last of them are scalars, too.
_THREE = (
    (0, 0, 0x18), (0, 0, 0x19), (0, 0, 0x1A), (0, 0, 0x1E), (0, 1, 0x18), (0, 1, 0x19),
    (0, 1, 0x1A), (0, 1, 0x1E), (1, 0, 0x18), (1, 0, 0x1A), (1, 0, 0x1B), (1, 0, 0x1E),
    (1, 0, 0x1F), (1, 1, 0x18), (1, 1, 0x1E),
)  # fmt: skip
_THREE_SCALAR = (
    (0, 0, 0x1B), (0, 0, 0x1C), (0, 0, 0x1F), (0, 1, 0x1F), (1, 0, 0x1C), (1, 0, 0x1D),
    (1, 1, 0x1A), (1, 1, 0x1C), (1, 1, 0x1D),
)  # fmt: skip
_MISC = (
    (0, 0, 0x18), (0, 0, 0x19), (0, 1, 0x18), (0, 1, 0x19), (1, 0, 0x18), (1, 0, 0x19),
    (1, 1, 0x19), (0, 1, 0x0F), (1, 1, 0x0F), (1, 1, 0x1F),
)  # fmt: skip
_MISC_BOTH = (
    *((u, high, opcode) for u in (0, 1) for high in (0, 1) for opcode in (0x1A, 0x1B)),
    (0, 0, 0x1C), (1, 0, 0x1C), (0, 0, 0x1D), (1, 0, 0x1D), (0, 1, 0x1D), (1, 1, 0x1D),
    (0, 1, 0x0C), (1, 1, 0x0C), (0, 1, 0x0D), (1, 1, 0x0D), (0, 1, 0x0E),
)  # fmt: skip
_MISC_SCALAR = (*_MISC_BOTH, (0, 1, 0x1F))


def _arrangement(d: Draw, *, scalar: bool) -> tuple[int, int]:
    """Draw a ptype and the bits Q or "scalar" that go with it."""
    ptype = d.pick(_SIZES)
    if scalar:
        return ptype, _SCALAR
    return ptype, _Q if ptype == DOUBLE else d.bits(1) << 30


def three_same(d: Draw) -> list[int]:
    scalar = d.chance(30)
    u, high, opcode = d.pick(_THREE_SCALAR if scalar else (*_THREE, *_THREE_SCALAR))
    ptype, word = _arrangement(d, scalar=scalar)
    word |= u << 29 | high << 23 | _registers(d)
    if ptype == HALF:
        return _vector_result(d, word | 0x0E400400 | (opcode & 7) << 11)
    return _vector_result(d, word | 0x0E200400 | ptype << 22 | opcode << 11)


def two_registers(d: Draw) -> list[int]:
    scalar = d.chance(40)
    u, high, opcode = d.pick(_MISC_SCALAR if scalar else (*_MISC, *_MISC_BOTH))
    ptype, word = _arrangement(d, scalar=scalar)
    word |= u << 29 | high << 23 | opcode << 12 | _registers(d) & 0x3FF
    base = 0x0E780800 if ptype == HALF else 0x0E200800 | ptype << 22
    return _vector_result(d, word | base)


def unsigned_estimate(d: Draw) -> list[int]:
    fields = d.bits(1) << 30 | d.bits(1) << 29 | _registers(d) & 0x3FF
    return _vector_result(d, 0x0EA1C800 | fields)


def narrow_or_widen(d: Draw) -> list[int]:
    """FCVTN, FCVTL, FCVTXN, and the forms of the upper half."""
    fields = d.bits(1) << 30 | _registers(d) & 0x3FF
    base = d.pick((0x0E216800, 0x0E616800, 0x0E217800, 0x0E617800, 0x2E616800, 0x7E616800))
    return _vector_result(d, base | fields)


def across(d: Draw) -> list[int]:
    base = d.pick((0x6E30C800, 0x6E30F800, 0x0E30C800, 0x0E30F800, 0x4E30C800, 0x4E30F800))
    return _vector_result(d, base | d.bits(1) << 23 | _registers(d) & 0x3FF)


def scalar_pairwise(d: Draw) -> list[int]:
    base = d.pick((0x5E30C800, 0x5EB0C800, 0x5E30D800, 0x5E30F800, 0x5EB0F800))
    if d.bits(1):
        base |= _U | d.bits(1) << 22
    return _vector_result(d, base | _registers(d) & 0x3FF)


def by_element(d: Draw) -> list[int]:
    u, opcode = d.pick(((0, 1), (0, 5), (0, 9), (1, 9)))
    ptype, word = _arrangement(d, scalar=d.chance(30))
    word |= 0x0F000000 | u << 29 | opcode << 12 | _registers(d) | d.bits(1) << 11
    if ptype == HALF:
        return _vector_result(d, word | d.bits(2) << 20)
    lane = d.bits(1) << 21 if ptype == SINGLE else 0
    return _vector_result(d, word | (2 | ptype) << 22 | d.bits(1) << 20 | lane)


def fixed_point(d: Draw) -> list[int]:
    scalar = d.chance(40)
    ptype, word = _arrangement(d, scalar=scalar)
    bits = {SINGLE: 32, DOUBLE: 64, HALF: 16}[ptype]
    immediate = d.randrange(bits, 2 * bits)
    base = d.pick((0x0F00E400, 0x0F00FC00, 0x2F00E400, 0x2F00FC00))
    if scalar and ptype == HALF and base == 0x0F00FC00:
        # QEMU (7.2) extends the sign of what FCVTZS Hd, Hn, #bits writes to 32 bits; the manual
        # (C7.2, "FCVTZS (vector, fixed-point)") has zeros above the 16 bits of the result.
        base |= _U
    return _vector_result(d, word | base | immediate << 16 | _registers(d) & 0x3FF)


# --- values and control ---------------------------------------------------------------------------


def fresh_value(d: Draw) -> list[int]:
    """Put a special value, or two, into a register that others read."""
    rd = d.pick(_SOURCES)
    low, high = d.lanes(), d.lanes()
    return [
        *a64.mov_value(SCRATCH, low),
        _FMOV_FROM_X | SCRATCH << 5 | rd,
        *a64.mov_value(SCRATCH, high),
        _FMOV_HIGH | 1 << 16 | SCRATCH << 5 | rd,
    ]


def control(d: Draw) -> list[int]:
    if d.chance(15):
        return [a64.mrs(SCRATCH, a64.FPCR), _digest(SCRATCH)]
    trapped = _TRAP_ENABLES if d.chance(5) else 0
    return [*a64.mov_value(SCRATCH, trapped | d.fpcr()), a64.msr(a64.FPCR, SCRATCH)]


# Often what has many operations.
FLOATING_POINT: tuple[Form, ...] = (
    two_sources, two_sources, one_source, convert, three_sources, compare, select, move_immediate,
    move_general, to_general, to_general, from_general, three_same, three_same, three_same,
    two_registers, two_registers, two_registers, two_registers, unsigned_estimate,
    narrow_or_widen, across, scalar_pairwise, by_element, fixed_point, fresh_value, control,
)  # fmt: skip
