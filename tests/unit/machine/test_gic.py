"""Tests the form of a GIC: what its description may be, and what its state must have."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest

from tagalong.errors import UsageError
from tagalong.machine import (
    DEFAULT_CONSOLE,
    DeviceDescription,
    GicDescription,
    GicState,
    MachineDescription,
    RegionDescription,
    register_ids,
)
from tagalong.machine.gic import (
    MAX_SPIS,
    REDISTRIBUTOR,
    Icc,
    cpu_interface_registers,
    distributor_registers,
    gic_objections,
    priority_bits,
)
from tagalong.wire import GicEntry, limits
from tests.support.format_document import FormatDocument
from tests.support.gic_state import GIC, gic_state

_RAM = (RegionDescription(0x4000_0000, 0x10000),)


def described(*devices: DeviceDescription, vcpus: int = 1, **changes: Any) -> MachineDescription:
    return MachineDescription(4096, vcpus, 3, _RAM, devices, replace(GIC, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distributor": 0x800_8000}, "the GIC has its distributor at 0x8008000: give a multiple"),
        ({"redistributors": 1 << 52}, "the GIC has its redistributors at 0x10000000000000"),
        ({"redistributors": -0x10000}, "the GIC has its redistributors at -0x10000"),
        ({"spi_count": 0}, "a GIC with 0 SPIs: give a multiple of 32 from 32 to 960"),
        ({"spi_count": 33}, "a GIC with 33 SPIs"),
        ({"spi_count": 992}, "a GIC with 992 SPIs"),
    ],
)
def test_gic_description_that_cannot_be_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(GIC, **changes)


def test_gic_windows_are_the_frames_of_the_manual() -> None:
    assert GIC.windows(3) == {
        "distributor": range(0x0800_0000, 0x0801_0000),
        "redistributors": range(0x080A_0000, 0x0810_0000),
    }


def test_machine_description_with_a_frame_over_ram_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        described(distributor=0x4000_0000)

    assert str(caught.value) == (
        "the GIC's distributor, at 0x40000000, and guest RAM at 0x40000000 overlap"
    )


def test_machine_description_whose_last_redistributor_meets_a_device_is_refused() -> None:
    described(DEFAULT_CONSOLE, vcpus=4, redistributors=0x08F8_0000)

    with pytest.raises(UsageError, match="redistributors, at 0x8f80000, and device 'pl011' over"):
        described(DEFAULT_CONSOLE, vcpus=5, redistributors=0x08F8_0000)


def test_machine_description_with_overlapping_frames_is_refused() -> None:
    with pytest.raises(UsageError, match="distributor, at 0x8000000, and the GIC's redistributors"):
        described(redistributors=0x0800_0000)


@pytest.mark.parametrize("intid", [16, 32 + 96, 1019])
def test_machine_description_with_an_interrupt_that_the_gic_lacks_is_refused(intid: int) -> None:
    disk = DeviceDescription("disk0", "test", 0x0A00_0000, 0x200, intid)

    with pytest.raises(UsageError) as caught:
        described(disk)

    assert str(caught.value) == (
        f"device 'disk0' has the interrupt {intid}: the machine's GIC has 32 to 127"
    )


def test_register_groups_do_not_share_an_offset() -> None:
    for groups in (distributor_registers(960), REDISTRIBUTOR):
        offsets = list(chain.from_iterable(group.offsets for group in groups))

        assert len(set(offsets)) == len(offsets)


def test_register_groups_begin_and_end_where_the_manual_says() -> None:
    ends = {
        group.name: (group.offsets[0], group.offsets[-1]) for group in distributor_registers(960)
    }

    # Arm IHI 0069, 12.8: offset of register n; the last INTID here is 991.
    assert ends == {
        "GICD_IIDR": (0x0008, 0x0008),
        "GICD_CTLR": (0x0000, 0x0000),
        "GICD_IGROUPR": (0x0084, 0x0080 + 4 * (991 // 32)),
        "GICD_ISENABLER": (0x0104, 0x0100 + 4 * (991 // 32)),
        "GICD_IROUTER": (0x6100, 0x6000 + 8 * 991 + 4),
        "GICD_ICFGR": (0x0C08, 0x0C00 + 4 * (991 // 16)),
        "GICD_ISPENDR": (0x0204, 0x0200 + 4 * (991 // 32)),
        "GICD_ISACTIVER": (0x0304, 0x0300 + 4 * (991 // 32)),
        "GICD_IPRIORITYR": (0x0420, 0x0400 + 4 * (991 // 4)),
    }


@pytest.mark.parametrize(("bits", "count"), [(5, 1), (6, 2), (7, 4)])
def test_cpu_interface_has_an_active_priority_register_per_32_priorities(
    bits: int, count: int
) -> None:
    icc_ctlr = bits - 1 << 8

    registers = cpu_interface_registers(icc_ctlr)

    assert priority_bits(icc_ctlr) == bits
    assert sum("_AP0R" in each.name for each in registers) == count
    assert sum("_AP1R" in each.name for each in registers) == count
    assert registers[:2] == (Icc.ICC_SRE_EL1, Icc.ICC_CTLR_EL1)


def objections_to(state: GicState | None, vcpus: int = 2) -> str:
    return "; ".join(gic_objections(state, GIC, vcpus))


def without(registers: Mapping[int, int], register: int) -> dict[int, int]:
    return {each: value for each, value in registers.items() if each != register}


def test_gic_objections_to_a_state_of_the_form_are_none() -> None:
    assert objections_to(gic_state(vcpus=2)) == ""


def test_gic_objections_where_one_has_a_gic_and_the_other_not_say_so() -> None:
    assert objections_to(None) == "the state has no GIC, which this machine has"
    assert list(gic_objections(gic_state(), None, 1)) == [
        "the state has a GIC, which this machine has not"
    ]
    assert list(gic_objections(None, None, 1)) == []


def test_gic_objections_to_a_state_of_other_counts_name_them() -> None:
    wide = replace(GIC, spi_count=128)

    assert objections_to(gic_state(vcpus=1)) == "; ".join(
        f"the GIC's state has 1 {what}, this machine has 2 vCPUs"
        for what in ("redistributors", "CPU interfaces", "words of PPI levels")
    )
    found = "; ".join(gic_objections(gic_state(vcpus=2), wide, 2))
    assert "needs GICD_IGROUPR[3], GICD_ISENABLER[3], GICD_IROUTER[192]" in found
    assert "the GIC's state has 3 words of SPI levels, expected 4" in found


def test_gic_objections_to_registers_of_no_meaning_name_them() -> None:
    state = gic_state(vcpus=2)
    first, second = state.redistributors
    icc, _ = state.cpu_interfaces
    changed = replace(
        state,
        distributor=without(state.distributor, 0) | {0x7FF8: 0, 0x0104: 1 << 32},
        redistributors=(without(first, 0x10200), {**second, 0x10084: 0}),
        cpu_interfaces=(icc, without(icc, Icc.ICC_PMR_EL1) | {Icc.ICC_BPR0_EL1: 1 << 64}),
    )

    assert objections_to(changed).split("; ") == [
        "GIC distributor needs GICD_CTLR, which the state lacks",
        "GIC distributor has no register 0x7ff8",
        "GIC distributor cannot take GICD_ISENABLER[0] = 0x100000000",
        "GIC redistributor 0 needs GICR_ISPENDR0, which the state lacks",
        "GIC redistributor 1 has no register 0x10084",
        "GIC CPU interface 1 needs ICC_PMR_EL1, which the state lacks",
        "GIC CPU interface 1 cannot take ICC_BPR0_EL1 = 0x10000000000000000",
    ]


def test_gic_objections_to_priority_bits_that_cannot_be_name_the_register() -> None:
    state = gic_state(vcpus=1)
    icc = {**state.cpu_interfaces[0], Icc.ICC_CTLR_EL1: 0x100}

    assert objections_to(replace(state, cpu_interfaces=(icc,)), vcpus=1) == (
        "GIC CPU interface 0: ICC_CTLR_EL1 = 0x100 has 2 bits of priority: 5 to 7 are possible"
    )


def test_gic_objections_to_levels_that_cannot_be_name_the_word() -> None:
    state = replace(gic_state(vcpus=2), spi_levels=(0, -1, 0), ppi_levels=(1 << 27, 1 << 15))

    assert objections_to(state) == (
        "the GIC's levels have a word -0x1; "
        "the GIC's levels of vCPU 1, 0x8000, have bits of SGIs: these have none"
    )


def test_gic_description_takes_plain_integers_for_addresses() -> None:
    assert GicDescription(0x0800_0000, 0x080A_0000, 96) == GIC


def described_registers(heading: str) -> list[tuple[str, int, str]]:
    rows = FormatDocument("gic.md").rows_after(heading)
    return [(row[0], int(row[1], 16), row[2]) for row in rows if row[0] != "levels"]


def test_document_register_tables_equal_the_form() -> None:
    spis = 64
    counts = {
        "1": 1,
        "8": 8,
        "1 per 32 SPIs": spis // 32,
        "1 per 16 SPIs": spis // 16,
        "1 per 4 SPIs": spis // 4,
        "2 per SPI": spis * 2,
    }
    for heading, groups in (
        ("### 1.1 Distributor", distributor_registers(spis)),
        ("### 1.2 Redistributors", REDISTRIBUTOR),
    ):
        described = [
            (name, offset, counts[words]) for name, offset, words in described_registers(heading)
        ]
        assert described == [(it.name, it.offsets[0], len(it.offsets)) for it in groups]


def test_document_interface_registers_equal_the_form() -> None:
    rows = described_registers("### 1.3 CPU interfaces")

    assert [(name, encoding) for name, encoding, _ in rows] == [(it.name, it.value) for it in Icc]


def test_document_timer_ids_equal_the_register_ids() -> None:
    rows = FormatDocument("gic.md").rows_after("## 3. Timers")

    assert [(int(row[0], 16), row[1].partition("_EL0")[0]) for row in rows] == [
        (register_ids.TIMER_CONTROL, "CNTV_CTL"),
        (register_ids.TIMER_COMPARE, "CNTV_CVAL"),
        (register_ids.TIMER_COUNT, "CNTVCT"),
        (register_ids.PTIMER_CONTROL, "CNTP_CTL"),
        (register_ids.PTIMER_COMPARE, "CNTP_CVAL"),
        (register_ids.PTIMER_COUNT, "CNTPCT"),
    ]


def test_gic_of_the_seam_and_of_the_stream_have_the_same_limits() -> None:
    assert limits.MAX_SPIS == MAX_SPIS
    entry = GicEntry(**vars(GIC))

    assert {frame.name: range(frame.gpa, frame.end) for frame in entry.frames(5)} == GIC.windows(5)
