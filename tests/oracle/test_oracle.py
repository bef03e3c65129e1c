"""The oracle itself: what it reports for known programs, and that a difference is noticed."""

from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support import a64, oracle_qemu
from tests.support.oracle_generate import KINDS, batch
from tests.support.oracle_layout import (
    DATA,
    DATA_GRANULES,
    HOLE,
    READONLY,
    RUNNER,
    RUNNER_BYTES,
    SUPERVISOR,
    SUPERVISOR_BYTES,
    slot_address,
)
from tests.support.oracle_lfsr import draw_tags, recover_rgsr
from tests.support.oracle_outcome import FaultKind, differences
from tests.support.oracle_program import TCO_BIT, Program, State, TagCheckFaults
from tests.support.oracle_soft import SoftSide

pytestmark = pytest.mark.oracle

TAG, WRONG = 3 << 56, 5 << 56
START = slot_address(0)


def program(
    *words: int, faults: TagCheckFaults = TagCheckFaults.SYNC, pstate: int = 0, exclude: int = 0
) -> Program:
    """DATA is tagged 3; x1 points to it with that tag, x2 with a wrong one, x3 to the hole."""
    registers = [0] * 31
    registers[1:5] = DATA | TAG, DATA | WRONG, HOLE, READONLY
    tags = bytes([3] * DATA_GRANULES)
    state = State(tuple(registers), DATA | TAG, pstate, tags, faults, exclude)
    return Program("known program", tuple((word,) for word in words), state)


@pytest.mark.parametrize(
    ("word", "kind", "address"),
    [
        (a64.ldr(0, 2), FaultKind.TAG, DATA | WRONG),
        (a64.str_(0, 2, 8), FaultKind.TAG, DATA + 8 | WRONG),
        (a64.ldr(0, 3), FaultKind.TRANSLATION, HOLE),
        (a64.stg(4, 4), FaultKind.PERMISSION, READONLY),
        (a64.ldst9(a64.STR_X, a64.UNSCALED, 0, 1, 9), None, 0),
        (a64.tag_store(a64.STG, a64.PRE, 1, 5, 0), FaultKind.TRANSLATION, 0),
        (a64.udf(1), FaultKind.UNDEFINED, 0),
        (a64.brk(1), FaultKind.BREAKPOINT, START),
    ],
)
def test_known_instruction_on_oracle_is_reported_with_pc_and_far(
    qemu: Path, word: int, kind: FaultKind | None, address: int
) -> None:
    [run] = oracle_qemu.run(qemu, [program(a64.hint(0), word)])

    faults = [(fault.kind, fault.pc) for fault in run.outcome.faults]
    assert faults == ([(kind, START + 4)] if kind else [])
    if kind in {FaultKind.TAG, FaultKind.TRANSLATION, FaultKind.PERMISSION}:
        assert run.outcome.faults[0].address == address


def test_wrong_tag_with_checks_off_or_asynchronous_on_oracle_goes_on(qemu: Path) -> None:
    load = a64.ldr(0, 2)
    programs = [
        program(load, pstate=TCO_BIT),
        program(load, faults=TagCheckFaults.NONE),
        program(load, faults=TagCheckFaults.ASYNC),
        program(load, a64.msr_tco(1), load),
    ]

    outcomes = [run.outcome for run in oracle_qemu.run(qemu, programs)]

    assert [outcome.asynchronous for outcome in outcomes] == [False, False, True, False]
    assert [len(outcome.faults) for outcome in outcomes] == [0, 0, 0, 1]
    assert outcomes[3].pstate & TCO_BIT


def test_programs_on_oracle_meet_every_kind_of_fault(qemu: Path) -> None:
    runs = [run for kind in KINDS for run in oracle_qemu.run(qemu, batch(kind, 0))]

    kinds = Counter(fault.kind for run in runs for fault in run.outcome.faults)
    assert kinds[FaultKind.TAG] > 2000
    assert kinds[FaultKind.ALIGNMENT] > 300
    assert kinds[FaultKind.TRANSLATION] > 1000
    assert kinds[FaultKind.PERMISSION] > 300
    assert kinds[FaultKind.UNDEFINED] > 300
    assert kinds[FaultKind.OTHER] == 0
    assert sum(run.outcome.asynchronous for run in runs) > 30


def test_lfsr_recovered_after_a_program_predicts_the_next_ones_tags(qemu: Path) -> None:
    runs = oracle_qemu.run(qemu, batch("tags", 0)[:20])

    for run, following in pairwise(runs):
        predicted = draw_tags(recover_rgsr(run.outcome.irg), len(following.irg_before))
        assert predicted == following.irg_before


@pytest.mark.parametrize(
    ("theirs", "ours", "line"),
    [
        (a64.movz(5, 1), a64.movz(5, 2), "x5: ours 0x0000000000000002, oracle 0x0000000000000001"),
        (a64.add_imm(a64.SP, a64.SP, 16), a64.hint(0), "sp: ours 0x0300000040300000, oracle "),
        (a64.sub_imm(a64.ZR, 0, 0, s=1), a64.hint(0), "pstate: ours 0x3c0, oracle 0x60000000"),
        (a64.msr_tco(1), a64.hint(0), "pstate: ours 0x3c0, oracle 0x2000000"),
        (a64.str_(1, 1), a64.str_(0, 1), "data at 0x40300002 (3 differ): ours 0x0, oracle 0x30"),
        (
            a64.stg(2, 1, 32),
            a64.stg(1, 1, 32),
            "tag at 0x40300020 (1 differ): ours 0x3, oracle 0x5",
        ),
        (a64.irg(0, 1), a64.hint(0), "x0: ours 0x0000000000000000, oracle 0x"),
        (a64.ldr(0, 2), a64.ldr(0, 2, 8), "fault: ours tag at 0x40380000 far 0x0500000040300008"),
        (a64.ldr(0, 2), a64.hint(0), "fault on the oracle only: tag at 0x40380000"),
        (a64.hint(0), a64.udf(), "fault on ours only: undefined at 0x40380000"),
    ],
)
def test_other_instruction_on_our_side_is_noticed(
    qemu: Path, soft: SoftSide, theirs: int, ours: int, line: str
) -> None:
    [oracle] = oracle_qemu.run(qemu, [program(theirs)])
    changed = program(ours)
    soft.load_code([changed])

    outcome = soft.run(changed, 0, recover_rgsr(oracle.irg_before))

    lines = differences(outcome, oracle.outcome, partial(changed.word_at, 0))
    assert lines
    assert lines[0].startswith(line)


def test_program_that_leaves_the_oracle_is_named(qemu: Path) -> None:
    leaves = program(*a64.mov_value(8, 94), a64.svc())

    with pytest.raises(RuntimeError, match="ended early after 1 of 2 programs, in known program"):
        oracle_qemu.run(qemu, [program(a64.hint(0)), leaves])


def test_program_that_never_ends_on_our_side_is_refused(soft: SoftSide) -> None:
    endless = program(a64.b(0))
    soft.load_code([endless])

    with pytest.raises(RuntimeError, match="did not end: BUDGET at 0x40380000"):
        soft.run(endless, 0, 0)


@pytest.mark.parametrize(
    ("start", "size"), [(RUNNER, RUNNER_BYTES), (SUPERVISOR, SUPERVISOR_BYTES)]
)
def test_number_of_16_bits_shifted_leads_to_neither_side_s_own_room(start: int, size: int) -> None:
    first_multiples = [(-(-start >> shift), shift) for shift in range(64)]

    reached = [n << s for n, s in first_multiples if n < 1 << 16 and n << s < start + size]
    assert not reached
