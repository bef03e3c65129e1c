"""Instruction forms for the program generator: loads and stores of SIMD&FP registers.

Left out, because the architecture leaves the result open: pairs that load the same register twice.
"""

from tests.support import a64
from tests.support.oracle_draw import SCRATCH, Draw
from tests.support.oracle_forms_data import Form
from tests.support.oracle_forms_memory import literal_target

# Bits 31:30 and bit 23 of a load or store of one register, by the log2 of its bytes.
_SIZES = tuple((size & 3) << 30 | (size >> 2) << 23 for size in range(5))
_LOAD = 1 << 22
_POST_INDEX = 1 << 23
_WITH_IMMEDIATE = 31  # in the place of Rm


def _kind(d: Draw) -> tuple[int, int]:
    """Draw the log2 of the bytes, and the fields for it and for load or store."""
    size = d.randrange(5)
    return size, _SIZES[size] | d.bits(1) * _LOAD


def _registers(d: Draw) -> int:
    return d.base() << 5 | d.bits(5)


def unsigned_offset(d: Draw) -> list[int]:
    _, word = _kind(d)
    units = d.bits(4) if d.chance(90) else d.bits(9)
    return [0x3D000000 | word | units << 10 | _registers(d)]


def signed_offset(d: Draw) -> list[int]:
    """Draw an unscaled offset, pre-index or post-index."""
    _, word = _kind(d)
    mode = d.pick((0, 0, 1, 3))
    offset = d.signed(9) if d.bits(1) else 16 * d.signed(4)
    return [0x3C000000 | word | (offset & 0x1FF) << 12 | mode << 10 | _registers(d)]


def register_offset(d: Draw) -> list[int]:
    _, word = _kind(d)
    offset = (a64.movn if d.bits(1) else a64.movz)(SCRATCH, d.bits(6), sf=d.bits(1))
    option = d.pick((a64.UXTW, a64.UXTX, a64.SXTW, a64.SXTX))
    fields = SCRATCH << 16 | option << 13 | d.bits(1) << 12
    return [offset, 0x3C200800 | word | fields | _registers(d)]


def literal(d: Draw) -> list[int]:
    offset = literal_target(d) - d.pc
    return [0x1C000000 | d.randrange(3) << 30 | (offset >> 2 & 0x7FFFF) << 5 | d.bits(5)]


def pair(d: Draw) -> list[int]:
    opc, mode, is_load = d.randrange(3), d.bits(2), d.bits(1)
    rt, rt2 = d.sample(range(32), 2) if is_load else (d.bits(5), d.bits(5))
    word = 0x2C000000 | opc << 30 | mode << 23 | is_load * _LOAD
    return [word | (d.signed(5) & 0x7F) << 15 | rt2 << 10 | d.base() << 5 | rt]


def _structure(d: Draw, word: int) -> list[int]:
    """Add base and registers: no write-back, by the block's size, or by a register."""
    word |= d.bits(1) * _LOAD if not word & _LOAD else 0
    word |= _registers(d)
    kind = d.randrange(3)
    if kind == 0:
        return [word]
    if kind == 1:
        return [word | _POST_INDEX | _WITH_IMMEDIATE << 16]
    offset = (a64.movn if d.bits(1) else a64.movz)(SCRATCH, d.bits(6))
    return [offset, word | _POST_INDEX | SCRATCH << 16]


def multiple_structures(d: Draw) -> list[int]:
    opcode, size, is_full = d.pick((0, 2, 4, 6, 7, 8, 10)), d.bits(2), d.bits(1)
    if size == 3 and opcode in {0, 4, 8}:
        is_full = 1  # LD2 to LD4 have no 1D
    return _structure(d, 0x0C000000 | is_full << 30 | opcode << 12 | size << 10)


def single_structure(d: Draw) -> list[int]:
    scale, count = d.randrange(4), d.bits(1) << 13 | d.bits(1) << 21
    q_s_size = d.bits(4) & -(1 << scale)  # the lane's number, from the top
    if scale == 3:  # 64 bits: as 32, with size 01
        scale, q_s_size = 2, q_s_size | 1
    lane = q_s_size >> 3 << 30 | (q_s_size & 7) << 10
    return _structure(d, 0x0D000000 | scale << 14 | lane | count)


def replicated_structure(d: Draw) -> list[int]:
    fields = d.bits(1) << 30 | d.bits(1) << 21 | d.bits(1) << 13 | d.bits(2) << 10
    return _structure(d, 0x0D40C000 | fields)


SIMD_MEMORY: tuple[Form, ...] = (
    unsigned_offset,
    signed_offset,
    signed_offset,
    register_offset,
    literal,
    pair,
    pair,
    multiple_structures,
    multiple_structures,
    single_structure,
    single_structure,
    replicated_structure,
)
