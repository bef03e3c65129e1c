"""Which accesses are checked: each condition of the architecture alone turns the check off."""

import pytest

from tagalong.errors import UsageError
from tagalong.mte.checks import Access, tag_check_mode
from tagalong.mte.registers import Pstate, Sctlr, TagCheckMode, Tcr

LOWER = 0x0A00_0000_4000_0000
UPPER = 0x0AFF_0000_4000_0000
TAG_0_LOWER = 0x0000_0000_4000_0000
TAG_F_LOWER = 0x0F00_0000_4000_0000
TAG_0_UPPER = 0xF0FF_0000_4000_0000
TAG_F_UPPER = 0xFFFF_0000_4000_0000

ON = Sctlr(ata=True, tcf=TagCheckMode.SYNC)
TBI = Tcr(tbi0=True, tbi1=True)
TCMA = Tcr(tbi0=True, tbi1=True, tcma0=True, tcma1=True)
EL1 = Pstate(el=1)


@pytest.mark.parametrize("pointer", [LOWER, UPPER, TAG_0_LOWER, TAG_F_UPPER])
@pytest.mark.parametrize("mode", TagCheckMode)
def test_access_with_everything_enabled_is_checked_in_the_mode_of_tcf(
    pointer: int, mode: TagCheckMode
) -> None:
    sctlr = Sctlr(ata=True, tcf=mode)

    assert tag_check_mode(Access(pointer), sctlr=sctlr, tcr=TBI, pstate=EL1) is mode


@pytest.mark.parametrize(
    ("access", "sctlr", "tcr", "pstate"),
    [
        pytest.param(Access(LOWER), Sctlr(tcf=TagCheckMode.SYNC), TBI, EL1, id="ATA clear"),
        pytest.param(Access(LOWER), ON, Tcr(tbi1=True), EL1, id="TBI0 clear"),
        pytest.param(Access(UPPER), ON, Tcr(tbi0=True), EL1, id="TBI1 clear"),
        pytest.param(Access(LOWER), ON, TBI, Pstate(el=1, tco=True), id="TCO set"),
        pytest.param(Access(LOWER, tagged_memory=False), ON, TBI, EL1, id="not Tagged"),
        pytest.param(Access(LOWER, sp_immediate=True), ON, TBI, EL1, id="SP+imm"),
        pytest.param(Access(TAG_0_LOWER), ON, TCMA, EL1, id="TCMA0 and tag 0"),
        pytest.param(Access(TAG_F_UPPER), ON, TCMA, EL1, id="TCMA1 and tag f"),
        pytest.param(Access(LOWER), ON, TBI, Pstate(el=0), id="EL0 with ATA0 clear"),
    ],
)
def test_access_with_one_condition_missing_is_not_checked(
    access: Access, sctlr: Sctlr, tcr: Tcr, pstate: Pstate
) -> None:
    assert tag_check_mode(access, sctlr=sctlr, tcr=tcr, pstate=pstate) is TagCheckMode.NONE


@pytest.mark.parametrize("pointer", [LOWER, UPPER, TAG_F_LOWER, TAG_0_UPPER])
def test_access_with_tcma_and_another_tag_is_checked(pointer: int) -> None:
    mode = tag_check_mode(Access(pointer), sctlr=ON, tcr=TCMA, pstate=EL1)

    assert mode is TagCheckMode.SYNC


def test_access_at_el0_uses_ata0_and_tcf0() -> None:
    sctlr = Sctlr(ata0=True, tcf0=TagCheckMode.ASYNC, ata=False, tcf=TagCheckMode.SYNC)

    mode = tag_check_mode(Access(LOWER), sctlr=sctlr, tcr=TBI, pstate=Pstate(el=0))

    assert mode is TagCheckMode.ASYNC


def test_access_at_el2_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^tag checks at EL2 are not known here"):
        tag_check_mode(Access(LOWER), sctlr=ON, tcr=TBI, pstate=Pstate(el=2))
