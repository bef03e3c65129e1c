"""Instruction forms for the program generator: Advanced SIMD that is not floating point.

The groups are those of the manual (DDI 0487, C4.1). Within a group a form draws any word that a
disassembler knows, so that all operations come up with all their arrangements; what is unallocated
is for `oracle_encodings` to draw. Each result goes into a digest in V31 or in a general-purpose
register, so that a later instruction cannot hide it, and so does FPSR.QC.
"""

import capstone

from tests.support import a64
from tests.support.oracle_draw import SCRATCH, Draw
from tests.support.oracle_forms_data import Form

_GENERAL_DIGEST = 29
_VECTOR_DIGEST = 31

# Mask and value of a group; the register fields are free.
_TABLE = (0xBF208C00, 0x0E000000)
_PERMUTE = (0xBF208C00, 0x0E000800)
_EXTRACT = (0xBF208400, 0x2E000000)
_COPY = (0x9FE08400, 0x0E000400)
_MODIFIED_IMMEDIATE = (0x9FF80400, 0x0F000400)
_THREE_EXTRA = (0x9F208400, 0x0E008400)
_TWO_MISC = (0x9F3E0C00, 0x0E200800)
_ACROSS = (0x9F3E0C00, 0x0E300800)
_THREE_DIFFERENT = (0x9F200C00, 0x0E200000)
_THREE_SAME = (0x9F200400, 0x0E200400)
_SHIFT = (0x9F800400, 0x0F000400)
_BY_ELEMENT = (0x9F000400, 0x0F000000)
_SCALAR_COPY = (0xFFE08400, 0x5E000400)
_SCALAR_EXTRA = (0xDF208400, 0x5E008400)
_SCALAR_TWO_MISC = (0xDF3E0C00, 0x5E200800)
_SCALAR_PAIRWISE = (0xDF3E0C00, 0x5E300800)
_SCALAR_DIFFERENT = (0xDF200C00, 0x5E200000)
_SCALAR_SAME = (0xDF200400, 0x5E200400)
_SCALAR_SHIFT = (0xDF800400, 0x5F000400)
_SCALAR_BY_ELEMENT = (0xDF000400, 0x5F000000)
_AES = (0xFF3E0C00, 0x4E280800)
_SHA_THREE = (0xFF208C00, 0x5E000000)
_SHA_TWO = (0xFF3E0C00, 0x5E280800)

# A group comes up as often as its weight says.
_WEIGHTS = {
    _THREE_SAME: 5, _THREE_DIFFERENT: 3, _TWO_MISC: 4, _SHIFT: 4, _BY_ELEMENT: 3, _COPY: 2,
    _TABLE: 2, _PERMUTE: 1, _EXTRACT: 1, _MODIFIED_IMMEDIATE: 2, _THREE_EXTRA: 1, _ACROSS: 1,
    _SCALAR_COPY: 1, _SCALAR_EXTRA: 1, _SCALAR_TWO_MISC: 2, _SCALAR_PAIRWISE: 1,
    _SCALAR_DIFFERENT: 1, _SCALAR_SAME: 2, _SCALAR_SHIFT: 2, _SCALAR_BY_ELEMENT: 1, _AES: 1,
    _SHA_THREE: 1, _SHA_TWO: 1,
}  # fmt: skip
_GROUPS = tuple(group for group, weight in _WEIGHTS.items() for _ in range(weight))

# What capstone knows and the machine does not claim: BF16 and I8MM.
_NOT_CLAIMED = ("bf", "sudot", "usdot", "smmla", "ummla", "usmmla")
# Floating point that does not begin with "f"; the forms of oracle_forms_fp draw it.
_CONVERSIONS = ("scvtf", "ucvtf", "urecpe", "ursqrte")
_SATURATING = ("sq", "uq", "suqadd", "usqadd")

_UMOV_X, _EOR, _INS_D = 0x4E083C00, 0x6E201C00, 0x4E081C00
_UPPER_D = 1 << 20


def mnemonic_of(word: int) -> str:
    """Return the mnemonic, or nothing if the word is no integer SIMD that the machine claims."""
    for _, _, mnemonic, _ in _DECODER.disasm_lite(word.to_bytes(4, "little"), 0):
        is_float = mnemonic.startswith("f") and not _is_in(_MODIFIED_IMMEDIATE, word)
        others = (*_NOT_CLAIMED, *_CONVERSIONS)
        return "" if is_float or mnemonic.startswith(others) else mnemonic
    return ""


_DECODER = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)


def _is_in(group: tuple[int, int], word: int) -> bool:
    return word & group[0] == group[1]


def insert(rd: int, half: int, source: int) -> int:
    """Return INS Vd.D[half], Xsource."""
    return _INS_D | half * _UPPER_D | source << 5 | rd


def _digest(register: int) -> int:
    return a64.logical_reg(2, _GENERAL_DIGEST, register, _GENERAL_DIGEST, shift=a64.ROR, by=7)


def observed(word: int, mnemonic: str) -> list[int]:
    """Return the instruction, and what makes its result and FPSR.QC part of the program's."""
    rd = word & 31
    to_general = _is_in(_COPY, word) and mnemonic in {"umov", "smov", "mov"} and _is_to_x(word)
    words = [word]
    words.append(_digest(rd) if to_general else _EOR | rd << 16 | _VECTOR_DIGEST << 5 | 31)
    if mnemonic.startswith(_SATURATING):
        words += [a64.mrs(SCRATCH, a64.FPSR), _digest(SCRATCH), a64.msr(a64.FPSR, a64.ZR)]
    return words


def _is_to_x(word: int) -> bool:
    return not word >> 29 & 1 and word >> 11 & 15 in {5, 7}


def operation(d: Draw) -> list[int]:
    """Draw an integer operation on vectors or scalars."""
    mask, value = d.pick(_GROUPS)
    while True:
        word = d.bits(32) & ~mask & 0xFFFFFFFF | value
        mnemonic = mnemonic_of(word)
        if not mnemonic:
            continue
        rd = word & 31
        if _is_in(_COPY, word) and _is_to_x(word):
            word = word & ~31 | d.target()
        elif rd == _VECTOR_DIGEST:
            continue
        return observed(word, mnemonic)


# --- values -------------------------------------------------------------------------------


def _lane(d: Draw, bits: int) -> int:
    """Draw a lane at the edge of its range, an amount to shift by, or anything."""
    top = 1 << (bits - 1)
    return d.pick(
        (0, 1, 2, top - 1, top, top + 1, 2 * top - 1, 2 * top - 2, d.bits(bits), d.bits(bits),
         d.signed(7) % (2 * top), d.bits(6))
    )  # fmt: skip


def lanes(d: Draw, bits: int) -> int:
    """Draw 64 bits of lanes of `bits` each."""
    return sum(_lane(d, bits) << low for low in range(0, 64, bits))


def fresh_value(d: Draw) -> list[int]:
    """Put new values into a vector register."""
    bits, rd = d.pick((8, 16, 32, 64)), d.randrange(31)
    words = []
    for half in (0, 1):
        words += [*a64.mov_value(SCRATCH, lanes(d, bits)), insert(rd, half, SCRATCH)]
    return words


def _equal_lanes(d: Draw) -> list[int]:
    """Make many lanes of two registers equal, as comparisons and searches have them."""
    rd, rn = d.randrange(31), d.randrange(31)
    return [0x4EA01C00 | rn << 16 | rn << 5 | rd, insert(rd, d.bits(1), d.source())]


def status(d: Draw) -> list[int]:
    """Draw a read or write of FPSR."""
    if d.bits(1):
        return [a64.mrs(SCRATCH, a64.FPSR), _digest(SCRATCH)]
    return [*a64.mov_value(SCRATCH, d.pick((0, 0x0800009F, 1 << 27))), a64.msr(a64.FPSR, SCRATCH)]


SIMD: tuple[Form, ...] = (*[operation] * 12, fresh_value, fresh_value, _equal_lanes, status)
