"""Guest physical addresses, and the checks that every range of them has to pass."""

from typing import NewType

from tagalong.errors import AddressError

Gpa = NewType("Gpa", int)
"""A guest physical address in bytes, without tag bits."""

GPA_BITS = 52
"""The widest physical address of the architecture (FEAT_LPA2)."""


def check_range(gpa: int, length_bytes: int, alignment_bytes: int) -> None:
    """Refuse a gpa range that is no whole number of `alignment_bytes` units.

    `alignment_bytes`: a granule pair, a page; 1 for any byte range. Raises AddressError if
    `gpa` or `length_bytes` is negative or not a multiple of it, or if the range ends above
    the largest gpa.

    >>> check_range(Gpa(0x4000_0000), 0x2000, 0x1000)
    >>> check_range(Gpa(0x4000_0010), 0x2000, 0x1000)
    Traceback (most recent call last):
    tagalong.errors.AddressError: gpa 0x40000010 is not a multiple of 0x1000
    """
    for what, value in (("gpa", gpa), ("length", length_bytes)):
        if value < 0:
            raise AddressError(f"{what} {value:#x} is negative")
        if value % alignment_bytes:
            raise AddressError(f"{what} {value:#x} is not a multiple of {alignment_bytes:#x}")
    if gpa + length_bytes > 1 << GPA_BITS:
        raise AddressError(
            f"gpa range {gpa:#x} + {length_bytes:#x} ends above the largest gpa, "
            f"{(1 << GPA_BITS) - 1:#x}"
        )
