"""Stage-1 translation tables (DDI 0487 D8): 4 KiB granule, four levels, 48-bit addresses.

The embedded machine's CPUs walk these as a guest's CPU walks its own. Code that sets up a CPU
from outside builds them here and writes `registers()` to it.
"""

from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import HostError
from tagalong.machine import RegisterId, register_ids
from tagalong.memory import Gpa

PAGE_BYTES: Final = 4096
VA_BITS: Final = 48

_ENTRIES: Final = PAGE_BYTES // 8
_LEAF_BYTES: Final = {1: 1 << 30, 2: 1 << 21, 3: PAGE_BYTES}  # by level; level 0 has no blocks
_LAST_LEVEL: Final = 3

# Descriptor bits (D8.3).
_VALID: Final = 1
_TABLE_OR_PAGE: Final = 2
_ATTRIBUTE_SHIFT: Final = 2
_EL0: Final = 1 << 6
_READ_ONLY: Final = 1 << 7
_INNER_SHAREABLE: Final = 3 << 8
_ACCESS_FLAG: Final = 1 << 10
_PXN: Final = 1 << 53
_UXN: Final = 1 << 54
_ADDRESS: Final = (1 << 48) - PAGE_BYTES

_NORMAL_TAGGED: Final = 0xF0
_NORMAL: Final = 0xFF
_MAIR: Final = _NORMAL_TAGGED | _NORMAL << 8
_TAGGED_INDEX: Final = 0 << _ATTRIBUTE_SHIFT
_NORMAL_INDEX: Final = 1 << _ATTRIBUTE_SHIFT

# T0SZ for 48 bits, 48-bit output addresses, TBI0 as Linux sets it, no upper half.
_TCR: Final = (64 - VA_BITS) | 1 << 23 | 5 << 32 | 1 << 37


class Kind(Enum):
    """What a mapping is for; the value is the leaf's attributes."""

    EL0_TAGGED = _TAGGED_INDEX | _EL0 | _PXN | _UXN
    """User memory with PROT_MTE."""
    EL0_PLAIN = _NORMAL_INDEX | _EL0 | _PXN | _UXN
    """User memory without."""
    EL0_NONE = _NORMAL_INDEX | _READ_ONLY | _PXN | _UXN
    """User memory with PROT_NONE: mapped, but not for EL0."""
    EL0_CODE = _NORMAL_INDEX | _EL0 | _READ_ONLY | _PXN
    EL1_TAGGED = _TAGGED_INDEX | _UXN
    """A guest kernel's memory, code included."""
    EL1_CODE = _NORMAL_INDEX | _READ_ONLY | _UXN


class Stage1:
    """Tables in `memory`, shape (n * 4096,), which the CPU finds from `gpa` on.

    Raises HostError if a mapping needs more tables than there is room for.
    """

    def __init__(self, memory: NDArray[np.uint8], gpa: Gpa) -> None:
        self._tables = memory.view("<u8").reshape(-1, _ENTRIES)
        self._gpa = gpa
        self._used = 1

    def map(self, va: int, gpa: int, size_bytes: int, kind: Kind) -> None:
        """Map `va` on to `gpa` on, in place of what was mapped before.

        All three are multiples of 4096. A caller whose CPUs may have cached the old leaves
        flushes their TLBs.
        """
        end = va + size_bytes
        while va < end:
            level = _largest_leaf(va, gpa, end - va)
            self._tables[self._table_of(va, level), _index(va, level)] = _leaf(gpa, kind, level)
            va += _LEAF_BYTES[level]
            gpa += _LEAF_BYTES[level]

    def registers(self) -> dict[RegisterId, int]:
        """Return the registers of the translation regime, without SCTLR_EL1."""
        return {
            register_ids.MAIR_EL1: _MAIR,
            register_ids.TCR_EL1: _TCR,
            register_ids.TTBR0_EL1: self._gpa,
        }

    def _table_of(self, va: int, level: int) -> int:
        """Return the number of the table that holds the entry of `va` at `level`."""
        table = 0
        for above in range(level):
            at = table, _index(va, above)
            if not int(self._tables[at]) & _TABLE_OR_PAGE:
                self._split(at, above)
            table = ((int(self._tables[at]) & _ADDRESS) - self._gpa) // PAGE_BYTES
        return table

    def _split(self, at: tuple[int, int], level: int) -> None:
        """Put a table where a block or nothing was; it leads where the block led."""
        if self._used == len(self._tables):
            raise HostError(f"no room for more than {self._used} translation tables")
        number, self._used = self._used, self._used + 1
        block = int(self._tables[at])
        if block:
            is_page = _TABLE_OR_PAGE if level + 1 == _LAST_LEVEL else 0
            steps = np.arange(_ENTRIES, dtype="<u8") * _LEAF_BYTES[level + 1]
            self._tables[number] = (block | is_page) + steps
        self._tables[at] = self._gpa + number * PAGE_BYTES | _TABLE_OR_PAGE | _VALID


def _leaf(gpa: int, kind: Kind, level: int) -> int:
    is_page = _TABLE_OR_PAGE if level == _LAST_LEVEL else 0
    return gpa | kind.value | _INNER_SHAREABLE | _ACCESS_FLAG | is_page | _VALID


def _index(va: int, level: int) -> int:
    return va >> 12 + 9 * (_LAST_LEVEL - level) & _ENTRIES - 1


def _largest_leaf(va: int, gpa: int, left_bytes: int) -> int:
    return next(
        level
        for level, size in _LEAF_BYTES.items()
        if not (va | gpa) & size - 1 and left_bytes >= size
    )
