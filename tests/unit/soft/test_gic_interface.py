"""The GIC's CPU interface: what its registers hold, and where they are.

Source: Arm IHI 0069 12.2; Linux arch/arm64/kvm/hyp/vgic-v3-sr.c.
"""

import pytest

from tagalong.machine import register_ids
from tests.support.gic_guest import (
    AP0R0,
    AP1R0,
    AP1R1,
    BPR0,
    BPR1,
    CTLR,
    DIR,
    EL0_MASKED,
    EOIR0,
    EOIR1,
    HPPIR0,
    HPPIR1,
    IAR0,
    IAR1,
    IGRPEN0,
    IGRPEN1,
    PMR,
    RPR,
    SGI0R,
    SGI1R,
    SRE,
    Encoding,
    UndefinedInstructionError,
    gic_guest,
)

PFR0 = (3, 0, 0, 4, 0)
UNDEFINED = 0x0200_0000
READABLE = (PMR, IAR0, HPPIR0, BPR0, AP0R0, AP1R0, RPR, IAR1, HPPIR1, BPR1, CTLR, SRE)
WRITABLE = (PMR, EOIR0, BPR0, AP0R0, AP1R0, DIR, SGI0R, SGI1R, EOIR1, BPR1, CTLR, SRE, IGRPEN1)


def test_registers_after_reset() -> None:
    with gic_guest() as guest:
        for register, expected in (
            (PMR, 0),
            (BPR0, 2),
            (BPR1, 3),
            (CTLR, 0x8400),  # 5 bits of priority, 16 of INTIDs, Aff3
            (SRE, 7),
            (IGRPEN0, 0),
            (IGRPEN1, 0),
            (AP0R0, 0),
            (AP1R0, 0),
            (RPR, 0xFF),
            (IAR0, 1023),
            (IAR1, 1023),
            (HPPIR0, 1023),
            (HPPIR1, 1023),
        ):
            assert guest.mrs(register) == expected, register


@pytest.mark.parametrize(
    ("register", "written", "read"),
    [
        (PMR, 0xFF, 0xF8),
        (PMR, 0x1F7, 0xF0),
        (BPR0, 0, 2),
        (BPR0, 5, 5),
        (BPR0, 7, 7),
        (BPR1, 0, 3),
        (BPR1, 7, 7),
        (CTLR, 0xFFFF_FFFF, 0x8403),
        (SRE, 0, 7),
        (IGRPEN0, 3, 1),
        (IGRPEN1, 3, 1),
        (AP0R0, 0x8000_0001, 0x8000_0001),
        (AP1R0, 0x0001_0000, 0x0001_0000),
    ],
)
def test_register_holds_what_it_implements(register: Encoding, written: int, read: int) -> None:
    with gic_guest() as guest:
        guest.msr(register, written)

        assert guest.mrs(register) == read


def test_common_binary_point_shows_group_0_s_in_group_1_s_register() -> None:
    with gic_guest() as guest:
        guest.msr(BPR1, 6)
        guest.msr(BPR0, 4)
        guest.msr(CTLR, 1)
        common = guest.mrs(BPR1)
        guest.msr(BPR1, 7)  # is ignored
        guest.msr(BPR0, 7)
        most = guest.mrs(BPR1)
        guest.msr(CTLR, 0)

        assert (common, most, guest.mrs(BPR1)) == (5, 7, 6)


def test_running_priority_is_the_highest_active_one_of_both_groups() -> None:
    with gic_guest() as guest:
        guest.msr(AP1R0, 1 << 20)
        lower = guest.mrs(RPR)
        guest.msr(AP0R0, 1 << 4)

        assert (lower, guest.mrs(RPR)) == (20 << 3, 4 << 3)


def test_registers_for_priorities_that_are_not_there_are_undefined() -> None:
    with gic_guest() as guest, pytest.raises(UndefinedInstructionError) as raised:
        guest.mrs(AP1R1)

    assert raised.value.esr == UNDEFINED


@pytest.mark.parametrize("register", [EOIR1, DIR, SGI1R])
def test_registers_that_can_only_be_written_are_undefined_to_read(register: Encoding) -> None:
    with gic_guest() as guest, pytest.raises(UndefinedInstructionError):
        guest.mrs(register)


@pytest.mark.parametrize("register", [IAR1, HPPIR1, RPR])
def test_registers_that_can_only_be_read_are_undefined_to_write(register: Encoding) -> None:
    with gic_guest() as guest, pytest.raises(UndefinedInstructionError):
        guest.msr(register, 0)


def test_registers_are_undefined_at_el0() -> None:
    with gic_guest() as guest:
        for register in READABLE:
            guest.set(register_ids.PSTATE, EL0_MASKED)
            with pytest.raises(UndefinedInstructionError):
                guest.mrs(register)


def test_machine_without_gic_has_none_of_its_registers_and_says_so() -> None:
    with gic_guest(gic=False) as guest:
        assert guest.mrs(PFR0) >> 24 & 0xF == 0
        for register in READABLE:
            with pytest.raises(UndefinedInstructionError):
                guest.mrs(register)
        for register in WRITABLE:
            with pytest.raises(UndefinedInstructionError):
                guest.msr(register, 0)


def test_machine_with_gic_says_so() -> None:
    with gic_guest() as guest:
        assert guest.mrs(PFR0) >> 24 & 0xF == 1
