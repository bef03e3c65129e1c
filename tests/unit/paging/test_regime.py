"""Regime: the registers of one half, and those that have none."""

import pytest

from tagalong.errors import TranslationError
from tagalong.machine import RegisterId, register_ids
from tagalong.paging import Half, Regime

TG0 = {12: 0, 14: 2, 16: 1}
TG1 = {12: 2, 14: 1, 16: 3}


def registers(
    *, tcr: int = 0, ttbr0: int = 0x4020_1000, ttbr1: int = 0x4030_1000, sctlr: int = 1
) -> dict[RegisterId, int]:
    return {
        register_ids.SCTLR_EL1: sctlr,
        register_ids.TCR_EL1: tcr,
        register_ids.TTBR0_EL1: ttbr0,
        register_ids.TTBR1_EL1: ttbr1,
        register_ids.MAIR_EL1: 0xF0,
    }


def tcr_of(granule_bits: int, input_bits: int, *, ips: int = 5, large: bool = False) -> int:
    size = 64 - input_bits
    return (
        size | size << 16 | TG0[granule_bits] << 14 | TG1[granule_bits] << 30
        | ips << 32 | int(large) << 59
    )  # fmt: skip


@pytest.mark.parametrize(
    ("granule_bits", "input_bits", "large", "first_level", "entries"),
    [
        (12, 48, False, 0, 512),
        (12, 39, False, 1, 512),
        (12, 32, False, 1, 4),
        (12, 25, False, 2, 16),
        (12, 52, True, -1, 16),
        (14, 48, False, 0, 2),
        (14, 47, False, 1, 2048),
        (14, 36, False, 2, 2048),
        (14, 52, True, 0, 32),
        (16, 48, False, 1, 64),
        (16, 42, False, 2, 8192),
        (16, 52, False, 1, 1024),
    ],
)
@pytest.mark.parametrize("half", Half)
def test_regime_of_granule_and_size_begins_at_the_architecture_s_level(
    half: Half,
    granule_bits: int,
    input_bits: int,
    large: bool,
    first_level: int,
    entries: int,
) -> None:
    tcr = tcr_of(granule_bits, input_bits, large=large)

    regime = Regime.of(registers(tcr=tcr), half)

    assert (regime.granule_bits, regime.input_bits) == (granule_bits, input_bits)
    assert regime.first_level == first_level
    assert regime.entries(first_level) == entries
    assert regime.lowest_address == (0 if half is Half.USER else (1 << 64) - (1 << input_bits))


def test_regime_of_size_beyond_the_architecture_is_limited() -> None:
    widest = Regime.of(registers(tcr=tcr_of(12, 64)), Half.USER)
    narrowest = Regime.of(registers(tcr=tcr_of(12, 1)), Half.USER)

    assert widest.input_bits == 48
    assert (narrowest.input_bits, narrowest.entries(3)) == (13, 2)


def test_regime_of_ttbr_with_asid_and_cnp_takes_the_address_alone() -> None:
    regime = Regime.of(registers(tcr=tcr_of(12, 39), ttbr1=0xABCD_0000_4030_1001), Half.KERNEL)

    assert regime.table == 0x4030_1000


def test_regime_of_short_table_is_aligned_to_its_own_size() -> None:
    regime = Regime.of(registers(tcr=tcr_of(12, 32), ttbr0=0x4020_1038), Half.USER)

    assert regime.table == 0x4020_1020


@pytest.mark.parametrize("granule_bits", [12, 16])
def test_regime_of_52_bit_table_address_takes_its_high_bits_from_below(granule_bits: int) -> None:
    tcr = tcr_of(granule_bits, 52, ips=6, large=granule_bits == 12)

    regime = Regime.of(registers(tcr=tcr, ttbr1=0x4030_0000 | 0b1010 << 2), Half.KERNEL)

    assert regime.table == 0xA_0000_4030_0000


def test_regime_of_tbi_is_that_of_the_half() -> None:
    tcr = tcr_of(12, 39) | 1 << 38

    assert Regime.of(registers(tcr=tcr), Half.KERNEL).ignores_top_byte
    assert not Regime.of(registers(tcr=tcr), Half.USER).ignores_top_byte


def test_regime_of_mmu_off_is_refused() -> None:
    with pytest.raises(TranslationError, match=r"MMU is off \(SCTLR_EL1.M is 0\)"):
        Regime.of(registers(sctlr=0), Half.USER)


@pytest.mark.parametrize(("half", "bit"), [(Half.USER, 7), (Half.KERNEL, 23)])
def test_regime_of_disabled_walks_is_refused(half: Half, bit: int) -> None:
    tcr = tcr_of(12, 39) | 1 << bit

    with pytest.raises(TranslationError) as failure:
        Regime.of(registers(tcr=tcr), half)

    number, this, other = half.value, half.name.lower(), Half(1 - half.value).name.lower()
    assert str(failure.value) == (
        f"the guest has no {this} addresses: TCR_EL1 is {tcr:#x}, EPD{number} is set, so "
        f"TTBR{number}_EL1 maps nothing; ask for its {other} addresses (--space {other})"
    )


@pytest.mark.parametrize(("half", "code"), [(Half.USER, 3 << 14), (Half.KERNEL, 0)])
def test_regime_of_reserved_granule_is_refused(half: Half, code: int) -> None:
    tcr = tcr_of(12, 39) & ~(3 << 14 | 3 << 30) | code

    with pytest.raises(TranslationError, match=f"TG{half.value} has the reserved code"):
        Regime.of(registers(tcr=tcr), half)


def test_regime_of_vcpu_without_the_register_is_refused_by_name() -> None:
    known = registers(tcr=tcr_of(12, 39))
    del known[register_ids.TTBR1_EL1]

    with pytest.raises(TranslationError, match="the vCPU's TTBR1_EL1 is not known"):
        Regime.of(known, Half.KERNEL)
