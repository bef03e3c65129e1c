"""Which addresses are a stack's."""

from typing import Final

from tagalong.explain.crash import Crash
from tagalong.mte.pointers import address_of

_GUARD_BYTES: Final = 256 << 10
_NAMES: Final = ("[stack", "[anon:stack", "[anon:thread stack")


def stack_pointer(crash: Crash) -> int | None:
    """Return the crashed thread's stack pointer, without tag bits."""
    registers = crash.registers or {}
    return address_of(registers["sp"]) if "sp" in registers else None


def is_stack(crash: Crash, address: int) -> bool:
    """Return whether an address lies in the memory that the stack pointer points into."""
    mapping = crash.mapping_of(address)
    if mapping is not None and mapping.name.startswith(_NAMES):
        return True
    pointer = stack_pointer(crash)
    if pointer is None or abs(pointer - address) > 64 * _GUARD_BYTES:
        return False
    # What touches is one stack, even where only a part of it has tags.
    reach: tuple[int, int] | None = None
    for extent in crash.memory.extents:
        if reach is not None and extent.address == reach[1]:
            reach = (reach[0], extent.end)
        else:
            if reach is not None and reach[0] <= pointer < reach[1]:
                break
            reach = (extent.address, extent.end)
    return reach is not None and reach[0] <= pointer < reach[1] and reach[0] <= address < reach[1]
