"""Registers: bit positions from the Arm ARM, exact round trips, refusals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagalong.errors import UsageError
from tagalong.mte.registers import (
    Gcr,
    IdAa64pfr1,
    Pstate,
    Register,
    Rgsr,
    Sctlr,
    TagCheckMode,
    Tcr,
    Tfsr,
)
from tagalong.mte.version import MteVersion, version_in

ALL_REGISTERS: tuple[type[Register], ...] = (Gcr, Rgsr, Tfsr, Sctlr, Tcr, Pstate, IdAa64pfr1)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(ALL_REGISTERS), st.integers(0, 2**64 - 1))
def test_to_bits_of_from_bits_any_value_gives_it_back(register: type[Register], bits: int) -> None:
    assert register.from_bits(bits).to_bits() == bits


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        Sctlr,
        itfsb=st.booleans(),
        tcf0=st.sampled_from(TagCheckMode),
        tcf=st.sampled_from(TagCheckMode),
        ata0=st.booleans(),
        ata=st.booleans(),
        other_bits=st.integers(0, 2**37 - 1),
    )
)
def test_from_bits_of_to_bits_any_fields_gives_them_back(sctlr: Sctlr) -> None:
    assert Sctlr.from_bits(sctlr.to_bits()) == sctlr


@pytest.mark.parametrize(
    ("register", "bits"),
    [
        (Gcr(exclude=0xFFFF), 0xFFFF),
        (Gcr(rrnd=True), 1 << 16),
        (Rgsr(tag=0xF), 0xF),
        (Rgsr(seed=0xFFFF), 0xFFFF << 8),
        (Tfsr(tf0=True), 1 << 0),
        (Tfsr(tf1=True), 1 << 1),
        (Sctlr(itfsb=True), 1 << 37),
        (Sctlr(tcf0=TagCheckMode.SYNC), 1 << 38),
        (Sctlr(tcf0=TagCheckMode.ASYNC), 2 << 38),
        (Sctlr(tcf=TagCheckMode.SYNC), 1 << 40),
        (Sctlr(tcf=TagCheckMode.ASYMMETRIC), 3 << 40),
        (Sctlr(ata0=True), 1 << 42),
        (Sctlr(ata=True), 1 << 43),
        (Tcr(tbi0=True), 1 << 37),
        (Tcr(tbi1=True), 1 << 38),
        (Tcr(tcma0=True), 1 << 57),
        (Tcr(tcma1=True), 1 << 58),
        (Pstate(el=1), 1 << 2),
        (Pstate(tco=True), 1 << 25),
        (IdAa64pfr1(mte=3), 3 << 8),
        (IdAa64pfr1(mte_frac=0xF), 0xF << 40),
    ],
)
def test_to_bits_of_one_field_is_its_place_in_the_architecture(
    register: Register, bits: int
) -> None:
    assert register.to_bits() == bits
    assert type(register).from_bits(bits) == register


def test_from_bits_of_a_kernels_sctlr_names_what_it_enables() -> None:
    sctlr = Sctlr.from_bits(0x0000_0900_30D0_1805)

    assert (sctlr.ata, sctlr.tcf, sctlr.ata0) == (True, TagCheckMode.SYNC, False)
    assert sctlr.other_bits == 0x30D0_1805


@pytest.mark.parametrize("bits", [-1, 1 << 64])
def test_from_bits_of_no_64_bit_value_is_refused(bits: int) -> None:
    with pytest.raises(UsageError, match=r"^Gcr value -?0x10{0,16} is not in 0x0 to 0xf{16}$"):
        Gcr.from_bits(bits)


def test_register_with_a_field_too_large_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^Rgsr.tag 0x10 is not in 0x0 to 0xf$"):
        Rgsr(tag=0x10)


def test_register_with_other_bits_of_a_named_field_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^Gcr.other_bits holds bits of named fields: 0x10000$"):
        Gcr(other_bits=0x3_0000)


@pytest.mark.parametrize(
    ("mte", "version"),
    [
        (0, MteVersion.NONE),
        (1, MteVersion.INSTRUCTIONS),
        (2, MteVersion.MTE2),
        (3, MteVersion.MTE3),
        (4, MteVersion.MTE3),
        (15, MteVersion.MTE3),
    ],
)
def test_version_of_id_field_is_the_newest_known_one_it_includes(
    mte: int, version: MteVersion
) -> None:
    register = IdAa64pfr1(mte=mte, other_bits=0xF00F)

    assert register.version is version
    assert version_in(register.to_bits()) is version


@pytest.mark.parametrize(
    ("mte", "mte_frac", "expected"),
    [(1, 0, False), (2, 0, True), (2, 0xF, False), (3, 0, True), (3, 0xF, False)],
)
def test_has_async_needs_mte2_and_a_fraction_of_zero(
    mte: int, mte_frac: int, expected: bool
) -> None:
    assert IdAa64pfr1(mte=mte, mte_frac=mte_frac).has_async is expected
