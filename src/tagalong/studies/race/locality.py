"""Which instructions touch only their own CPU's state: the basis of the reduction.

An instruction that neither reads nor writes memory that both sides use commutes with
everything that the other side does, so one order of the two stands for both (Godefroid,
"Partial-Order Methods for the Verification of Concurrent Systems", 1996: a persistent set of
one). In doubt an instruction counts as shared. That costs time and never loses an outcome.
"""

from collections.abc import Callable
from typing import Final

from tagalong.mte.pointers import address_of

_LITERAL_LOAD: Final = 0x3B00_0000, 0x1800_0000
_REGISTER_OFFSET: Final = 0x3B20_0C00, 0x3820_0800
_LOAD_STORE: Final = 0x0A00_0000, 0x0800_0000
_SYSTEM: Final = 0xFFC0_0000, 0xD500_0000
_SYS: Final = 0xFFF8_0000, 0xD508_0000
"""SYS: cache and TLB maintenance and DC ZVA, not MRS, MSR, hints and barriers."""

REACH_BYTES: Final = 1 << 16
"""More than any immediate offset of a load or store, and than any access is wide."""


def touches_memory(word: int) -> bool:
    """Return whether an A64 instruction may access memory (DDI 0487 C4.1, op0 = x1x0)."""
    return _is(word, _LOAD_STORE) or _is(word, _SYS)


def base_register(word: int) -> int | None:
    """Return Rn of a load or store whose address is near it, None for any other addressing."""
    unknown = _is(word, _LITERAL_LOAD) or _is(word, _REGISTER_OFFSET) or _is(word, _SYSTEM)
    return None if unknown else word >> 5 & 31


def is_local(word: int, register: Callable[[int], int], private: range) -> bool:
    """Return whether the instruction certainly touches no memory outside `private`.

    `register` returns the value of register n, 31 being SP. `private`: addresses that the
    other side cannot access.

    >>> is_local(0x91000400, lambda n: 0, range(0))  # add x0, x0, #1
    True
    >>> is_local(0xF9400020, lambda n: 0x4000_0000, range(0))  # ldr x0, [x1]
    False
    """
    if not touches_memory(word):
        return True
    base = base_register(word)
    if base is None:
        return False
    address = address_of(register(base))
    return private.start <= address - REACH_BYTES and address + REACH_BYTES < private.stop


def _is(word: int, pattern: tuple[int, int]) -> bool:
    return word & pattern[0] == pattern[1]
