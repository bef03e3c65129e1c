"""Floating point of the embedded machine against numpy, exact arithmetic and the manual's rules."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.fp_calculator import (
    AHP,
    DN,
    DOUBLE,
    DZC,
    FZ,
    FZ16,
    HALF,
    IDC,
    IOC,
    IXC,
    MINUS_INFINITY,
    OFC,
    PLUS_INFINITY,
    RA,
    SINGLE,
    TIE_EVEN,
    TOWARDS_ZERO,
    UFC,
    Format,
    calculate,
    calculate_one,
)
from tests.support.oracle_draw import Draw

FMUL, FDIV, FADD, FSUB = 0x1E200800, 0x1E201800, 0x1E202800, 0x1E203800
FMAX, FMIN, FMAXNM, FMINNM, FNMUL = 0x1E204800, 0x1E205800, 0x1E206800, 0x1E207800, 0x1E208800
FSQRT = 0x1E21C000
FMADD, FNMADD = 0x1F000000 | RA << 10, 0x1F200000 | RA << 10

FORMATS = (HALF, SINGLE, DOUBLE)
MODES = (TIE_EVEN, PLUS_INFINITY, MINUS_INFINITY, TOWARDS_ZERO)
CASES = 600
Operands = list[tuple[int, ...]]


def draw_operands(seed: str, form: Format, count: int) -> Operands:
    draw = Draw(seed)
    return [
        tuple(draw.number(form.bits, form.fraction_bits) for _ in range(count))
        for _ in range(CASES)
    ]


# --- against numpy -------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize(
    ("word", "reference"),
    [
        (FADD, np.add),
        (FSUB, np.subtract),
        (FMUL, np.multiply),
        (FDIV, np.divide),
        (FSQRT, lambda a, _: np.sqrt(a)),
    ],
    ids=["fadd", "fsub", "fmul", "fdiv", "fsqrt"],
)
def test_arithmetic_to_nearest_equals_numpy(
    form: Format, word: int, reference: Callable[..., NDArray[Any]]
) -> None:
    operands = draw_operands(f"numpy {word}", form, 2)
    integer, number = f"u{form.bits // 8}", f"f{form.bits // 8}"
    columns = np.array(operands, dtype=integer).T.copy().view(number)

    results = calculate(form.word(word, sources=1 if word == FSQRT else 2), operands)

    with np.errstate(all="ignore"):
        expected = reference(*columns).view(integer)
    for values, (mine, _), theirs in zip(operands, results, expected.tolist(), strict=True):
        same = mine == theirs or (form.is_nan(mine) and form.is_nan(theirs))
        assert same, f"{[hex(v) for v in values]}: {mine:#x}, numpy {theirs:#x}"


# --- against exact arithmetic ----------------------------------------------------------------


def sum_of(a: Fraction, b: Fraction, _: Fraction) -> Fraction:
    return a + b


def product_of(a: Fraction, b: Fraction, _: Fraction) -> Fraction:
    return a * b


def fused(a: Fraction, b: Fraction, addend: Fraction) -> Fraction:
    return addend + a * b


def quotient_of(a: Fraction, b: Fraction, _: Fraction) -> Fraction | None:
    return a / b if b else None


def rounded(form: Format, exact: Fraction, mode: int) -> int:
    """Return the encoding that is nearest to a number that is not zero, by bisection."""
    magnitude, sign = abs(exact), form.sign if exact < 0 else 0
    low, high = 0, form.infinity  # value(infinity) is what would be the next number
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if form.value(middle) <= magnitude else (low, middle)
    if form.value(low) == magnitude:
        return sign | low
    away = mode == (MINUS_INFINITY if sign else PLUS_INFINITY)
    if mode == TIE_EVEN:
        halves = 2 * magnitude - form.value(low) - form.value(high)
        away = halves > 0 or (halves == 0 and low & 1 == 1)
    return sign | (high if away else low)


def flags_of(form: Format, exact: Fraction, result: int) -> int:
    """Return the flags of a rounding. What is tiny is so before it is rounded."""
    if abs(exact) >= form.value(form.infinity) or not form.is_finite(result):
        return OFC | IXC
    if form.value(result) == exact:
        return 0
    return IXC | (UFC if abs(exact) < form.value(form.smallest_normal) else 0)


@pytest.mark.parametrize("mode", MODES, ids=["RN", "RP", "RM", "RZ"])
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize(
    ("word", "exactly"),
    [(FADD, sum_of), (FMUL, product_of), (FDIV, quotient_of), (FMADD, fused)],
    ids=["fadd", "fmul", "fdiv", "fmadd"],
)
def test_arithmetic_rounds_the_exact_result_and_sets_its_flags(
    form: Format, mode: int, word: int, exactly: Callable[..., Fraction | None]
) -> None:
    operands = draw_operands(f"exact {word} {mode}", form, 3)[:200]
    operands = [values for values in operands if all(map(form.is_finite, values))]

    results = calculate(form.word(word), operands, mode)

    compared = 0
    for values, (result, flags) in zip(operands, results, strict=True):
        exact = exactly(*map(form.value, values))
        if not exact:
            continue  # the rules of zeros are below
        compared += 1
        expected = rounded(form, exact, mode)
        shown = f"{[hex(value) for value in values]}: {result:#x}, flags {flags:#x}"
        assert result == expected, f"{shown}; expected {expected:#x}"
        assert flags == flags_of(form, exact, expected), shown
    assert compared > 60


# --- the host's FPU ---------------------------------------------------------------------------

SCALARS = (FADD, FSUB, FMUL, FDIV, FSQRT, FMADD, FNMADD)


@pytest.mark.parametrize("mode", [TIE_EVEN, TOWARDS_ZERO], ids=["RN", "RZ"])
@pytest.mark.parametrize("form", [SINGLE, DOUBLE], ids=lambda form: form.name)
@pytest.mark.parametrize("scalar", SCALARS, ids=hex)
def test_result_is_the_same_when_the_host_may_compute_it(
    form: Format, scalar: int, mode: int
) -> None:
    word = form.word(scalar, sources=1 if scalar == FSQRT else 2)
    draw = Draw(f"host {word}")
    operands = [tuple(lane(draw, form) for _ in range(3)) for _ in range(2000)]

    by_integers = calculate(word, operands, mode)
    by_the_host = calculate(word, operands, mode, fpsr=IXC)

    for values, slow, fast in zip(operands, by_integers, by_the_host, strict=True):
        assert fast == (slow[0], slow[1] | IXC), [hex(value) for value in values]


def test_fused_single_is_not_rounded_twice() -> None:
    """The sum is a little below 1 + 3 * 2**-24, which lies between two singles."""
    addend = SINGLE.one() | 1
    above, below = 0x39800020, 0x397FFFC0  # 2**-12 * (1 + 2**-18), 2**-12 * (1 - 2**-18)

    [result] = calculate(SINGLE.word(FMADD), [(above, below, addend)], fpsr=IXC)

    assert result == (addend, IXC)


def lane(draw: Draw, form: Format) -> int:
    make = draw.number if draw.chance(30) else draw.ordinary_number
    return make(form.bits, form.fraction_bits)


# --- the manual's rules ------------------------------------------------------------------------

ONE, MINUS_ZERO, MINUS_ONE = SINGLE.one(), SINGLE.sign, SINGLE.one() | SINGLE.sign
TWO = ONE + SINGLE.smallest_normal
INFINITY, DEFAULT_NAN = SINGLE.infinity, SINGLE.default_nan
QUIET, OTHER_QUIET = DEFAULT_NAN | 1, DEFAULT_NAN | SINGLE.sign | 2
SIGNALLING = INFINITY | 3
QUIETED = SIGNALLING | SINGLE.quiet
DENORMAL = 5


@pytest.mark.parametrize(
    ("word", "operands", "fpcr", "result", "flags"),
    [
        # FPProcessNaNs: the first signalling NaN, then the first quiet one; FPCR.DN.
        (FADD, (QUIET, OTHER_QUIET), 0, QUIET, 0),
        (FADD, (ONE, OTHER_QUIET), 0, OTHER_QUIET, 0),
        (FADD, (QUIET, SIGNALLING), 0, QUIETED, IOC),
        (FADD, (QUIET, OTHER_QUIET), DN, DEFAULT_NAN, 0),
        (FSUB, (ONE, OTHER_QUIET), 0, OTHER_QUIET, 0),
        (FNMUL, (ONE, QUIET), 0, QUIET | SINGLE.sign, 0),
        # FPProcessNaNs3: the addend comes first.
        (FMADD, (QUIET, ONE, OTHER_QUIET), 0, OTHER_QUIET, 0),
        (FMADD, (SIGNALLING, ONE, OTHER_QUIET), 0, QUIETED, IOC),
        (FMADD, (INFINITY, 0, QUIET), 0, DEFAULT_NAN, IOC),
        (FMADD, (INFINITY, 0, SIGNALLING), 0, QUIETED, IOC),
        (FNMADD, (ONE, ONE, QUIET), 0, QUIET | SINGLE.sign, 0),
        # Invalid operations, division by zero.
        (FADD, (INFINITY, INFINITY | SINGLE.sign), 0, DEFAULT_NAN, IOC),
        (FMUL, (INFINITY, 0), 0, DEFAULT_NAN, IOC),
        (FDIV, (0, MINUS_ZERO), 0, DEFAULT_NAN, IOC),
        (FDIV, (MINUS_ONE, 0), 0, INFINITY | SINGLE.sign, DZC),
        (FDIV, (INFINITY, 0), 0, INFINITY, 0),
        # The sign of a zero.
        (FADD, (ONE, MINUS_ONE), 0, 0, 0),
        (FADD, (ONE, MINUS_ONE), MINUS_INFINITY, MINUS_ZERO, 0),
        (FADD, (MINUS_ZERO, MINUS_ZERO), 0, MINUS_ZERO, 0),
        (FMUL, (MINUS_ONE, 0), 0, MINUS_ZERO, 0),
        (FMAX, (MINUS_ZERO, 0), 0, 0, 0),
        (FMIN, (0, MINUS_ZERO), 0, MINUS_ZERO, 0),
        # A single quiet NaN loses against a number, a signalling one does not.
        (FMAXNM, (QUIET, MINUS_ONE), 0, MINUS_ONE, 0),
        (FMINNM, (ONE, QUIET), 0, ONE, 0),
        (FMAXNM, (SIGNALLING, ONE), 0, QUIETED, IOC),
        (FMAX, (QUIET, ONE), 0, QUIET, 0),
        # Flushing: an input reports itself by IDC, a result by UFC alone.
        (FADD, (DENORMAL, 0), 0, DENORMAL, 0),
        (FADD, (DENORMAL, 0), FZ, 0, IDC),
        (FMUL, (SINGLE.smallest_normal, ONE >> 1 & INFINITY), FZ, 0, UFC),
        (FMAX, (DENORMAL, MINUS_ONE), FZ, 0, IDC),
        # Tininess is detected before rounding: this one rounds up to the smallest normal number.
        (FMUL, (SINGLE.smallest_normal, ONE - 1), PLUS_INFINITY, SINGLE.smallest_normal, UFC | IXC),
        (FMUL, (SINGLE.largest, TWO), TOWARDS_ZERO, SINGLE.largest, OFC | IXC),
    ],
)  # fmt: skip
def test_rule_of_the_manual_holds(
    word: int, operands: tuple[int, ...], fpcr: int, result: int, flags: int
) -> None:
    assert calculate_one(SINGLE.word(word), *operands, fpcr=fpcr) == (result, flags)


def test_denormal_half_that_is_flushed_sets_no_flag() -> None:
    word = HALF.word(FADD)

    assert calculate_one(word, DENORMAL, 0, fpcr=FZ16) == (0, 0)
    assert calculate_one(word, DENORMAL, 0, fpcr=FZ) == (DENORMAL, 0)


FCVT_HS, FCVT_SH, FCVTXN_SD = 0x1E23C003, 0x1EE24003, 0x7E616803


@pytest.mark.parametrize(
    ("word", "operand", "fpcr", "result", "flags"),
    [
        (FCVT_HS, INFINITY, 0, HALF.infinity, 0),
        (FCVT_HS, INFINITY, AHP, 0x7FFF, IOC),
        (FCVT_HS, QUIET | SINGLE.sign, AHP, 0x8000, IOC),
        (FCVT_HS, SINGLE.largest, AHP, 0x7FFF, IOC),
        (FCVT_HS, SINGLE.largest, 0, HALF.infinity, OFC | IXC),
        (FCVT_HS, 0x47FFE000, AHP, 0x7FFF, 0),  # 131008, the largest of the alternative format
        (FCVT_HS, SIGNALLING | 1 << 13, 0, HALF.default_nan | 1, IOC),
        (FCVT_SH, HALF.infinity, AHP, 0x47800000, 0),  # 65536
        (FCVT_SH, 1, FZ16 | FZ, 0x33800000, 0),  # conversions do not look at FZ16
        (FCVTXN_SD, DOUBLE.one() | 1, 0, ONE | 1, IXC),
        (FCVTXN_SD, DOUBLE.one(), 0, ONE, 0),
        (FCVTXN_SD, DOUBLE.largest, 0, SINGLE.largest, OFC | IXC),
    ],
)
def test_conversion_between_formats_follows_the_manual(
    word: int, operand: int, fpcr: int, result: int, flags: int
) -> None:
    assert calculate_one(word, operand, fpcr=fpcr) == (result, flags)


FCVTZS_H_4, FCVTZU_S, FCVTNS_S, FCVTAS_S = 0x5F1CFC03, 0x7EA1B803, 0x5E21A803, 0x5E21C803
FRECPE, FRSQRTE, FRECPX = 0x5EA1D803, 0x7EA1D803, 0x5EA1F803
FMULX, FRECPS, FRSQRTS = 0x5E21DC03, 0x5E21FC03, 0x5EA1FC03
HALF_OF_ONE = ONE - SINGLE.smallest_normal
THREE_HALVES = ONE | 1 << 22


@pytest.mark.parametrize(
    ("word", "operands", "fpcr", "result", "flags"),
    [
        # To integers: saturation is invalid, and then not inexact.
        (FCVTZU_S, (MINUS_ONE,), 0, 0, IOC),
        (FCVTZU_S, (HALF_OF_ONE | SINGLE.sign,), 0, 0, IXC),
        (FCVTNS_S, (QUIET,), 0, 0, IOC),
        (FCVTNS_S, (INFINITY | SINGLE.sign,), 0, 0x80000000, IOC),
        (FCVTNS_S, (HALF_OF_ONE,), 0, 0, IXC),
        (FCVTAS_S, (HALF_OF_ONE,), 0, 1, IXC),
        # QEMU 7.2 extends the sign of this one to 32 bits; the manual writes zeros above 16.
        (FCVTZS_H_4, (HALF.one() | HALF.sign,), 0, 0xFFF0, 0),
        # Estimates: eight bits, and the rules at the ends of the range.
        (FRECPE, (ONE,), 0, 0x3F7F8000, 0),
        (FRECPE, (1,), 0, INFINITY, OFC | IXC),
        (FRECPE, (1,), TOWARDS_ZERO, SINGLE.largest, OFC | IXC),
        (FRECPE, (SINGLE.largest,), FZ, 0, UFC),
        (FRECPE, (MINUS_ZERO,), 0, INFINITY | SINGLE.sign, DZC),
        (FRSQRTE, (ONE,), 0, 0x3F7F8000, 0),
        (FRSQRTE, (MINUS_ONE,), 0, DEFAULT_NAN, IOC),
        (FRSQRTE, (MINUS_ZERO,), 0, INFINITY | SINGLE.sign, DZC),
        (FRECPX, (TWO,), 0, ONE, 0),
        (FRECPX, (DENORMAL,), 0, 0x7F000000, 0),
        # Steps: infinity times zero counts as zero.
        (FMULX, (INFINITY, MINUS_ZERO), 0, TWO | SINGLE.sign, 0),
        (FRECPS, (INFINITY, 0), 0, TWO, 0),
        (FRECPS, (ONE, ONE), 0, ONE, 0),
        (FRSQRTS, (INFINITY, 0), 0, THREE_HALVES, 0),
        (FRSQRTS, (ONE, ONE), 0, ONE, 0),
    ],
)
def test_conversion_to_integer_or_estimate_follows_the_manual(
    word: int, operands: tuple[int, ...], fpcr: int, result: int, flags: int
) -> None:
    word |= 1 << 16 if word in {FMULX, FRECPS, FRSQRTS} else 0

    assert calculate_one(word, *operands, fpcr=fpcr) == (result, flags)
