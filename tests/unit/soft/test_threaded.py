"""Threaded code does, to the bit and to the instruction, what the plain interpreter does."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product

import pytest

from tagalong.machine import RegisterId, register_ids
from tagalong.mte.registers import TagCheckMode
from tagalong.soft.native import StopReason
from tests.support import a64, bare, debugged
from tests.support.twin_machines import (
    SECOND_REGION,
    Twin,
    random_place,
    random_program,
    random_registers,
)

PROGRAMS, STOPS = 5, 150
Twins = tuple[Twin, Twin]
AT_EL1 = {
    register_ids.TCR_EL1: bare.TCR,
    register_ids.SCTLR_EL1: bare.sctlr(TagCheckMode.NONE),
    register_ids.PSTATE: 0x3C5,
    register_ids.PC: bare.CODE,
}


@pytest.fixture
def twins() -> Iterator[Twins]:
    with ExitStack() as undo:
        made = Twin(plain=False), Twin(plain=True)
        for twin in made:
            undo.callback(twin.close)
        yield made


def differences(twins: Twins) -> dict[str, tuple[object, object]]:
    threaded, plain = (twin.outcome() for twin in twins)
    return {name: (threaded[name], plain[name]) for name in plain if threaded[name] != plain[name]}


@pytest.mark.parametrize("seed", range(4))
def test_random_programs_stop_in_the_same_state_wherever_they_are_stopped(
    twins: Twins, seed: int
) -> None:
    rng = random.Random(seed)
    for _ in range(PROGRAMS):
        program, registers = random_program(rng), random_registers(rng)
        data, tags = rng.randbytes(0x2000), rng.choice((b"\0", rng.randbytes(1))) * 0x100
        for twin in twins:
            twin.begin(program, data, tags, registers)
        for _ in range(STOPS):
            budget, harvest = rng.choice((1, 2, 7, 50, 50, 500)), rng.random() < 0.1
            place = random_place(rng) if rng.random() < 0.7 else None  # or it loops for ever
            for twin in twins:
                twin.run(budget)

            assert not differences(twins), f"seed {seed}, {budget} instructions"

            for twin in twins:
                if harvest:
                    twin.forget_dirty_pages()
                if place is not None:
                    twin.native.set_register(0, register_ids.PC, place)
                    twin.native.set_register(0, register_ids.PSTATE, registers[register_ids.PSTATE])


def begin(
    twins: Twins,
    words: list[int],
    x: dict[int, int] | None = None,
    registers: dict[RegisterId, int] | None = None,
    tags: bytes = b"",
    budget: int = 10_000,
) -> None:
    found = {**random_registers(random.Random(0)), **AT_EL1, **(registers or {})}
    for number, value in (x or {}).items():
        found[register_ids.x(number)] = value
    for twin in twins:
        twin.begin(bare.encoded(words).ljust(0x2000, b"\0"), b"", tags, found)
        twin.run(budget)


def test_code_that_changes_the_next_instruction_executes_the_new_one(twins: Twins) -> None:
    words = [
        a64.ldst(a64.STR_W, 1, 2),
        a64.movz(0, 1),  # becomes the word in x1
        a64.b(0),
    ]

    begin(twins, words, {1: a64.movz(0, 2), 2: bare.CODE + 4})

    assert [twin.native.get_register(0, register_ids.x(0)) for twin in twins] == [2, 2]
    assert not differences(twins)


def test_code_that_the_host_changes_is_executed_as_it_is_now(twins: Twins) -> None:
    begin(twins, [a64.movz(0, 1), a64.b(0)])
    for twin in twins:
        twin.put(bare.CODE, bare.encoded([a64.movz(0, 3)]))
        twin.native.set_register(0, register_ids.PC, bare.CODE)
        twin.run(100)

    assert [twin.native.get_register(0, register_ids.x(0)) for twin in twins] == [3, 3]
    assert not differences(twins)


def test_a_branch_to_an_odd_address_is_an_exception_from_there(twins: Twins) -> None:
    begin(twins, [a64.br(1)], {1: 1})

    assert not differences(twins)


def test_a_branch_to_an_odd_address_of_a_known_page_is_an_exception_too(twins: Twins) -> None:
    words = [a64.blr(2), a64.blr(3), a64.b(0)]
    code = [*words, *([0] * (1024 - len(words))), a64.ret(), a64.ret()]
    other = bare.CODE + 0x1000

    begin(twins, code, {2: other, 3: other + 2}, budget=4)  # and no instruction of the handler

    esr = [twin.native.get_register(0, register_ids.ESR_EL1) for twin in twins]
    assert esr == [0x8A00_0000] * 2  # PC alignment fault
    assert not differences(twins)


def test_breakpoint_on_a_page_that_was_branched_to_before_is_taken(twins: Twins) -> None:
    other = bare.CODE + 0x1000
    words = [a64.blr(2), a64.blr(2), a64.add_imm(2, 2, 4), a64.blr(2), a64.b(0)]
    debug = {
        debugged.bvr(0): other + 4,
        debugged.bcr(0): debugged.ENABLE | debugged.AT_BOTH | 0xF << 5,
        debugged.MDSCR: debugged.MDE | debugged.KDE,
        register_ids.PSTATE: debugged.EL1_DEBUG,
    }
    code = [*words, *([0] * (1024 - len(words))), a64.ret(), a64.movz(0, 1), a64.ret()]

    begin(twins, code, {0: 2, 2: other}, debug)

    # The handler skips the instruction.
    assert [twin.native.get_register(0, register_ids.x(0)) for twin in twins] == [2, 2]
    assert not differences(twins)


SINGLES = (
    a64.LDRH, a64.LDRSH_X, a64.LDRSH_W, a64.LDR_W, a64.LDRSW, a64.LDR_X,
    a64.STRH, a64.STR_W, a64.STR_X,
)  # fmt: skip
ALIGNMENT_CHECKED = 1 << 1  # SCTLR_EL1.A


@pytest.mark.parametrize("checked", [0, ALIGNMENT_CHECKED])
@pytest.mark.parametrize("at", [SECOND_REGION - 1, bare.DATA + 15], ids=["pages", "granules"])
def test_unaligned_access_is_judged_by_all_its_bytes(twins: Twins, at: int, checked: int) -> None:
    base, aligned, zero = 2, 3, 8
    words = []
    for part in (0, 8):  # both pages are in the TLB
        words += [a64.ldr(0, aligned, part), a64.str_(0, aligned, part)]
    for kind in SINGLES:
        for access in (
            a64.ldst9(kind, a64.UNSCALED, 0, base, 0),
            a64.ldst9(kind, a64.POST, 0, base, 8),
            a64.ldst9(kind, a64.PRE, 0, base, 0),
            a64.ldst_reg(kind, 0, base, zero),
            a64.ldst_reg(kind, 0, base, zero, option=a64.UXTW),
            a64.ldst_reg(kind, 0, base, zero, option=a64.SXTW),
            a64.ldst(kind, 0, base),
        ):
            words += [a64.mov(base, 4), a64.movz(0, 5), access, a64.add_reg(9, 9, 0)]
            words += [a64.add_reg(9, 9, base), a64.extr(9, 9, 9, 13)]
    sctlr = bare.sctlr(TagCheckMode.SYNC) | checked

    begin(
        twins,
        [*words, a64.b(0)],
        {aligned: at & ~7, 4: at, zero: 0, 9: 0},
        {register_ids.SCTLR_EL1: sctlr},
        tags=b"\x70" * 0x80 + b"\0" * 0x80,  # of every other granule in the first page
    )

    assert not differences(twins)


PAIRS_AND_SIZES = [(a64.LDP_X, 8), (a64.STP_X, 8), (a64.LDP_W, 4), (a64.STP_W, 4)]


@pytest.mark.parametrize(("kind", "size"), PAIRS_AND_SIZES)
def test_pair_across_two_pages_reaches_both(twins: Twins, kind: tuple[int, int], size: int) -> None:
    base, at = 2, SECOND_REGION - size
    words = [
        a64.ldr(3, base),  # the page is in the TLB
        a64.str_(3, base),
        a64.pair(kind, a64.PAIR_OFFSET, 0, 1, base),
        a64.b(0),
    ]

    begin(twins, words, {0: 0x1111_2222_3333_4444, 1: 0x5555_6666_7777_8888, base: at})

    assert not differences(twins)


@pytest.mark.parametrize("stores", [0, 1])
def test_store_takes_the_reservation_of_another_vcpu_away(twins: Twins, stores: int) -> None:
    words = [
        a64.str_(1, 2),
        a64.b(-4),
        a64.ldxr(3, 0, 2),
        a64.stxr(3, 4, 1, 2),
    ]

    begin(twins, words, {2: bare.DATA})  # the store has its page in the TLB
    for twin in twins:
        twin.step(1, 1, bare.CODE + 8)
        twin.step(0, 2 * stores)
        twin.step(1, 1)

    failed = [twin.native.get_register(1, register_ids.x(4)) for twin in twins]
    assert failed == [stores, stores]
    assert not differences(twins)


# What sets the flags of x0 and x1 in every way that threaded code has.
FLAG_SETTERS = {
    "CMP of 64 bits": a64.add_reg(a64.ZR, 0, 1, sub=1, s=1),
    "CMP of 32 bits": a64.add_reg(a64.ZR, 0, 1, sub=1, s=1, sf=0),
    "CMN of 64 bits": a64.add_reg(a64.ZR, 0, 1, s=1),
    "CMN of 32 bits": a64.add_reg(a64.ZR, 0, 1, s=1, sf=0),
    "TST of 64 bits": a64.logical_reg(3, a64.ZR, 0, 1),
    "TST of 32 bits": a64.logical_reg(3, a64.ZR, 0, 1, sf=0),
    "BICS": a64.logical_reg(3, a64.ZR, 0, 1, invert=1),
}
OPERANDS = (0, 1, 2, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 63, (1 << 63) - 1, (1 << 64) - 1)


def every_use_of_flags(setter: int) -> list[int]:
    """Return code that gathers in x2 to x4 what branches, selections and comparisons make of it."""
    words = []
    for condition in range(16):
        words += [setter, a64.add_reg(2, 2, 2), a64.b_cond(condition, 8), a64.add_imm(2, 2, 1)]
        words += [setter, a64.csel(5, 6, 7, condition, op=1, op2=1), a64.add_reg(3, 5, 3)]
        words += [a64.extr(3, 3, 3, 7)]
        for size in (0, 1):
            words += [setter, a64.ccmp(6, 7, condition, condition, sf=size)]
            words += [a64.mrs(5, a64.NZCV), a64.add_reg(4, 5, 4), a64.extr(4, 4, 4, 5)]
    return [*words, a64.mrs(5, a64.NZCV), a64.b(0)]


@pytest.mark.parametrize("setter", FLAG_SETTERS)
def test_flags_mean_the_same_to_every_instruction_that_reads_them(
    twins: Twins, setter: str
) -> None:
    words = every_use_of_flags(FLAG_SETTERS[setter])
    begin(twins, words)
    used = [register_ids.x(number) for number in range(8)]
    for first, second in product(OPERANDS, repeat=2):
        start = dict(zip(used, (first, second, 0, 0, 0, 0, second, first), strict=True))
        for twin in twins:
            for register, value in {**start, register_ids.PC: bare.CODE}.items():
                twin.native.set_register(0, register, value)
            twin.run(2 * len(words))

        found = [[twin.native.get_register(0, each) for each in used] for twin in twins]
        assert found[0] == found[1], f"{first:#x}, {second:#x}"


def shifts_of_every_amount(sf: int) -> list[list[int]]:
    """Return instructions that shift or extract, by group; each leaves its result in x2."""
    amounts = range(32 << sf)
    edges = (0, 1, 7, amounts[-1] // 2, amounts[-1] - 1, amounts[-1])
    fields = [(rotate, last) for rotate in edges for last in amounts]
    fields += [(rotate, last) for rotate in amounts for last in edges]
    return [
        [a64.extr(2, 0, 1, lsb, sf) for lsb in amounts],
        *([a64.bitfield(opc, 2, 0, *field, sf) for field in fields] for opc in range(3)),
        [
            a64.logical_reg(opc, 2, 0, 1, invert=invert, shift=shift, by=by, sf=sf)
            for opc in range(4)
            for invert in (0, 1)
            for shift in range(4)
            for by in edges
        ],
        [
            a64.add_reg(2, 0, 1, sub=sub, s=s, shift=shift, by=by, sf=sf)
            for sub in (0, 1)
            for s in (0, 1)
            for shift in range(3)
            for by in amounts
        ],
    ]


@pytest.mark.parametrize("sf", [0, 1])
def test_every_amount_of_a_shift_gives_the_same(twins: Twins, sf: int) -> None:
    x = {0: 0x8123_4567_89AB_CDEF, 1: 0x7EDC_BA98_F654_3211, 2: 0x5A5A_5A5A_A5A5_A5A5}
    for group in shifts_of_every_amount(sf):
        gathered = [[word, a64.add_reg(3, 3, 2), a64.extr(3, 3, 3, 11)] for word in group]
        for first in range(0, len(gathered), 600):
            part = [word for words in gathered[first : first + 600] for word in words]

            begin(twins, [*part, a64.b(0)], {**x, 3: 0}, budget=len(part))

            assert not differences(twins)


@pytest.mark.parametrize("number", range(8))
def test_hint_ends_the_turn_or_waits_as_the_plain_half_has_it(twins: Twins, number: int) -> None:
    begin(twins, [a64.hint(number), a64.movz(0, 1), a64.b(0)], {0: 0}, budget=2)

    is_waiting = number in {2, 3}  # WFE, WFI
    assert {twin.leave.reason == StopReason.IDLE for twin in twins} == {is_waiting}
    assert not differences(twins)


def test_clrex_takes_the_reservation_away(twins: Twins) -> None:
    words = [a64.ldxr(3, 0, 2), a64.barrier(2), a64.stxr(3, 4, 1, 2), a64.b(0)]

    begin(twins, words, {2: bare.DATA})

    assert [twin.native.get_register(0, register_ids.x(4)) for twin in twins] == [1, 1]
    assert not differences(twins)
