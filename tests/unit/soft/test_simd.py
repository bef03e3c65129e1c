"""Vector registers where more than their values matters: traps, faults, tags, the dirty log, state.

What the instructions compute is compared with another implementation in tests/oracle. The
cryptographic ones are here with the examples of FIPS 197 and FIPS 180-4.
"""

import hashlib

import numpy as np
import pytest

from tagalong.machine import MachineState, VcpuState, register_ids
from tagalong.memory import Gpa
from tagalong.mte import tags as tag_arrays
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import RAM_GPA, SoftMachine
from tagalong.soft.native import StopReason
from tests.support import a64, bare
from tests.support.simd_words import (
    ADD_16B,
    AESE,
    AESMC,
    EOR_16B,
    FADD_D,
    LD1R_16B,
    LD4_4S,
    LD4_16B,
    LDP_Q_PRE,
    LDR_Q,
    SHA1C,
    SHA1H,
    SHA1M,
    SHA1P,
    SHA1SU0,
    SHA1SU1,
    SHA256H,
    SHA256H2,
    SHA256SU0,
    SHA256SU1,
    SQADD_16B,
    ST4_16B_POST,
    STP_Q_POST,
    STR_Q,
    STR_Q_SP,
)

PAGE = 4096
EL0T, EL1H = 0x3C0, 0x3C5
FP_TRAP = 0x07 << 26 | 1 << 25 | 0x1E0_0000
UNDEFINED = 1 << 25
CPACR_FPEN_SHIFT = 20
QC = 1 << 27
EL0_BLOCK = 0x40000000 | 1 << 10 | 3 << 8 | 1 << 6 | 1
ALL_BYTES = int.from_bytes(bytes(range(16)), "little")
UNALLOCATED = (
    0x0EE08400,  # ADD of lanes of 64 bits in 64
    0x4EE09400,  # MLA of lanes of 64 bits
    0x5E208400,  # ADD Bd, Bn, Bm
    0xCE608000,  # SHA512H
    0x6E00C400,  # FCMLA
)


def machine_with(words: list[int], *, fpen: int = 3, el0: bool = False) -> SoftMachine:
    machine = bare.machine_with(words)
    machine.vcpus[0].set_register(register_ids.CPACR_EL1, fpen << CPACR_FPEN_SHIFT)
    if el0:
        machine.memory.write(Gpa(bare.TABLES + 8), EL0_BLOCK.to_bytes(8, "little"))
        machine.vcpus[0].set_register(register_ids.PSTATE, EL0T)
    return machine


def set_vectors(machine: SoftMachine, values: dict[int, int]) -> None:
    for number, value in values.items():
        machine.vcpus[0].set_register(register_ids.v(number), value)


def set_tags(machine: SoftMachine, gpa: int, tags: list[int]) -> None:
    machine.write_tags(Gpa(gpa), tag_arrays.pack(np.array(tags, np.uint8)))


def vectors(machine: SoftMachine, *numbers: int) -> list[int]:
    return [bare.get(machine, register_ids.v(number)) for number in numbers]


def run(machine: SoftMachine, words: list[int]) -> None:
    """Execute `words` once more from the start of the code."""
    machine.memory.write(Gpa(bare.CODE), bare.encoded(words))
    machine.vcpus[0].set_register(register_ids.PC, bare.CODE)
    machine.vcpus[0].step(len(words))


def has_passed(machine: SoftMachine, count: int = 1) -> bool:
    return bare.get(machine, register_ids.PC) == bare.CODE + 4 * count


# --- the trap ---

EVERY_KIND = {
    "load": LDR_Q,
    "store pair": STP_Q_POST,
    "structure": LD4_16B,
    "integer": ADD_16B,
    "cryptography": AESE,
    "floating point": FADD_D,
    "MRS FPCR": a64.mrs(0, a64.FPCR),
    "MSR FPSR": a64.msr(a64.FPSR, 0),
}


@pytest.mark.parametrize("word", EVERY_KIND.values(), ids=EVERY_KIND)
@pytest.mark.parametrize(
    ("fpen", "el0", "traps"),
    [
        (0, False, True),
        (1, False, False),
        (2, False, True),
        (3, False, False),
        (0, True, True),
        (1, True, True),
        (2, True, True),
        (3, True, False),
    ],
)
def test_fpen_decides_for_every_kind_of_instruction_by_level(
    word: int, fpen: int, el0: bool, traps: bool
) -> None:
    machine = machine_with([word], fpen=fpen, el0=el0)
    bare.set_x(machine, {1: bare.DATA, 0: 0})
    set_vectors(machine, {0: ALL_BYTES})

    machine.vcpus[0].step(1)

    assert has_passed(machine) != traps
    if traps:
        assert bare.get(machine, register_ids.ESR_EL1) == FP_TRAP
        assert bare.get(machine, register_ids.ELR_EL1) == bare.CODE
        assert vectors(machine, 0) == [ALL_BYTES]
        assert bare.get_x(machine, 1) == bare.DATA
    machine.close()


@pytest.mark.parametrize("word", UNALLOCATED)
@pytest.mark.parametrize("fpen", [0, 3])
def test_unallocated_encoding_is_undefined_whatever_fpen_says(word: int, fpen: int) -> None:
    machine = machine_with([word], fpen=fpen)

    assert machine.vcpus[0].step(1) is StopReason.BUDGET

    assert bare.get(machine, register_ids.ESR_EL1) == UNDEFINED
    machine.close()


def test_trap_comes_before_the_fault_of_the_access() -> None:
    machine = machine_with([LDR_Q], fpen=0)
    bare.set_x(machine, {1: 1 << 40})

    machine.vcpus[0].step(1)

    assert bare.get(machine, register_ids.ESR_EL1) == FP_TRAP
    machine.close()


# --- control registers ---


def test_fpcr_and_fpsr_hold_the_fields_that_there_are() -> None:
    words = [
        a64.msr(a64.FPCR, 1),
        a64.msr(a64.FPSR, 1),
        a64.mrs(2, a64.FPCR),
        a64.mrs(3, a64.FPSR),
    ]
    machine = machine_with(words)
    bare.set_x(machine, {1: (1 << 64) - 1})

    machine.vcpus[0].step(4)

    assert bare.get_x(machine, 2) == bare.get(machine, register_ids.FPCR) == 0x07C8_0000
    assert bare.get_x(machine, 3) == bare.get(machine, register_ids.FPSR) == 0x0800_009F
    machine.close()


def test_saturation_sets_qc_and_nothing_clears_it() -> None:
    machine = machine_with([SQADD_16B, SQADD_16B])
    set_vectors(machine, {0: 0x7F, 1: 0x01})

    machine.vcpus[0].step(1)
    saturated = vectors(machine, 0)
    set_vectors(machine, {0: 1})
    machine.vcpus[0].step(1)

    assert saturated == [0x7F]
    assert vectors(machine, 0) == [2]
    assert bare.get(machine, register_ids.FPSR) == QC
    machine.close()


# --- faults, tags, the dirty log ---


@pytest.mark.parametrize("word", [LD4_16B, LDP_Q_PRE, LDR_Q, LD1R_16B])
def test_load_that_faults_changes_no_register(word: int) -> None:
    machine = machine_with([word])
    end = RAM_GPA + bare.RAM_BYTES
    before = {number: ALL_BYTES + number for number in range(8)}
    start = end if word == LD1R_16B else end - 8
    bare.set_x(machine, {1: start - (32 if word == LDP_Q_PRE else 0)})
    set_vectors(machine, before)

    machine.vcpus[0].step(1)

    assert bare.get(machine, register_ids.ESR_EL1) & 0x3F == 0x10, "nothing is behind the RAM"
    assert bare.get(machine, register_ids.FAR_EL1) == end
    assert vectors(machine, *before) == list(before.values())
    assert bare.get_x(machine, 1) == start - (32 if word == LDP_Q_PRE else 0)
    machine.close()


@pytest.mark.parametrize("word", [ST4_16B_POST, STP_Q_POST, STR_Q])
def test_store_that_faults_changes_neither_memory_nor_base(word: int) -> None:
    machine = machine_with([word])
    end = RAM_GPA + bare.RAM_BYTES
    machine.memory.write(Gpa(end - 8), b"\x55" * 8)
    bare.set_x(machine, {1: end - 8})

    machine.vcpus[0].step(1)

    assert bare.get(machine, register_ids.FAR_EL1) == end
    assert bytes(machine.memory.read(Gpa(end - 8), 8)) == b"\x55" * 8
    assert bare.get_x(machine, 1) == end - 8
    machine.close()


@pytest.mark.parametrize(
    ("word", "granules"),
    [(LDR_Q, 1), (STR_Q, 1), (STP_Q_POST, 2), (LDP_Q_PRE, 2), (LD4_16B, 4), (ST4_16B_POST, 4)],
)
@pytest.mark.parametrize("warm", [False, True])
def test_every_granule_of_an_access_is_checked(word: int, granules: int, warm: bool) -> None:
    first = bare.DATA + (32 if word == LDP_Q_PRE else 0)
    for bad in range(granules + 1):
        machine = machine_with([word] * 2)
        set_tags(machine, first, [3] * 6)
        steps = 2 if warm else 1
        for step in range(steps):  # the second access finds its page in the TLB
            if step == steps - 1:
                set_tags(machine, first, [4 if i == bad else 3 for i in range(6)])
            bare.set_x(machine, {1: bare.tagged(bare.DATA, 3)})
            machine.vcpus[0].step(1)

        if bad == granules:  # beside the access
            assert has_passed(machine, steps)
        else:
            assert bare.get(machine, register_ids.ESR_EL1) & 0x3F == 0x11
            assert bare.get(machine, register_ids.FAR_EL1) == bare.tagged(first + 16 * bad, 3)
        machine.close()


def test_access_at_sp_with_an_immediate_is_unchecked() -> None:
    machine = machine_with([STR_Q_SP])
    set_tags(machine, bare.DATA, [3, 3])
    machine.vcpus[0].set_register(register_ids.SP_EL1, bare.tagged(bare.DATA, 5))

    machine.vcpus[0].step(1)

    assert has_passed(machine)
    machine.close()


def test_asynchronous_mismatch_of_a_structure_store_is_recorded_and_stored() -> None:
    machine = bare.machine_with([ST4_16B_POST], mode=TagCheckMode.ASYNC)
    machine.vcpus[0].set_register(register_ids.CPACR_EL1, 3 << CPACR_FPEN_SHIFT)
    set_tags(machine, bare.DATA + 32, [3, 0])
    bare.set_x(machine, {1: bare.DATA})
    set_vectors(machine, {0: ALL_BYTES})

    machine.vcpus[0].step(1)

    assert bare.get(machine, register_ids.TFSR_EL1) == 1
    assert bytes(machine.memory.read(Gpa(bare.DATA + 4), 1)) == b"\x01"
    machine.close()


@pytest.mark.parametrize(
    ("word", "alignment"), [(LDR_Q, 16), (STR_Q, 16), (STP_Q_POST, 16), (LD4_16B, 1), (LD4_4S, 4)]
)
def test_sctlr_a_wants_each_element_aligned(word: int, alignment: int) -> None:
    for misaligned in range(1, 17):
        machine = machine_with([word])
        sctlr = bare.sctlr(TagCheckMode.SYNC) | 1 << 1
        machine.vcpus[0].set_register(register_ids.SCTLR_EL1, sctlr)
        bare.set_x(machine, {1: bare.DATA + misaligned})

        machine.vcpus[0].step(1)

        assert has_passed(machine) == (misaligned % alignment == 0)
        if misaligned % alignment:
            assert bare.get(machine, register_ids.ESR_EL1) & 0x3F == 0x21
            assert bare.get(machine, register_ids.FAR_EL1) == bare.DATA + misaligned
        machine.close()


@pytest.mark.parametrize("word", [STR_Q, STP_Q_POST, ST4_16B_POST])
def test_store_of_vectors_is_in_the_dirty_log(word: int) -> None:
    machine = machine_with([word] * 3)
    edge = bare.DATA + 2 * PAGE - 8
    page = (edge - RAM_GPA) // PAGE
    machine.start_dirty_log()

    for address, pages in ((edge, [page, page + 1]), (edge - 128, [page]), (edge - 128, [page])):
        bare.set_x(machine, {1: address})
        machine.vcpus[0].step(1)
        assert machine.harvest_dirty_log()[0].pages().tolist() == pages
    machine.close()


# --- state ---


def test_state_of_a_machine_without_simd_is_loaded_and_keeps_its_identity() -> None:
    words = [a64.mrs(0, (3, 0, 0, 4, 0)), a64.mrs(1, (3, 0, 0, 6, 0))]
    machine = machine_with(words)
    state = machine.save_state()
    before = {
        register_ids.ID_AA64PFR0_EL1: 0x0001_0000_00FF_0011,
        register_ids.ID_AA64ISAR0_EL1: 0x0020_0000_0021_0000,
    }
    old = VcpuState({**state.vcpus[0].registers, **before}, state.vcpus[0].power)

    machine.load_state(MachineState((old,), state.devices))
    machine.vcpus[0].step(2)

    assert [bare.get_x(machine, number) for number in (0, 1)] == list(before.values())
    assert machine.save_state().vcpus[0].registers.items() >= before.items()
    machine.close()


def test_id_registers_claim_what_is_there() -> None:
    machine = machine_with([a64.mrs(0, (3, 0, 0, 3, n)) for n in range(3)])

    machine.vcpus[0].step(3)

    pfr0 = bare.get(machine, register_ids.ID_AA64PFR0_EL1)
    isar0 = bare.get(machine, register_ids.ID_AA64ISAR0_EL1)
    assert (pfr0 >> 16 & 15, pfr0 >> 20 & 15) == (1, 1), "FP and AdvSIMD, with half precision"
    fields = {"AES": 4, "SHA1": 8, "SHA2": 12, "CRC32": 16, "Atomic": 20, "RDM": 28, "DP": 44}
    claimed = {name: isar0 >> low & 15 for name, low in fields.items()}
    assert claimed == {
        "AES": 2, "SHA1": 1, "SHA2": 1, "CRC32": 1, "Atomic": 2, "RDM": 1, "DP": 1
    }  # fmt: skip
    assert isar0 >> 32 & 0xFFF == 0, "SHA3, SM3 and SM4 are not there"
    assert bare.get_x(machine, 0) == 0, "MVFR0_EL1 is of AArch32, which is not there"
    machine.close()


# --- cryptography: the standards' own examples ---


def test_aes_round_gives_fips_197_appendix_b() -> None:
    """The first round of the example: AddRoundKey, SubBytes, ShiftRows, MixColumns."""
    machine = machine_with([AESE, AESMC, EOR_16B])
    plain, key, next_key, expected = (
        int.from_bytes(bytes.fromhex(text), "little")
        for text in (
            "3243f6a8885a308d313198a2e0370734",
            "2b7e151628aed2a6abf7158809cf4f3c",
            "a0fafe1788542cb123a339392a6c7605",
            "a49c7ff2689f352b6b5bea43026a5049",
        )
    )
    set_vectors(machine, {0: plain, 1: key})

    machine.vcpus[0].step(2)
    set_vectors(machine, {1: next_key})
    machine.vcpus[0].step(1)

    assert vectors(machine, 0) == [expected]
    machine.close()


SHA1_START = [0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0]
SHA1_ROUNDS = (
    (SHA1C, 0x5A827999), (SHA1P, 0x6ED9EBA1), (SHA1M, 0x8F1BBCDC), (SHA1P, 0xCA62C1D6)
)  # fmt: skip
SHA256_START = [
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19
]  # fmt: skip


def _sha256_constants() -> list[int]:
    """Return the fractions of the cube roots of the first 64 primes, as the standard defines."""
    primes = [n for n in range(2, 312) if all(n % k for k in range(2, n))][:64]
    return [_cube_root(prime << 96) & 0xFFFF_FFFF for prime in primes]


def _cube_root(value: int) -> int:
    low, high = 0, 1 << (value.bit_length() // 3 + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**3 <= value else (low, middle - 1)
    return low


def _pack(words: list[int]) -> int:
    return sum(word << 32 * index for index, word in enumerate(words))


def _digest(words: list[int], start: list[int]) -> bytes:
    sums = ((word + first) & 0xFFFF_FFFF for word, first in zip(words, start, strict=True))
    return b"".join(value.to_bytes(4, "big") for value in sums)


def _unpack(value: int) -> list[int]:
    return [value >> 32 * index & 0xFFFF_FFFF for index in range(4)]


def test_sha256_of_a_block_is_that_of_the_standard() -> None:
    """V0, V1: the hash. V2: its first half before the rounds. V3: what they add. V4 to V7: W."""
    block = b"abc\x80" + bytes(52) + (24).to_bytes(8, "big")
    machine = machine_with([])
    schedule = [
        _pack([int.from_bytes(block[i + j : i + j + 4], "big") for j in range(0, 16, 4)])
        for i in range(0, 64, 16)
    ]
    constants = _sha256_constants()
    set_vectors(machine, {0: _pack(SHA256_START[:4]), 1: _pack(SHA256_START[4:])})
    for index in range(16):
        pairs = zip(_unpack(schedule[index]), constants[4 * index : 4 * index + 4], strict=True)
        added = _pack([(word + constant) & 0xFFFF_FFFF for word, constant in pairs])
        set_vectors(machine, {2: vectors(machine, 0)[0], 3: added})
        run(machine, [SHA256H, SHA256H2])
        if index < 12:
            set_vectors(machine, dict(enumerate(schedule[index : index + 4], 4)))
            run(machine, [SHA256SU0, SHA256SU1])
            schedule.append(vectors(machine, 4)[0])

    words = [word for vector in vectors(machine, 0, 1) for word in _unpack(vector)]
    assert _digest(words, SHA256_START) == hashlib.sha256(b"abc").digest()
    machine.close()


def test_sha1_of_a_block_is_that_of_the_standard() -> None:
    """V0: a to d. V1: e. V2: what the rounds add. V4 to V7: W. V3: the next e."""
    block = b"abc\x80" + bytes(52) + (24).to_bytes(8, "big")
    machine = machine_with([])
    schedule = [
        _pack([int.from_bytes(block[i + j : i + j + 4], "big") for j in range(0, 16, 4)])
        for i in range(0, 64, 16)
    ]
    set_vectors(machine, {0: _pack(SHA1_START[:4]), 1: SHA1_START[4]})
    for index in range(20):
        rounds, constant = SHA1_ROUNDS[index // 5]
        added = [(word + constant) & 0xFFFF_FFFF for word in _unpack(schedule[index])]
        set_vectors(machine, {2: _pack(added), **dict(enumerate(schedule[index : index + 4], 4))})
        run(machine, [SHA1H, rounds])
        set_vectors(machine, {1: vectors(machine, 3)[0]})
        if index < 16:
            run(machine, [SHA1SU0, SHA1SU1])
            schedule.append(vectors(machine, 4)[0])

    words = [*_unpack(vectors(machine, 0)[0]), vectors(machine, 1)[0]]
    assert _digest(words, SHA1_START) == hashlib.sha1(b"abc").digest()
    machine.close()
