"""Registers of one CPU on another: what moves, what is dropped, what is refused by name."""

import pytest

from tagalong.errors import StateError
from tagalong.machine import RegisterId, register_ids
from tagalong.machine.cpu_match import (
    STRICT,
    CpuPolicy,
    accept_differences,
    differing_identification,
    is_identification,
    is_unused,
    match_registers,
)

ESSENTIAL = {
    **{register_ids.core(number): number for number in range(37)},
    register_ids.SCTLR_EL1: 0x30D0_0800,
    register_ids.GCR_EL1: 0x1_0001,
}
PIR = register_ids.sysreg(3, 0, 10, 2, 3)
TIMER_CONTROL = register_ids.sysreg(3, 3, 14, 3, 1)
ISAR0 = register_ids.sysreg(3, 0, 0, 6, 0)
FIRMWARE = RegisterId(0x6030_0000_0014_0000)
CACHE = RegisterId(0x6020_0000_0011_0001)
V0 = RegisterId(0x6040_0000_0010_0054)
NEVER_WRITTEN = 0x1DE7_EC7E_DBAD_C0DE


def test_match_registers_both_have_moves() -> None:
    wanted = match_registers({**ESSENTIAL, PIR: 5}, {**ESSENTIAL, PIR: 0}, who="vCPU 0")

    assert wanted == {**ESSENTIAL, PIR: 5}


def test_match_registers_only_the_destination_has_keeps_its_reset_value() -> None:
    wanted = match_registers(ESSENTIAL, {**ESSENTIAL, PIR: 9}, who="vCPU 0")

    assert wanted[PIR] == 9


def test_match_registers_unknown_and_used_is_refused_by_name_and_value() -> None:
    given = {**ESSENTIAL, PIR: 5, V0: 1 << 100}

    with pytest.raises(StateError) as caught:
        match_registers(given, ESSENTIAL, who="vCPU 3")

    assert str(caught.value) == (f"vCPU 3 lacks S3_0_C10_C2_3 = 0x5, v0 = {1 << 100:#x}")


@pytest.mark.parametrize("value", [0, NEVER_WRITTEN])
def test_match_registers_unknown_and_unused_is_left_out(value: int) -> None:
    assert match_registers({**ESSENTIAL, PIR: value}, ESSENTIAL, who="vCPU 0") == ESSENTIAL


def test_match_registers_never_written_there_keeps_its_reset_value_here() -> None:
    given = {**ESSENTIAL, register_ids.GCR_EL1: NEVER_WRITTEN}

    assert match_registers(given, ESSENTIAL, who="vCPU 0") == ESSENTIAL


def test_match_registers_without_essential_ones_is_refused_by_name() -> None:
    given = {r: v for r, v in ESSENTIAL.items() if r not in {PC, register_ids.GCR_EL1}}

    with pytest.raises(StateError, match=r"^vCPU 0 needs PC, GCR_EL1, which the state lacks$"):
        match_registers(given, ESSENTIAL, who="vCPU 0")


def test_match_registers_identification_is_not_among_them() -> None:
    given = {**ESSENTIAL, ISAR0: 1, FIRMWARE: 2, CACHE: 3}

    assert match_registers(given, {**ESSENTIAL, ISAR0: 7}, who="vCPU 0") == ESSENTIAL


PC = register_ids.PC


@pytest.mark.parametrize(
    ("register", "expected"),
    [
        (ISAR0, True),
        (FIRMWARE, True),
        (CACHE, True),
        (register_ids.sysreg(3, 1, 0, 0, 4), True),  # GMID_EL1
        (register_ids.sysreg(3, 3, 0, 0, 7), True),  # DCZID_EL0
        (register_ids.MPIDR_EL1, False),
        (register_ids.sysreg(3, 2, 0, 0, 0), False),  # CSSELR_EL1 is state
        (register_ids.sysreg(2, 0, 0, 0, 4), False),  # DBGBVR0_EL1
        (register_ids.PC, False),
        (register_ids.SCTLR_EL1, False),
    ],
)
def test_is_identification_is_what_the_cpu_says_of_itself(
    register: RegisterId, expected: bool
) -> None:
    assert is_identification(register) is expected


@pytest.mark.parametrize(
    ("register", "value", "expected"),
    [
        (PIR, 0, True),
        (PIR, 1, False),
        (TIMER_CONTROL, 4, True),
        (TIMER_CONTROL, 5, False),
        (register_ids.TIMER_COUNT, 12345, True),
        (register_ids.sysreg(2, 0, 1, 1, 4), 8, True),
        (register_ids.sysreg(2, 0, 1, 1, 4), 10, False),
    ],
)
def test_is_unused_knows_what_nobody_touched(
    register: RegisterId, value: int, expected: bool
) -> None:
    assert is_unused(register, value) is expected


def test_differing_identification_zero_equals_absent() -> None:
    given, own = {ISAR0: 1, FIRMWARE: 0}, {ISAR0: 2, CACHE: 0}

    assert differing_identification(given, own) == [ISAR0]


@pytest.mark.parametrize(
    ("given", "differs"),
    [({}, False), ({register_ids.CNTFRQ_EL0: 1}, False), ({register_ids.CNTFRQ_EL0: 2}, True)],
)
def test_differing_identification_counter_frequency_that_is_not_said_is_no_difference(
    given: dict[RegisterId, int], differs: bool
) -> None:
    found = differing_identification(given, {register_ids.CNTFRQ_EL0: 1})

    assert found == [register_ids.CNTFRQ_EL0] * differs


def test_accept_differences_strict_refuses_all_by_name() -> None:
    with pytest.raises(StateError) as caught:
        accept_differences([CACHE, ISAR0], {ISAR0: 1}, {CACHE: 2}, STRICT, who="vCPU 1")

    assert str(caught.value) == (
        "vCPU 1 is another CPU: cache size 0x1 is absent there and 0x2 here, "
        "ID_AA64ISAR0_EL1 is 0x1 there and absent here; accept it with --allow-cpu-mismatch"
    )


def test_accept_differences_allowed_tells_each() -> None:
    told: list[str] = []

    accept_differences([ISAR0], {ISAR0: 1}, {ISAR0: 2}, CpuPolicy(True, told.append), who="vCPU 0")

    assert told == ["vCPU 0: ID_AA64ISAR0_EL1 is 0x1 there and 0x2 here"]
