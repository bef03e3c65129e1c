"""The GIC's registers in memory.

Source: Arm IHI 0069 12.8 to 12.11; what KVM's vGIC shows its guests (Linux
arch/arm64/kvm/vgic/vgic-mmio-v3.c).
"""

import pytest

from tests.support.gic_guest import GICD, GICR, gic_guest, redistributor
from tests.support.gic_state import GIC

GROUP, SET_ENABLE, CLEAR_ENABLE = 0x080, 0x100, 0x180
SET_PENDING, CLEAR_PENDING, SET_ACTIVE, CLEAR_ACTIVE = 0x200, 0x280, 0x300, 0x380
PRIORITY, CONFIG, ROUTER = 0x400, 0xC00, 0x6000
SPI = 4  # from the first word of a group to that of the first SPIs


def test_distributor_reads_as_a_kvm_guest_sees_it() -> None:
    with gic_guest() as guest:
        for offset, expected in (
            (0x0000, 0x50),  # CTLR: ARE, DS, nothing enabled
            (0x0004, 9 << 19 | GIC.spi_count // 32),  # TYPER: 10 bits of INTID, no LPIs
            (0x0008, 0x4B00_343B),  # IIDR
            (0x000C, 0),  # TYPER2
            (0x0010, 0xFFFF_FFFF),  # STATUSR
            (0x0800 + 0x20, 0),  # ITARGETSR: affinity routing
            (0x0D00 + SPI, 0),  # IGRPMODR: one security state
            (0xFFE8, 0x3B),  # PIDR2: GICv3
            (GROUP + SPI, 0xFFFF_FFFF),
            (SET_ENABLE + SPI, 0),
            (CONFIG + 8, 0),
            (ROUTER + 8 * 32, 0),
        ):
            assert guest.load(GICD + offset) == expected, hex(offset)


def test_redistributors_read_as_a_kvm_guest_sees_them() -> None:
    with gic_guest(vcpus=3) as guest:
        for vcpu in range(3):
            base = GICR + 0x2_0000 * vcpu
            last = 0x10 if vcpu == 2 else 0
            for offset, expected in (
                (0x0000, 6),  # CTLR
                (0x0004, 0x4B00_043B),  # IIDR
                (0x0008, vcpu << 8 | last),  # TYPER
                (0x000C, vcpu),  # its affinity
                (0x0014, 0),  # WAKER: awake
                (0xFFE8, 0x3B),
                (0x1_0000 + GROUP, 0xFFFF_FFFF),
                (0x1_0000 + SET_ENABLE, 0xFFFF),  # SGIs
                (0x1_0000 + CONFIG, 0xAAAA_AAAA),  # SGIs are edge-triggered
                (0x1_0000 + CONFIG + 4, 0),  # PPIs are not
            ):
                assert guest.load(base + offset) == expected, (vcpu, hex(offset))
            assert guest.load(base + 8, size=8) == vcpu << 32 | vcpu << 8 | last


def test_redistributor_of_another_vcpu_can_be_accessed() -> None:
    with gic_guest(vcpus=2) as guest:
        guest.store(redistributor(1) + SET_ENABLE, 1 << 27, vcpu=0)

        assert guest.load(redistributor(1) + SET_ENABLE, vcpu=1) == 0xFFFF | 1 << 27
        assert guest.load(redistributor(0) + SET_ENABLE) == 0xFFFF


@pytest.mark.parametrize(
    ("setter", "clearer"),
    [(SET_ENABLE, CLEAR_ENABLE), (SET_PENDING, CLEAR_PENDING), (SET_ACTIVE, CLEAR_ACTIVE)],
)
@pytest.mark.parametrize("base", [GICD + SPI, redistributor(0)])
def test_bits_are_set_by_one_register_and_cleared_by_the_other(
    base: int, setter: int, clearer: int
) -> None:
    with gic_guest() as guest:
        guest.store(base + clearer, 0xFFFF_FFFF)
        guest.store(base + setter, 0x8000_0001)
        guest.store(base + setter, 0x0000_0010)
        guest.store(base + clearer, 0x0000_0001)

        assert guest.load(base + setter) == guest.load(base + clearer) == 0x8000_0010


def test_group_is_assigned() -> None:
    with gic_guest() as guest:
        guest.store(GICD + GROUP + SPI, 0x1234_5678)
        guest.store(redistributor(0) + GROUP, 0x8765_4321)

        assert guest.load(GICD + GROUP + SPI) == 0x1234_5678
        assert guest.load(redistributor(0) + GROUP) == 0x8765_4321


def test_priorities_have_five_bits_and_are_accessed_by_bytes_or_words() -> None:
    with gic_guest() as guest:
        guest.store(GICD + PRIORITY + 32, 0xFF80_4127)
        guest.store(GICD + PRIORITY + 33, 0xCF, size=1)

        assert guest.load(GICD + PRIORITY + 32) == 0xF880_C820
        assert guest.load(GICD + PRIORITY + 35, size=1) == 0xF8


def test_configuration_has_one_bit_of_two_and_private_ones_are_fixed() -> None:
    with gic_guest() as guest:
        guest.store(GICD + CONFIG + 8, 0xFFFF_FFFF)
        guest.store(redistributor(0) + CONFIG, 0)
        guest.store(redistributor(0) + CONFIG + 4, 0xFFFF_FFFF)

        assert guest.load(GICD + CONFIG + 8) == 0xAAAA_AAAA
        assert guest.load(GICD + CONFIG + 12) == 0
        assert guest.load(redistributor(0) + CONFIG) == 0xAAAA_AAAA
        assert guest.load(redistributor(0) + CONFIG + 4) == 0


def test_route_holds_three_levels_of_affinity_by_words_or_as_a_whole() -> None:
    with gic_guest() as guest:
        guest.store(GICD + ROUTER + 8 * 40, 0xFF_8003_0201, size=8)
        guest.store(GICD + ROUTER + 8 * 41, 0x0000_0105)
        guest.store(GICD + ROUTER + 8 * 41 + 4, 0xFF)

        assert guest.load(GICD + ROUTER + 8 * 40, size=8) == 0x03_0201
        assert guest.load(GICD + ROUTER + 8 * 41, size=8) == 0x0105


def test_enabling_the_distributor_is_all_that_its_control_holds() -> None:
    with gic_guest() as guest:
        guest.store(GICD, 0xFFFF_FFFF)
        enabled = guest.load(GICD)
        guest.store(GICD, 0)

        assert (enabled, guest.load(GICD)) == (0x52, 0x50)


def test_interrupts_that_do_not_exist_read_as_zero_and_ignore_writes() -> None:
    beyond = 32 + GIC.spi_count
    with gic_guest() as guest:
        for address in (
            GICD + SET_ENABLE,  # private interrupts are not in the distributor
            GICD + GROUP,
            GICD + PRIORITY + 4,
            GICD + CONFIG,
            GICD + ROUTER + 8 * 5,
            GICD + SET_ENABLE + beyond // 8,
            GICD + PRIORITY + beyond,
            GICD + CONFIG + beyond // 4,
            GICD + ROUTER + 8 * beyond,
            GICD + ROUTER + 8 * 1019,
            redistributor(0) + SET_ENABLE + 4,
            redistributor(0) + PRIORITY + 32,
            redistributor(0) + ROUTER,
            GICR + SET_ENABLE,  # the first frame
        ):
            guest.store(address, 0xFFFF_FFFF)
            assert guest.load(address) == 0, hex(address)


def test_accesses_of_sizes_that_a_register_does_not_have_read_as_zero() -> None:
    with gic_guest() as guest:
        guest.store(GICD + SET_ENABLE + SPI, 0xFF)
        for offset, size in ((0x0000, 8), (0x0004, 2), (SET_ENABLE + SPI, 1), (ROUTER + 256, 1)):
            guest.store(GICD + offset, 0, size=size)
            assert guest.load(GICD + offset, size=size) == 0, (hex(offset), size)

        assert guest.load(GICD + SET_ENABLE + SPI) == 0xFF


def test_pending_reads_the_latch_or_the_level() -> None:
    with gic_guest() as guest:
        guest.line(40, True)
        guest.line(41, True)
        guest.set_edge(41)
        by_level = guest.load(GICD + SET_PENDING + SPI)
        guest.store(GICD + CLEAR_PENDING + SPI, 0xFFFF_FFFF)
        held = guest.load(GICD + SET_PENDING + SPI)
        guest.line(40, False)

        assert (by_level, held) == (1 << 8, 1 << 8)  # 41 rose before it was edge-triggered
        assert guest.load(GICD + SET_PENDING + SPI) == 0
