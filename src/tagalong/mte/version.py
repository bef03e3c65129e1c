"""The versions of MTE, and what an ID register says of them.

It loads nothing: a machine asks for its version on the way to its guest's first instruction.
"""

from enum import IntEnum
from typing import Final, Self

# ID_AA64PFR1_EL1.MTE, bits 11:8.
_SHIFT: Final = 8
_MASK: Final = 0xF


class MteVersion(IntEnum):
    """What ID_AA64PFR1_EL1.MTE promises; each version includes the ones before it."""

    NONE = 0
    INSTRUCTIONS = 1
    """Instructions that make tagged pointers; no allocation tags in memory."""
    MTE2 = 2
    """Allocation tags, synchronous checks."""
    MTE3 = 3
    """Asymmetric checks as well."""

    @classmethod
    def promised(cls, field: int) -> Self:
        """Return the newest known version that a value of the field promises.

        The field is unsigned and a larger value includes all smaller ones (Arm ARM,
        "Principles of the ID scheme for fields in ID registers").

        >>> MteVersion.promised(4).name
        'MTE3'
        """
        return cls(min(field, int(max(cls))))


def version_in(id_aa64pfr1: int) -> MteVersion:
    """Return the newest known version that the register's 64-bit value promises.

    >>> version_in(0x0300).name
    'MTE3'
    """
    return MteVersion.promised(id_aa64pfr1 >> _SHIFT & _MASK)
