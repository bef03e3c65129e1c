"""What a program did, in the form that both sides are compared in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from tagalong.mte import GRANULE_BYTES
from tests.support import a64
from tests.support.oracle_layout import DATA, PAGE_BYTES, PLAIN, ZVA_BLOCK_BYTES
from tests.support.oracle_program import NZCV_MASK, TCO_BIT, VECTOR_BYTES

PSTATE_MASK = NZCV_MASK | TCO_BIT


class FaultKind(Enum):
    """Why an instruction did not execute."""

    UNDEFINED = "undefined"
    BREAKPOINT = "breakpoint"
    TRANSLATION = "translation"
    PERMISSION = "permission"
    TAG = "tag"
    ALIGNMENT = "alignment"
    UNSUPPORTED = "unsupported"  # our side only: allocated, but not implemented
    OTHER = "other"


MEMORY_FAULTS = {
    FaultKind.TRANSLATION,
    FaultKind.PERMISSION,
    FaultKind.TAG,
    FaultKind.ALIGNMENT,
}


@dataclass(frozen=True)
class Fault:
    """One fault: its kind, the instruction's address, and FAR for those of memory."""

    kind: FaultKind
    pc: int
    address: int = 0
    detail: str = ""

    def __str__(self) -> str:
        address = f" far {self.address:#018x}" if self.kind in MEMORY_FAULTS else ""
        return f"{self.kind.value} at {self.pc:#x}{address} {self.detail}".rstrip()


@dataclass(frozen=True)
class Outcome:
    """State after a program. `tags` has one byte for each granule of DATA."""

    registers: tuple[int, ...]
    sp: int
    pstate: int
    data: bytes
    plain: bytes
    tags: bytes
    faults: tuple[Fault, ...]
    asynchronous: bool
    irg: tuple[int, ...] = field(repr=False)
    vectors: bytes
    fpcr: int
    fpsr: int


def differences(ours: Outcome, oracle: Outcome, word_at: Callable[[int], int]) -> list[str]:
    """Return one line for each thing that differs, the first faults first.

    `word_at` tells which instruction is at a fault's PC. Nothing counts any more after a
    fault that leaves memory or vector registers UNKNOWN.
    """
    unknown = [i for i, f in enumerate(ours.faults) if _may_be_half_done(f, word_at(f.pc))]
    if unknown:
        count = unknown[0] + 1
        return _fault_differences(ours.faults[:count], oracle.faults[:count], word_at)
    lines = _fault_differences(ours.faults, oracle.faults, word_at)
    for number, (mine, theirs) in enumerate(zip(ours.registers, oracle.registers, strict=True)):
        if mine != theirs:
            lines.append(f"x{number}: ours {mine:#018x}, oracle {theirs:#018x}")
    if ours.sp != oracle.sp:
        lines.append(f"sp: ours {ours.sp:#018x}, oracle {oracle.sp:#018x}")
    if (ours.pstate ^ oracle.pstate) & PSTATE_MASK:
        lines.append(f"pstate: ours {ours.pstate:#x}, oracle {oracle.pstate:#x}")
    lines += _vector_differences(ours, oracle)
    lines += _byte_differences("data", DATA, 1, ours.data, oracle.data)
    lines += _byte_differences("plain", PLAIN, 1, ours.plain, oracle.plain)
    lines += _byte_differences("tag", DATA, GRANULE_BYTES, ours.tags, oracle.tags)
    if ours.asynchronous != oracle.asynchronous:
        lines.append(f"TFSR.TF0: ours {ours.asynchronous}, oracle {oracle.asynchronous}")
    if ours.irg != oracle.irg:
        lines.append(f"next IRG tags: ours {ours.irg}, oracle {oracle.irg}")
    return lines


def _fault_differences(
    ours: tuple[Fault, ...], oracle: tuple[Fault, ...], word_at: Callable[[int], int]
) -> list[str]:
    for mine, theirs in zip(ours, oracle, strict=False):
        if (mine.kind, mine.pc) != (theirs.kind, theirs.pc) or (
            mine.kind in MEMORY_FAULTS and not _same_address(mine, theirs, word_at(mine.pc))
        ):
            return [f"fault: ours {mine}; oracle {theirs}"]
    if len(ours) == len(oracle):
        return []
    extra = (ours if len(ours) > len(oracle) else oracle)[min(len(ours), len(oracle))]
    side = "ours" if len(ours) > len(oracle) else "the oracle"
    return [f"fault on {side} only: {extra}"]


# FAR_EL1[63:60] are UNKNOWN after a tag check fault. The oracle's address comes from its
# host for other faults, without the top byte; and its host reports none beyond its own
# address space.
_TAG_FAULT_MASK = (1 << 60) - 1
_ADDRESS_MASK = (1 << 56) - 1
_HOST_ADDRESSES = 1 << 47


def _same_address(ours: Fault, oracle: Fault, word: int) -> bool:
    is_tag_fault = ours.kind is FaultKind.TAG
    mask = _TAG_FAULT_MASK if is_tag_fault else _ADDRESS_MASK
    mine, theirs = ours.address & mask, oracle.address & mask
    if mine == theirs or (not is_tag_fault and mine >= _HOST_ADDRESSES):
        return True
    if word & ~0xFF != a64.sys(a64.DC_ZVA, 0) & ~0xFF:
        return False
    # A DC instruction's FAR is the register argument; after a tag check fault it may be the
    # lowest failing address. QEMU sometimes reports the start of the block.
    block = mine & -ZVA_BLOCK_BYTES
    return theirs == block or (is_tag_fault and theirs & -ZVA_BLOCK_BYTES == block)


def _may_be_half_done(fault: Fault, word: int) -> bool:
    """Tell whether something is UNKNOWN after a fault at the end of a good page.

    That is memory after a store, and the vector registers of a load of several (LDP, LD1 to LD4),
    which QEMU writes one by one.
    """
    is_store = word >> 25 & 0b101 == 0b100 and not word >> 22 & 1
    loads_vectors = word >> 25 & 0b1111 == 0b0110
    at_page = fault.kind in _PAGE_FAULTS and fault.address % PAGE_BYTES == 0
    return at_page and (is_store or loads_vectors)


_PAGE_FAULTS = {FaultKind.TRANSLATION, FaultKind.PERMISSION}


def _vector_differences(ours: Outcome, oracle: Outcome) -> list[str]:
    lines = []
    for number in range(len(ours.vectors) // VECTOR_BYTES):
        lanes = slice(number * VECTOR_BYTES, (number + 1) * VECTOR_BYTES)
        mine, theirs = (int.from_bytes(side.vectors[lanes], "little") for side in (ours, oracle))
        if mine != theirs:
            lines.append(f"v{number}: ours {mine:#034x}, oracle {theirs:#034x}")
    if ours.fpcr != oracle.fpcr:
        lines.append(f"fpcr: ours {ours.fpcr:#x}, oracle {oracle.fpcr:#x}")
    if ours.fpsr != oracle.fpsr:
        lines.append(f"fpsr: ours {ours.fpsr:#x}, oracle {oracle.fpsr:#x}")
    return lines


def _byte_differences(name: str, base: int, unit: int, ours: bytes, oracle: bytes) -> list[str]:
    if ours == oracle:
        return []
    at = [i for i, (mine, theirs) in enumerate(zip(ours, oracle, strict=True)) if mine != theirs]
    first = at[0]
    return [
        f"{name} at {base + first * unit:#x} ({len(at)} differ): "
        f"ours {ours[first]:#x}, oracle {oracle[first]:#x}"
    ]
