"""The debug registers themselves (DDI 0487 D23.3, H9.2), and as part of a state."""

import pytest

from tagalong.errors import StateError
from tagalong.machine import MachineState, VcpuState, register_ids
from tests.support import a64, bare
from tests.support.debugged import (
    AT_BOTH,
    AT_EL1,
    EL0,
    EL1,
    ENABLE,
    ISS,
    KDE,
    MDCCINT,
    MDE,
    MDSCR,
    NOP,
    OSLSR,
    STORE,
    TDCC,
    bcr,
    bvr,
    elr,
    every_byte,
    machine,
    syndrome,
    wcr,
    wvr,
)


def test_debug_registers_read_and_write_as_the_cpu_claims() -> None:
    ones = (1 << 64) - 1
    for number, mask in (
        *(((2, 0, 0, n, 4), ones) for n in range(6)),
        *(((2, 0, 0, n, 5), 0x00FF_E1E7) for n in range(6)),
        *(((2, 0, 0, n, 6), ones) for n in range(4)),
        *(((2, 0, 0, n, 7), 0x1F1F_FFFF) for n in range(4)),
        ((2, 0, 0, 2, 0), 3 << 29),
        ((2, 0, 0, 0, 2), 0),
        ((2, 0, 0, 3, 2), 0),
        ((2, 0, 0, 6, 2), 0),
        ((2, 0, 1, 3, 4), 0),
        ((2, 0, 1, 4, 4), 0),
        ((2, 3, 0, 4, 0), 0),
        ((2, 3, 0, 5, 0), 0),
    ):
        words = [a64.movn(0, 0), a64.msr(number, 0), a64.mrs(1, number)]
        with machine(words, {}, pstate=EL1) as target:
            target.vcpus[0].step(3)

            assert bare.get(target, register_ids.PC) == bare.CODE + 12, number
            assert bare.get_x(target, 1) == mask, number


def test_id_register_claims_what_is_there_and_no_more() -> None:
    words = [a64.mrs(0, (3, 0, 0, 5, 0)), a64.mrs(1, (2, 0, 0, 6, 4))]
    with machine(words, {}, pstate=EL1) as target:
        target.vcpus[0].step(2)

        dfr0 = bare.get_x(target, 0)
        assert (dfr0 & 0xF, dfr0 >> 12 & 0xF, dfr0 >> 20 & 0xF, dfr0 >> 28 & 0xF) == (6, 5, 3, 1)
        assert bare.get(target, register_ids.ESR_EL1) == 0x0200_0000  # DBGBVR6_EL1 is not there


PMU = {
    "PMCR_EL0": (3, 3, 9, 12, 0),
    "PMCNTENSET_EL0": (3, 3, 9, 12, 1),
    "PMSELR_EL0": (3, 3, 9, 12, 5),
    "PMCCNTR_EL0": (3, 3, 9, 13, 0),
    "PMUSERENR_EL0": (3, 3, 9, 14, 0),
    "PMINTENSET_EL1": (3, 0, 9, 14, 1),
    "PMEVCNTR0_EL0": (3, 3, 14, 8, 0),
    "PMCCFILTR_EL0": (3, 3, 14, 15, 7),
}


@pytest.mark.parametrize("register", PMU)
def test_performance_monitors_are_not_there_and_the_id_register_says_so(register: str) -> None:
    words = [a64.mrs(0, (3, 0, 0, 5, 0)), a64.mrs(1, PMU[register])]
    with machine(words, {}, pstate=EL1) as target:
        target.vcpus[0].step(2)

        assert bare.get_x(target, 0) >> 8 & 0xF == 0  # PMUVer
        assert bare.get(target, register_ids.ESR_EL1) == 0x0200_0000


def test_os_lock_locks_by_oslar_and_reads_in_oslsr() -> None:
    oslar, oslsr = (2, 0, 1, 0, 4), (2, 0, 1, 1, 4)
    words = [
        a64.mrs(0, oslsr),
        a64.movz(9, 1),
        a64.msr(oslar, 9),
        a64.mrs(1, oslsr),
        a64.msr(oslar, a64.ZR),
        a64.mrs(2, oslsr),
        a64.msr(oslsr, 9),
    ]
    with machine(words, {}, pstate=EL1) as target:
        target.vcpus[0].step(6)
        state = target.vcpus[0].save()
        target.vcpus[0].step(1)

        assert [bare.get_x(target, number) for number in range(3)] == [8, 0xA, 8]
        assert state.registers[OSLSR] == 8
        assert bare.get(target, register_ids.ESR_EL1) == 0x0200_0000  # it is read-only


def test_claim_tags_are_set_and_cleared_a_bit_at_a_time() -> None:
    claim_set, claim_clear = (2, 0, 7, 8, 6), (2, 0, 7, 9, 6)
    words = [
        a64.movz(9, 0x1F5),
        a64.msr(claim_set, 9),
        a64.movz(9, 0x0F0),
        a64.msr(claim_clear, 9),
        a64.mrs(0, claim_set),
        a64.mrs(1, claim_clear),
    ]
    with machine(words, {}, pstate=EL1) as target:
        target.vcpus[0].step(6)

        assert (bare.get_x(target, 0), bare.get_x(target, 1)) == (0xFF, 0x05)


@pytest.mark.parametrize(("mdscr", "exception"), [(0, None), (TDCC, 0x18)])
def test_debug_channel_at_el0_is_trapped_if_el1_says_so(mdscr: int, exception: int | None) -> None:
    with machine([a64.mrs(0, (2, 3, 0, 1, 0))], {MDSCR: mdscr}, pstate=EL0) as target:
        target.vcpus[0].step(1)

        if exception is None:
            assert bare.get(target, register_ids.PC) == bare.CODE + 4
        else:
            assert syndrome(target)[0] == exception


def test_debug_registers_at_el0_are_undefined() -> None:
    for word in (a64.mrs(0, (2, 0, 0, 2, 2)), a64.msr((2, 0, 0, 0, 5), 0)):
        with machine([word], {}, pstate=EL0) as target:
            target.vcpus[0].step(1)

            assert syndrome(target)[0] == 0


def test_debug_state_moves_and_stays_in_effect() -> None:
    registers = {
        bvr(0): bare.CODE + 8,
        bcr(0): ENABLE | AT_BOTH | 0xF << 5,
        wvr(3): bare.DATA,
        wcr(3): ENABLE | AT_EL1 | STORE | every_byte(),
        MDSCR: MDE | KDE,
        MDCCINT: 1 << 30,
    }
    with (
        machine([NOP] * 8, registers) as source,
        machine([NOP] * 8, {}, pstate=EL1) as destination,
    ):
        destination.load_state(source.save_state())
        destination.vcpus[0].step(6)

        assert source.vcpus[0].save().registers[wcr(3)] == registers[wcr(3)]
        assert syndrome(destination) == (0x31, ISS)
        assert elr(destination) == bare.CODE + 8


def test_state_of_the_first_version_is_loaded_and_keeps_its_identity() -> None:
    with machine([a64.mrs(0, (3, 0, 0, 5, 0))], {}, pstate=EL1) as target:
        state = target.save_state()
        old = {**state.vcpus[0].registers, register_ids.ID_AA64DFR0_EL1: 6}
        target.load_state(MachineState((VcpuState(old, state.vcpus[0].power),), state.devices))
        target.vcpus[0].step(1)

        assert bare.get_x(target, 0) == 6
        assert target.save_state().vcpus[0].registers[register_ids.ID_AA64DFR0_EL1] == 6


def test_state_that_claims_other_debug_registers_is_rejected_by_name() -> None:
    with machine([NOP], {}, pstate=EL1) as target:
        state = target.save_state()
        other = {**state.vcpus[0].registers, register_ids.ID_AA64DFR0_EL1: 0x1030_5007}
        foreign = MachineState((VcpuState(other, state.vcpus[0].power),), state.devices)

        with pytest.raises(StateError, match="is another CPU: ID_AA64DFR0_EL1 is 0x10305007 there"):
            target.load_state(foreign)

        assert target.save_state() == state
