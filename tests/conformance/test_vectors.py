"""Vector registers on every machine: the same results, traps and state, for the same programs."""

from collections.abc import Mapping

from tagalong.machine import Machine, RegisterId, register_ids
from tagalong.memory import Gpa
from tests.support import a64
from tests.support.bare import DATA
from tests.support.bare_program import BareProgram, Maker
from tests.support.simd_words import (
    ADD_16B,
    AESE,
    FADD_D,
    LD4_16B,
    LDP_Q_PRE,
    SHA256H,
    SQADD_16B,
    ST4_16B_POST,
    STP_Q_POST,
)

FPEN = 3 << 20
FP_TRAP = 0x07 << 26 | 1 << 25 | 0x1E0_0000
QC = 1 << 27
V0 = 0x7F7F_FF80_8000_0001_3FF0_0000_4000_0000
V1 = 0x0101_FFFF_0180_7F80_4000_0000_0000_0001
LANES = {number: V0 ^ number << 100 | number for number in range(2, 32)} | {0: V0, 1: V1}
AFTER_AESE_AND_SHA256H = 0x2D1F_18E9_1874_10D9_1811_764C_DCD4_CCC8
STATE: Mapping[RegisterId, int] = {
    **{register_ids.v(number): value for number, value in LANES.items()},
    register_ids.FPSR: QC | 0x11,
    register_ids.FPCR: 0x0340_0000,
}
LOOP = a64.b(0)


def make_ready(program: BareProgram) -> BareProgram:
    vcpu = program.machine.vcpus[0]
    vcpu.set_register(register_ids.CPACR_EL1, FPEN)
    for number, value in LANES.items():
        vcpu.set_register(register_ids.v(number), value)
    return program


def get_v(program: BareProgram, number: int) -> int:
    return program.machine.vcpus[0].get_register(register_ids.v(number))


def test_integer_operations_give_the_manuals_results_and_qc(bare: Maker) -> None:
    program = make_ready(bare([SQADD_16B, a64.mrs(10, a64.FPSR)], {10: 0})).run()

    signed = [
        max(-128, min(127, one + other))
        for one, other in zip(_signed_bytes(V0), _signed_bytes(V1), strict=True)
    ]
    assert program.has_ended
    assert get_v(program, 0).to_bytes(16, "little") == bytes(each & 0xFF for each in signed)
    assert program.x(10) == QC


def _signed_bytes(value: int) -> list[int]:
    return [each - 256 if each > 127 else each for each in value.to_bytes(16, "little")]


def test_cryptography_gives_the_same_numbers(bare: Maker) -> None:
    program = make_ready(bare([AESE, SHA256H])).run()

    assert program.has_ended
    assert get_v(program, 0) == AFTER_AESE_AND_SHA256H
    others = range(1, 32)
    assert [get_v(program, number) for number in others] == [LANES[number] for number in others]


def test_floating_point_clears_what_is_above_its_result(bare: Maker) -> None:
    program = make_ready(bare([FADD_D]))
    write(program.machine, {register_ids.v(0): 1 << 127 | 0x3FF8_0000_0000_0000})

    program.run()

    assert program.has_ended
    assert get_v(program, 0) == 0x4008_0000_0000_0000, "1.5 + 1.5"


def test_structures_are_taken_apart_and_put_together_again(bare: Maker) -> None:
    words = [LD4_16B, ADD_16B, a64.add_imm(1, 1, 64), ST4_16B_POST]
    program = make_ready(bare(words, {1: DATA}))
    block = bytes(range(64))
    program.machine.memory.write(Gpa(DATA), block)

    program.run()

    expected = bytearray(block)
    for index in range(0, 64, 4):
        expected[index] = (block[index] + block[index + 1]) & 0xFF
    assert program.has_ended
    assert bytes(program.machine.memory.read(Gpa(DATA + 64), 64)) == expected
    assert [get_v(program, n).to_bytes(16, "little") for n in (1, 2, 3)] == [
        block[n::4] for n in (1, 2, 3)
    ]


def test_pairs_of_16_bytes_are_copied_and_bases_written_back(bare: Maker) -> None:
    program = make_ready(bare([LDP_Q_PRE, STP_Q_POST, a64.mov(10, 1)], {1: DATA, 10: 0}))
    program.machine.memory.write(Gpa(DATA + 32), bytes(range(32)))

    program.run()

    assert program.has_ended
    assert (get_v(program, 0), get_v(program, 1)) == (
        int.from_bytes(bytes(range(16)), "little"),
        int.from_bytes(bytes(range(16, 32)), "little"),
    )
    assert program.x(10) == DATA + 64


def test_instruction_without_permission_traps(bare: Maker) -> None:
    program = make_ready(bare([ADD_16B]))
    program.machine.vcpus[0].set_register(register_ids.CPACR_EL1, 0)

    program.run()

    assert not program.has_ended
    assert program.esr == FP_TRAP
    assert get_v(program, 0) == V0


def test_state_of_vector_registers_moves(bare: Maker) -> None:
    one, other = bare([LOOP]), bare([LOOP])
    write(one.machine, STATE)

    other.machine.load_state(one.machine.save_state())

    assert read(other.machine, STATE) == STATE


def write(machine: Machine, values: Mapping[RegisterId, int]) -> None:
    for register, value in values.items():
        machine.vcpus[0].set_register(register, value)


def read(machine: Machine, registers: Mapping[RegisterId, int]) -> dict[RegisterId, int]:
    return {register: machine.vcpus[0].get_register(register) for register in registers}
