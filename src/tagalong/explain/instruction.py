"""Which memory an A64 load or store touches, from its encoding: size, direction, registers.

Source: Arm ARM (DDI 0487), C4.1 "Loads and Stores" for the groups, C6.2 and C7.2 for the fields.
Instructions that load or store tags are never checked and are not decoded, nor are FEAT_MOPS'.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tagalong.disassembly import disassemble
from tagalong.explain.crash import DataDirection, FaultingAccess

_SP: Final = 31


@dataclass(frozen=True)
class _Touched:
    size_bytes: int
    is_write: bool
    offset_bytes: int = 0
    index: int | None = None


def decode_access(encoding: int, pc: int) -> FaultingAccess:
    """Return what the instruction does to memory; only its text if that is not known.

    >>> decode_access(0xB9400C20, 0x1000).text  # doctest: +SKIP
    'ldr w0, [x1, #0xc]'
    """
    touched = _touched(encoding)
    text = disassemble(encoding, pc)
    if touched is None:
        return FaultingAccess(pc, encoding, text)
    return FaultingAccess(
        pc,
        encoding,
        text,
        size_bytes=touched.size_bytes,
        direction=DataDirection.WRITE if touched.is_write else DataDirection.READ,
        base=_register(_bits(encoding, 9, 5)),
        index=None if touched.index is None else _register(touched.index),
        offset_bytes=touched.offset_bytes,
    )


def index_bytes(access: FaultingAccess, value: int) -> int | None:
    """Return what the index register, which holds `value`, adds to the base.

    None if the access has no index.
    """
    if access.index is None or access.encoding is None:
        return None
    word = access.encoding
    option, scaled = _bits(word, 15, 13), _bits(word, 12, 12)
    wide = option & 1
    amount = value if wide else value & 0xFFFF_FFFF
    bits = 64 if wide else 32
    if (option & 4 or wide) and amount >> (bits - 1) & 1:
        amount -= 1 << bits
    shift = (access.size_bytes or 1).bit_length() - 1
    return amount << shift if scaled else amount


def _touched(word: int) -> _Touched | None:
    for mask, value, decode in _GROUPS:
        if word & mask == value:
            return decode(word)
    return None


def _exclusive(word: int) -> _Touched | None:
    """LDXR, STLR, CAS and their like; pairs."""
    size, is_load = 1 << _bits(word, 31, 30), bool(_bits(word, 22, 22))
    o2, o1 = _bits(word, 23, 23), _bits(word, 21, 21)
    if o1 and o2:  # CAS
        return _Touched(size, is_write=True)
    if o1:  # CASP, LDXP, STXP
        is_casp = not word >> 31
        return _Touched(2 * (4 << _bits(word, 30, 30)), is_write=is_casp or not is_load)
    return _Touched(size, is_write=not is_load)


def _pair(word: int) -> _Touched | None:
    opc, is_vector, is_load = _bits(word, 31, 30), _bits(word, 26, 26), _bits(word, 22, 22)
    if is_vector:
        if opc == 3:
            return None
        size = 4 << opc
    elif opc == 1:
        if not is_load:  # STGP
            return None
        size = 4
    else:
        size = 8 if opc else 4
    is_post_index = _bits(word, 24, 23) == 1
    offset = 0 if is_post_index else _signed(_bits(word, 21, 15), 7) * size
    return _Touched(2 * size, is_write=not is_load, offset_bytes=offset)


def _one_size(word: int) -> tuple[int, bool] | None:
    """Return size and whether it writes, of a load or store of one register."""
    size, opc = _bits(word, 31, 30), _bits(word, 23, 22)
    if _bits(word, 26, 26):
        if opc & 2:
            return None if size else (16, not opc & 1)
        return 1 << size, not opc & 1
    if (size, opc) == (3, 2):  # PRFM
        return None
    return 1 << size, opc == 0


def _unsigned_offset(word: int) -> _Touched | None:
    found = _one_size(word)
    if found is None:
        return None
    return _Touched(found[0], found[1], _bits(word, 21, 10) * found[0])


def _small_offset(word: int) -> _Touched | None:
    """Unscaled, unprivileged, pre- and post-indexed."""
    found = _one_size(word)
    if found is None:
        return None
    is_post_index = _bits(word, 11, 10) == 1
    return _Touched(*found, 0 if is_post_index else _signed(_bits(word, 20, 12), 9))


def _register_offset(word: int) -> _Touched | None:
    found = _one_size(word)
    return None if found is None else _Touched(*found, index=_bits(word, 20, 16))


def _atomic(word: int) -> _Touched | None:
    is_ldapr = _bits(word, 15, 12) == 0b1100
    return _Touched(1 << _bits(word, 31, 30), is_write=not is_ldapr)


def _ordered_unscaled(word: int) -> _Touched | None:
    """LDAPUR and STLUR."""
    return _Touched(
        1 << _bits(word, 31, 30),
        is_write=_bits(word, 23, 22) == 0,
        offset_bytes=_signed(_bits(word, 20, 12), 9),
    )


_STRUCTURE_REGISTERS: Final = {0: 4, 2: 4, 4: 3, 6: 3, 7: 1, 8: 2, 10: 2}


def _structures(word: int) -> _Touched | None:
    """LD1 to LD4, ST1 to ST4 of whole registers."""
    count = _STRUCTURE_REGISTERS.get(_bits(word, 15, 12))
    if count is None:
        return None
    return _Touched(count * (16 if _bits(word, 30, 30) else 8), is_write=not _bits(word, 22, 22))


def _one_lane(word: int) -> _Touched | None:
    """Decode the same of one lane, and LD1R to LD4R."""
    opcode, size = _bits(word, 15, 13), _bits(word, 11, 10)
    count = ((opcode & 1) << 1 | _bits(word, 21, 21)) + 1
    scale = opcode >> 1
    if scale == 3:
        lane = 1 << size
    elif scale == 2:
        lane = 8 if size & 1 else 4
    else:
        lane = 1 << scale
    return _Touched(count * lane, is_write=not _bits(word, 22, 22))


# In this order: a group that lies within another comes first.
_GROUPS: Final[tuple[tuple[int, int, Callable[[int], _Touched | None]], ...]] = (
    (0x3F00_0000, 0x0800_0000, _exclusive),
    (0x3A00_0000, 0x2800_0000, _pair),
    (0x3F20_0C00, 0x1900_0000, _ordered_unscaled),
    (0xBFBF_0000, 0x0C00_0000, _structures),
    (0xBFA0_0000, 0x0C80_0000, _structures),
    (0xBF9F_0000, 0x0D00_0000, _one_lane),
    (0xBF80_0000, 0x0D80_0000, _one_lane),
    (0x3B00_0000, 0x3900_0000, _unsigned_offset),
    (0x3B20_0000, 0x3800_0000, _small_offset),
    (0x3B20_0C00, 0x3820_0800, _register_offset),
    (0x3F20_0C00, 0x3820_0000, _atomic),
)


def _bits(word: int, high: int, low: int) -> int:
    return word >> low & (1 << (high - low + 1)) - 1


def _signed(value: int, width: int) -> int:
    return value - (1 << width) if value >> (width - 1) else value


def _register(number: int) -> str:
    return "sp" if number == _SP else f"x{number}"
