"""Call stacks by frame pointers: what every AArch64 program has, without debug information.

Source: Procedure Call Standard for the Arm 64-bit Architecture, 6.4.6 "The frame pointer".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tagalong.explain.crash import CrashMapping, CrashMemory, StackFrame
from tagalong.mte.pointers import address_of

MAX_FRAMES: Final = 64
_RECORD_BYTES: Final = 16
_WORD_BYTES: Final = 8
# A return address may be signed (PAC): these bits of it are the address.
_ADDRESS_BITS: Final = (1 << 48) - 1
_KERNEL: Final = 0xFFFF << 48

Frames = Callable[[int], StackFrame]
"""How a code address becomes a frame, with what is known of its module and function."""


def unwind(memory: CrashMemory, registers: Mapping[str, int]) -> list[int]:
    """Return the addresses of the frames from the pc on, MAX_FRAMES at most.

    It ends where the chain breaks.

    A function that has not set its frame up yet is missing from it, or its caller is: the link
    register is taken as a frame of its own if it is no frame's return address.
    """
    addresses = [registers["pc"]]
    link, record = registers.get("x30", 0), registers.get("x29", 0)
    chain = _chain(memory, record)
    if _code(link) and (not chain or chain[0] != _code(link)):
        addresses.append(_code(link))
    addresses += chain
    return addresses[:MAX_FRAMES]


def _chain(memory: CrashMemory, record: int) -> list[int]:
    found: list[int] = []
    at = address_of(record)
    while at and len(found) < MAX_FRAMES:
        raw = memory.data(at, _RECORD_BYTES)
        if raw is None:
            break
        following = address_of(int.from_bytes(raw[:_WORD_BYTES], "little"))
        returns_to = _code(int.from_bytes(raw[_WORD_BYTES:], "little"))
        if not returns_to:
            break
        found.append(returns_to)
        if following <= at:  # stacks grow down: anything else is damage, or a loop
            break
        at = following
    return found


def _code(address: int) -> int:
    """Return a code address without a signature."""
    if not address:
        return 0
    return address & _ADDRESS_BITS | (_KERNEL if address >> 55 & 1 else 0)


def frame_of(pc: int, mappings: Sequence[CrashMapping]) -> StackFrame:
    """Return the frame at `pc` with its place in the module that holds it."""
    for mapping in mappings:
        if mapping.start <= pc < mapping.end:
            offset = (
                None if mapping.file_offset is None else pc - mapping.start + mapping.file_offset
            )
            return StackFrame(pc, None, mapping.name, offset)
    return StackFrame(pc)
