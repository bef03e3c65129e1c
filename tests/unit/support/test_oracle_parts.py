"""The parts of the oracle that need neither QEMU nor the embedded machine's answers."""

import struct
from pathlib import Path

import pytest

from tagalong.disassembly import disassemble
from tests.support import a64, oracle_minimise
from tests.support.oracle_compare import Failure
from tests.support.oracle_elf import EXECUTE, READ, WRITE, Segment, executable
from tests.support.oracle_encodings import excluded
from tests.support.oracle_generate import ENCODINGS, KINDS, batch, generate
from tests.support.oracle_layout import MAX_PROGRAM_WORDS, SLOTS, slot_address
from tests.support.oracle_lfsr import draw_tags, recover_rgsr
from tests.support.oracle_outcome import Fault, FaultKind, Outcome, differences
from tests.support.oracle_program import Program
from tests.support.oracle_soft import SoftSide


@pytest.mark.parametrize("kind", KINDS)
def test_program_of_same_seed_is_the_same(kind: str) -> None:
    assert generate(kind, 7) == generate(kind, 7)
    assert generate(kind, 7).words != generate(kind, 8).words


def test_batch_of_encodings_has_every_slot_and_is_reproducible() -> None:
    first = batch(ENCODINGS, 1)

    assert [program.name for program in first[:2]] == ["encodings seed 256", "encodings seed 257"]
    assert len(first) == SLOTS
    assert first == batch(ENCODINGS, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_generated_programs_fit_their_slot_and_are_valid_instructions(kind: str) -> None:
    programs = [generate(kind, seed) for seed in range(20)]

    assert max(len(program.words) for program in programs) <= MAX_PROGRAM_WORDS
    unknown = {
        f"{word:08x}"
        for program in programs
        for word in program.words
        if disassemble(word, 0) == "no disassembly"
    }
    assert not unknown


@pytest.mark.parametrize(
    ("word", "privileged", "reason"),
    [
        (0xDAC10020, False, "PAuth, one source"),
        (0x9AC33041, False, "PAuth, PACGA"),
        (0x4E218441, False, ""),  # ADD V1.16B, V2.16B, V1.16B
        (0xCE638041, False, "SHA512, SHA3, SM3, SM4"),
        (0x6E42C420, False, "FCMA and BF16, three registers"),
        (0x4E829C20, False, "I8MM, USDOT"),
        (0x1E684020, False, "FRINTTS"),
        (0x7EF8FB13, False, "unallocated, two registers of halves"),
        (0x4EF8E800, False, ""),  # FABS V0.8H is 0x4EF8F800, FCMLT V0.8H this
        (0x4EF0C8DF, False, "FMAXV and its kin of halves, size is not as it should be"),
        (0xAD400441, False, "pair with the same register twice"),  # LDP Q1, Q1, [X2]
        (0xADC00821, False, ""),  # LDP Q1, Q2, [X1, #0]!
        (a64.pair(a64.LDP_X, a64.PAIR_OFFSET, 1, 1, 2), False, "pair with the same register twice"),
        (a64.pair(a64.STP_X, a64.PAIR_PRE, 1, 2, 1), False, "pair with the same register twice"),
        (a64.stgp(a64.PAIR_PRE, 1, 2, 1), False, ""),
        (a64.ldst9(a64.LDR_X, a64.POST, 1, 1, 8), False, "write-back into the register itself"),
        (a64.ldst9(a64.LDR_X, a64.UNSCALED, 1, 1, 8), False, ""),
        (a64.stxr(3, 1, 1, 2), False, "status in a register in use"),
        (a64.ldxr(3, 1, 2) & ~(1 << 16), False, "LDXR, Rs is not as it should be"),
        (a64.ldgm(1, 2), True, "LDGM, STGM and STZGM are for EL1"),
        (a64.ldgm(1, 2) | 1 << 12, True, ""),
        (a64.ldgm(1, 2), False, ""),
        (a64.hvc(), True, "SVC, HVC or SMC"),
        (a64.hvc(), False, ""),
        (a64.svc(), False, "SVC, HVC or SMC"),
        (a64.br(1), False, "branch"),
        (a64.hint(3), False, "WFE, WFI or PAuth"),
        (a64.mrs(0, a64.NZCV), False, "system register or instruction"),
        (a64.msr_tco(1), False, ""),
        (a64.msr_tco(1), True, "system instruction at EL1"),
    ],
)
def test_excluded_word_has_its_reason(word: int, privileged: bool, reason: str) -> None:
    assert excluded(word, privileged=privileged) == reason


@pytest.mark.parametrize("rgsr", [0x000105, 0xFFFF0F, 0xACE100, 0x123407])
def test_recovered_rgsr_after_five_draws_predicts_the_rest(rgsr: int) -> None:
    drawn = draw_tags(rgsr, 12)

    assert draw_tags(recover_rgsr(drawn[:5]), 7) == drawn[5:]


def test_executable_has_each_segment_where_it_says() -> None:
    image = executable(
        0x1000, [Segment(0x1000, b"code", READ | EXECUTE), Segment(0x8000, b"", READ | WRITE, 99)]
    )

    assert image[:6] == b"\x7fELF\x02\x01"
    assert struct.unpack_from("<HHIQ", image, 16) == (2, 183, 1, 0x1000)
    headers = [struct.unpack_from("<IIQQQQQQ", image, 64 + 56 * index) for index in range(2)]
    assert headers[0] == (1, 5, 4096, 0x1000, 0x1000, 4, 4, 4096)
    assert headers[1] == (1, 6, 8192, 0x8000, 0x8000, 0, 99, 4096)
    assert image[4096:4100] == b"code"


def outcome(*faults: Fault, data: bytes = b"") -> Outcome:
    return Outcome(
        (0,) * 31,
        0,
        0,
        data,
        b"",
        b"",
        faults,
        asynchronous=False,
        irg=(),
        vectors=b"",
        fpcr=0,
        fpsr=0,
    )


@pytest.mark.parametrize(
    ("kind", "ours", "oracle", "word", "same"),
    [
        (FaultKind.TRANSLATION, 0x0500_0000_4000_0010, 0x4000_0010, a64.ldr(0, 1), True),
        (FaultKind.TRANSLATION, 0x4000_0010, 0x4000_0018, a64.ldr(0, 1), False),
        (FaultKind.TRANSLATION, 0x0080_0000_0000_0000, 0, a64.ldr(0, 1), True),
        (FaultKind.TAG, 0xF500_0000_4000_0010, 0x0500_0000_4000_0010, a64.ldr(0, 1), True),
        (FaultKind.TAG, 0x0500_0000_4000_0010, 0x0400_0000_4000_0010, a64.ldr(0, 1), False),
        (FaultKind.TAG, 0x4000_0410, 0x4000_0470, a64.sys(a64.DC_ZVA, 1), True),
        (FaultKind.TAG, 0x4000_0410, 0x4000_0610, a64.sys(a64.DC_ZVA, 1), False),
        (FaultKind.TRANSLATION, 0x4000_0410, 0x4000_0400, a64.sys(a64.DC_GVA, 1), True),
        (FaultKind.TRANSLATION, 0x4000_0400, 0x4000_0410, a64.sys(a64.DC_GVA, 1), False),
        (FaultKind.UNDEFINED, 0, 0x40380000, a64.udf(), True),
    ],
)
def test_fault_addresses_are_compared_as_far_as_the_architecture_says(
    kind: FaultKind, ours: int, oracle: int, word: int, same: bool
) -> None:
    lines = differences(
        outcome(Fault(kind, 0x40380000, ours)),
        outcome(Fault(kind, 0x40380000, oracle)),
        lambda _: word,
    )

    assert lines == [] if same else lines[0].startswith(f"fault: ours {kind.value} at")


@pytest.mark.parametrize(("kind", "lines"), [(a64.STP_X, 0), (a64.LDP_X, 1)])
def test_memory_after_a_store_over_a_page_end_is_not_compared(
    kind: tuple[int, int], lines: int
) -> None:
    fault = Fault(FaultKind.TRANSLATION, 0x40380000, 0x40304000)
    word = a64.pair(kind, a64.PAIR_OFFSET, 0, 1, 2)

    found = differences(outcome(fault, data=b"1"), outcome(fault, data=b"2"), lambda _: word)

    assert len(found) == lines


def test_minimise_failing_program_leaves_the_chunk_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    culprit = a64.udf(0xBAD)
    chunks = [(a64.movz(0, number),) for number in range(30)]
    program = Program("known", (*chunks, (culprit,), *chunks), generate("data", 0).state)

    def fails_with_culprit(_qemu: Path, _soft: SoftSide, programs: list[Program]) -> list[Failure]:
        return [
            Failure(candidate, slot, ("differs",))
            for slot, candidate in enumerate(programs)
            if culprit in candidate.words
        ]

    monkeypatch.setattr(oracle_minimise, "compare", fails_with_culprit)
    soft: SoftSide = SoftSide.__new__(SoftSide)

    smallest = oracle_minimise.minimise(Path(), soft, Failure(program, 0, ("differs",)))

    assert smallest.program.words == [culprit]
    assert smallest.lines == ("differs",)


def test_word_at_pc_of_a_slot_is_the_instruction_there() -> None:
    program = generate("mixed", 3)

    assert program.word_at(3, slot_address(3) + 8) == program.words[2]
