"""Which accesses are checked: the architecture's conditions, in one pure function.

The embedded machine decides the same in C; this is its readable definition, for people and
for tests. Source: Arm ARM (DDI 0487) J1, AArch64.AccessIsTagChecked, EffectiveTBI,
EffectiveTCMA and AArch64.AllocationTagAccessIsEnabled, for EL1 and EL0 without EL2.
"""

from dataclasses import dataclass

from tagalong.errors import UsageError
from tagalong.mte import TAG_MASK
from tagalong.mte.pointers import SELECT_BIT, logical_tag
from tagalong.mte.registers import Pstate, Sctlr, TagCheckMode, Tcr


@dataclass(frozen=True)
class Access:
    """One load or store, as far as its tag check goes."""

    pointer: int
    """With its logical tag, after any address arithmetic."""
    tagged_memory: bool = True
    """The page has the memory attribute Normal Tagged."""
    sp_immediate: bool = False
    """The address is [SP] or [SP, #imm] without write-back: the compiler vouches for it."""


def tag_check_mode(access: Access, *, sctlr: Sctlr, tcr: Tcr, pstate: Pstate) -> TagCheckMode:
    """Return what happens if the logical tag of `access` is not its granule's tag.

    NONE if the access is not checked, for whatever reason. Raises UsageError for an
    exception level other than 0 and 1, and for a pointer that is not 64 bits.

    >>> checking = Sctlr(ata=True, tcf=TagCheckMode.SYNC)
    >>> access = Access(pointer=0x0A00_0000_4000_0000)
    >>> tag_check_mode(access, sctlr=checking, tcr=Tcr(tbi0=True), pstate=Pstate(el=1)).name
    'SYNC'
    >>> tag_check_mode(access, sctlr=checking, tcr=Tcr(), pstate=Pstate(el=1)).name
    'NONE'
    """
    if pstate.el > 1:
        raise UsageError(f"tag checks at EL{pstate.el} are not known here, only at EL0 and EL1")
    enabled, mode = (sctlr.ata, sctlr.tcf) if pstate.el else (sctlr.ata0, sctlr.tcf0)
    exempt = (
        not enabled
        or pstate.tco
        or access.sp_immediate
        or not access.tagged_memory
        or _pointer_is_exempt(access.pointer, tcr)
    )
    return TagCheckMode.NONE if exempt else mode


def _pointer_is_exempt(pointer: int, tcr: Tcr) -> bool:
    tag = logical_tag(pointer)
    if pointer >> SELECT_BIT & 1:
        return not tcr.tbi1 or (tcr.tcma1 and tag == TAG_MASK)
    return not tcr.tbi0 or (tcr.tcma0 and tag == 0)
