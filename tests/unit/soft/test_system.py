"""System instructions where EL0, Device memory and permissions make a difference."""

import pytest

from tagalong.machine import register_ids
from tagalong.memory import Gpa
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import SoftMachine
from tests.support import a64, bare

DC_ZVA, DC_GVA = (1, 3, 7, 4, 1), (1, 3, 7, 4, 3)
DC_IVAC, DC_CVAC = (1, 0, 7, 6, 1), (1, 3, 7, 10, 1)
DC_CVAP, DC_CVADP, ID_AA64ISAR1_EL1 = (1, 3, 7, 12, 1), (1, 3, 7, 13, 1), (3, 0, 0, 6, 1)
CTR_EL0, CNTVCT_EL0, CURRENT_EL = (3, 3, 0, 0, 1), (3, 3, 14, 0, 2), (3, 0, 4, 2, 2)
EL0_BLOCK = 0x40000000 | 1 << 10 | 3 << 8 | 1 << 6 | 1
READ_ONLY_BLOCK = 0x40000000 | 1 << 10 | 3 << 8 | 1 << 7 | 1
EL0T = 0x3C0
UNDEFINED, TRAPPED = 0x00, 0x18


def exception_class(machine: SoftMachine) -> int:
    return bare.get(machine, register_ids.ESR_EL1) >> 26


def machine_at_el0(words: list[int], *, sctlr_bits: int = 0) -> SoftMachine:
    machine = bare.machine_with(words)
    machine.memory.write(Gpa(bare.TABLES + 8), EL0_BLOCK.to_bytes(8, "little"))
    machine.vcpus[0].set_register(register_ids.PSTATE, EL0T)
    machine.vcpus[0].set_register(
        register_ids.SCTLR_EL1, bare.sctlr(TagCheckMode.SYNC) | sctlr_bits
    )
    return machine


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (a64.mrs(0, CURRENT_EL), UNDEFINED),
        (a64.mrs(0, a64.SCTLR_EL1), UNDEFINED),
        (a64.msr(a64.TTBR0_EL1, 0), UNDEFINED),
        (a64.mrs(0, CTR_EL0), TRAPPED),
        (a64.mrs(0, CNTVCT_EL0), TRAPPED),
        (a64.msr_imm(3, 6, 2), TRAPPED),  # MSR DAIFSet
        (a64.sys(DC_ZVA, 1), TRAPPED),
        (a64.sys(DC_CVAC, 1), TRAPPED),
        (a64.sys(DC_IVAC, 1), UNDEFINED),
        (a64.ldgm(0, 1), UNDEFINED),
        (a64.stgm(0, 1), UNDEFINED),
        (a64.stzgm(0, 1), UNDEFINED),
        (a64.hvc(), UNDEFINED),
        (a64.eret(), UNDEFINED),
        (a64.msr_imm(0, 4, 1), UNDEFINED),  # MSR PAN
    ],
)
def test_el0_what_is_not_its_own_is_refused_as_the_manual_says(word: int, expected: int) -> None:
    machine = machine_at_el0([word])

    machine.vcpus[0].step(1)

    assert bare.get(machine, register_ids.PC) == bare.VECTORS + 0x400
    assert exception_class(machine) == expected
    machine.close()


@pytest.mark.parametrize(("dze", "expected"), [(0, 0x17), (1, 0x07)])
def test_dczid_at_el0_says_whether_dc_zva_is_allowed(dze: int, expected: int) -> None:
    machine = machine_at_el0([a64.mrs(0, a64.DCZID_EL0)], sctlr_bits=dze << 14)

    machine.vcpus[0].step(1)

    assert bare.get_x(machine, 0) == expected
    machine.close()


@pytest.mark.parametrize("operation", [DC_ZVA, DC_GVA])
def test_dc_zva_on_device_memory_is_an_alignment_fault(
    operation: tuple[int, int, int, int, int],
) -> None:
    machine = bare.machine_with([a64.sys(operation, 1)])
    sctlr = bare.sctlr(TagCheckMode.SYNC) & ~1  # without the MMU all data is Device
    machine.vcpus[0].set_register(register_ids.SCTLR_EL1, sctlr)
    bare.set_x(machine, {1: bare.DATA + 48})

    machine.vcpus[0].step(1)

    assert bare.get(machine, register_ids.ESR_EL1) == 0x96000061
    assert bare.get(machine, register_ids.FAR_EL1) == bare.DATA + 48
    machine.close()


@pytest.mark.parametrize(("operation", "esr"), [(DC_IVAC, 0x9600014D), (DC_CVAC, None)])
def test_dc_by_address_on_read_only_memory_only_invalidation_faults(
    operation: tuple[int, int, int, int, int], esr: int | None
) -> None:
    machine = bare.machine_with([a64.sys(operation, 1)])
    machine.memory.write(Gpa(bare.TABLES + 8), READ_ONLY_BLOCK.to_bytes(8, "little"))
    bare.set_x(machine, {1: bare.DATA})

    machine.vcpus[0].step(1)

    faulted = bare.get(machine, register_ids.PC) == bare.CURRENT_EL_VECTOR
    assert faulted == (esr is not None)
    assert not faulted or bare.get(machine, register_ids.ESR_EL1) == esr
    machine.close()


@pytest.mark.parametrize(
    ("access", "esr"), [(a64.ldr(0, 2), 0x96000004), (a64.str_(0, 2), 0x96000044)]
)
def test_address_with_a_top_byte_that_is_not_ignored_is_no_other_one_s(
    access: int, esr: int
) -> None:
    machine = bare.machine_with([a64.ldr(0, 1), a64.str_(0, 1), access], mode=TagCheckMode.NONE)
    machine.vcpus[0].set_register(register_ids.TCR_EL1, bare.TCR & ~(1 << 37))  # TBI0
    bare.set_x(machine, {1: bare.DATA, 2: bare.tagged(bare.DATA, 5)})

    machine.vcpus[0].step(3)

    assert bare.get(machine, register_ids.PC) == bare.CURRENT_EL_VECTOR
    assert bare.get(machine, register_ids.ESR_EL1) == esr
    assert bare.get(machine, register_ids.FAR_EL1) == bare.tagged(bare.DATA, 5)
    machine.close()


UCI = 1 << 26
NOWHERE = 1 << 31
FAULT_OF_MAINTENANCE = 0x92000145  # from EL0: CM, WnR, translation fault at level 1


@pytest.mark.parametrize("operation", [DC_CVAP, DC_CVADP])
def test_dc_to_persistence_is_there_as_the_id_register_says(
    operation: tuple[int, int, int, int, int],
) -> None:
    clean = [a64.sys(operation, 1), a64.sys(operation, 2)]
    allowed, trapped = machine_at_el0(clean, sctlr_bits=UCI), machine_at_el0(clean)
    claims = bare.machine_with([a64.mrs(0, ID_AA64ISAR1_EL1)])
    for machine in (allowed, trapped):
        bare.set_x(machine, {1: bare.DATA, 2: NOWHERE})

    claims.vcpus[0].step(1)
    allowed.vcpus[0].step(2)
    trapped.vcpus[0].step(1)

    assert bare.get_x(claims, 0) & 0xF == 2  # DPB: DC CVAP and DC CVADP
    assert bare.get(allowed, register_ids.ESR_EL1) == FAULT_OF_MAINTENANCE
    assert bare.get(allowed, register_ids.FAR_EL1) == NOWHERE
    assert exception_class(trapped) == TRAPPED
    for machine in (allowed, trapped, claims):
        machine.close()


def test_code_that_changes_is_executed_as_it_is_now() -> None:
    new = a64.movz(0, 2)
    machine = bare.machine_with(
        [
            a64.movz(0, 1),
            a64.ldst(a64.STR_W, 1, 2),
            a64.b(-8),
        ]
    )
    bare.set_x(machine, {1: new, 2: bare.CODE})

    machine.vcpus[0].step(1)
    before = bare.get_x(machine, 0)
    machine.vcpus[0].step(3)

    assert (before, bare.get_x(machine, 0)) == (1, 2)
    machine.close()


def test_counter_goes_with_the_instructions_and_with_the_state() -> None:
    words = [a64.mrs(0, CNTVCT_EL0)] + [a64.hint(0)] * 9 + [a64.mrs(1, CNTVCT_EL0)]
    first, second = bare.machine_with(words), bare.machine_with(words)

    first.vcpus[0].step(5)
    second.load_state(first.save_state())
    second.vcpus[0].step(6)

    assert bare.get_x(second, 1) - bare.get_x(second, 0) == 10
    first.close()
    second.close()
