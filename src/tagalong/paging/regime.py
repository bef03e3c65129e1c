"""What the system registers say about one half of a vCPU's virtual address space.

half     table         size   granule   no walks   ignore the top byte
USER     TTBR0_EL1     T0SZ   TG0       EPD0       TBI0
KERNEL   TTBR1_EL1     T1SZ   TG1       EPD1       TBI1
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

from tagalong.errors import TranslationError
from tagalong.machine import RegisterId, register_ids
from tagalong.memory import Gpa

_SCTLR_M: Final = 1
_TCR_IPS_SHIFT: Final = 32
_TCR_DS: Final = 59
_IPS_52_BITS: Final = 6
_OUTPUT_BITS: Final = (32, 36, 40, 42, 44, 48, 52, 52)

_DESCRIPTOR_BITS_LOG2: Final = 3
_LEAF_LEVEL: Final = 3
_MAX_INPUT_BITS: Final = 48
_LARGE_INPUT_BITS: Final = 52
_GRANULE_4K, _GRANULE_16K, _GRANULE_64K = 12, 14, 16


class Half(Enum):
    """One half of the virtual address space; the value is bit 55 of its addresses."""

    USER = 0
    KERNEL = 1


# TCR_EL1.TG0 and TG1 have codes of their own each: log2 of the granule.
_GRANULES: Final = {
    Half.USER: {0: _GRANULE_4K, 1: _GRANULE_64K, 2: _GRANULE_16K},
    Half.KERNEL: {1: _GRANULE_16K, 2: _GRANULE_4K, 3: _GRANULE_64K},
}


@dataclass(frozen=True)
class Regime:
    """How to walk one half; made by `of`.

    `table`: gpa of the first table. `granule_bits`: 12, 14 or 16. `input_bits`: width of the
    addresses that are translated. `output_bits`: width of what they are translated to.
    `is_large`: descriptors hold 52-bit addresses (FEAT_LPA2, or 64 KiB granule with
    FEAT_LPA). `memory_attributes`: MAIR_EL1.
    """

    half: Half
    table: Gpa
    granule_bits: int
    input_bits: int
    output_bits: int
    is_large: bool
    ignores_top_byte: bool
    memory_attributes: int

    @classmethod
    def of(cls, registers: Mapping[RegisterId, int], half: Half) -> Self:
        """Return the regime of `half` of the vCPU with these registers.

        Raises TranslationError if it translates nothing: a register is not known, the MMU is off,
        walks are disabled, or the granule's code is reserved.
        """
        tcr = _get(registers, register_ids.TCR_EL1)
        if not _get(registers, register_ids.SCTLR_EL1) & _SCTLR_M:
            raise TranslationError(
                "the vCPU's MMU is off (SCTLR_EL1.M is 0), so it has no virtual addresses; ask for "
                "physical ones (--space physical), or for another vCPU (--vcpu)"
            )
        return cls._enabled(registers, half, tcr)

    @classmethod
    def _enabled(cls, registers: Mapping[RegisterId, int], half: Half, tcr: int) -> Self:
        number = half.value
        if tcr >> (23 if number else 7) & 1:
            this, other = half.name.lower(), Half(1 - number).name.lower()
            raise TranslationError(
                f"the guest has no {this} addresses: TCR_EL1 is {tcr:#x}, EPD{number} is set, so "
                f"TTBR{number}_EL1 maps nothing; ask for its {other} addresses (--space {other})"
            )
        granule_bits = _granule_bits(tcr, half)
        ips = tcr >> _TCR_IPS_SHIFT & 7
        is_large = bool(tcr >> _TCR_DS & 1)
        if granule_bits == _GRANULE_64K:
            is_large = ips == _IPS_52_BITS
        input_bits = _input_bits(tcr, half, granule_bits, is_large=is_large)
        base = _get(registers, (register_ids.TTBR1_EL1 if number else register_ids.TTBR0_EL1))
        return cls(
            half=half,
            table=_first_table(base, granule_bits, input_bits, is_large=is_large),
            granule_bits=granule_bits,
            input_bits=input_bits,
            output_bits=_OUTPUT_BITS[ips],
            is_large=is_large,
            ignores_top_byte=bool(tcr >> (37 + number) & 1),
            memory_attributes=_get(registers, register_ids.MAIR_EL1),
        )

    @property
    def granule_bytes(self) -> int:
        """Return the size of a page and of a full table."""
        return 1 << self.granule_bits

    @property
    def stride(self) -> int:
        """Return how many address bits one level of tables resolves."""
        return self.granule_bits - _DESCRIPTOR_BITS_LOG2

    @property
    def first_level(self) -> int:
        """Return the level of the first table: -1 to 3."""
        return _first_level(self.granule_bits, self.input_bits)

    @property
    def lowest_address(self) -> int:
        """Return the half's first virtual address, without tag bits."""
        return 0 if self.half is Half.USER else (1 << 64) - (1 << self.input_bits)

    def shift(self, level: int) -> int:
        """Return log2 of the bytes that one descriptor of `level` covers."""
        return self.granule_bits + self.stride * (_LEAF_LEVEL - level)

    def entries(self, level: int) -> int:
        """Return the number of descriptors in a table of `level`; the first may be short."""
        return 1 << min(self.stride, self.input_bits - self.shift(level))

    def has_blocks(self, level: int) -> bool:
        """Return whether a descriptor of `level` may map a block."""
        return level in _BLOCK_LEVELS[self.granule_bits, self.is_large]


_BLOCK_LEVELS: Final = {
    (_GRANULE_4K, False): {1, 2},
    (_GRANULE_4K, True): {0, 1, 2},
    (_GRANULE_16K, False): {2},
    (_GRANULE_16K, True): {1, 2},
    (_GRANULE_64K, False): {2},
    (_GRANULE_64K, True): {1, 2},
}


def _get(registers: Mapping[RegisterId, int], register: RegisterId) -> int:
    if register not in registers:
        name = register_ids.register_name(register)
        raise TranslationError(f"the vCPU's {name} is not known: its tables cannot be walked")
    return registers[register]


def _granule_bits(tcr: int, half: Half) -> int:
    code = tcr >> (30 if half is Half.KERNEL else 14) & 3
    if code not in _GRANULES[half]:
        raise TranslationError(f"TCR_EL1 is {tcr:#x}: TG{half.value} has the reserved code {code}")
    return _GRANULES[half][code]


def _input_bits(tcr: int, half: Half, granule_bits: int, *, is_large: bool) -> int:
    """Return the width of input addresses, limited as the architecture limits TxSZ."""
    size = tcr >> (16 if half is Half.KERNEL else 0) & 0x3F
    is_wide = is_large or granule_bits == _GRANULE_64K
    most = _LARGE_INPUT_BITS if is_wide else _MAX_INPUT_BITS
    return max(granule_bits + 1, min(most, 64 - size))


def _first_level(granule_bits: int, input_bits: int) -> int:
    stride = granule_bits - _DESCRIPTOR_BITS_LOG2
    return _LEAF_LEVEL + 1 - -(-(input_bits - granule_bits) // stride)


def _first_table(base: int, granule_bits: int, input_bits: int, *, is_large: bool) -> Gpa:
    """Return TTBRx_EL1.BADDR; its low bits are zero as the table's size asks."""
    stride = granule_bits - _DESCRIPTOR_BITS_LOG2
    level = _first_level(granule_bits, input_bits)
    resolved = input_bits - granule_bits - stride * (_LEAF_LEVEL - level)
    address = base & (1 << _MAX_INPUT_BITS) - 2
    alignment_bits = resolved + _DESCRIPTOR_BITS_LOG2
    if is_large:
        address = address & ~0x3F | (base >> 2 & 0xF) << _MAX_INPUT_BITS
        alignment_bits = max(alignment_bits, 6)
    return Gpa(address >> alignment_bits << alignment_bits)
