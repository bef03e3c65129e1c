"""Registers by id: of every width, in states, and as the table of system registers has them."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tagalong.errors import StateError
from tagalong.machine import MachineState, PowerState, RegisterId, VcpuState, register_ids
from tagalong.machine.cpu_match import CpuPolicy
from tagalong.machine.register_ids import register_bytes, register_name
from tagalong.machine_records import record_of_state, state_of_record
from tagalong.soft import SoftMachine
from tagalong.soft.native import NativeMachine, state_register_ids
from tagalong.wire.machine_state import decode_state, encode_state
from tests.support import a64, bare

WIDE = 0xFEDC_BA98_7654_3210_0123_4567_89AB_CDEF
TOP_BIT = 1 << 127
ID_AA64PFR0_OF_ANOTHER = 0x1101_0010_0011_0011


@pytest.fixture
def native() -> Iterator[NativeMachine]:
    machine = NativeMachine(2, 0)
    yield machine
    machine.close()


def test_vector_register_all_128_bits_are_kept_and_no_neighbour_changes(
    native: NativeMachine,
) -> None:
    values = {register_ids.v(number): WIDE >> number for number in range(32)}
    for register, value in values.items():
        assert native.set_register(0, register, value)

    assert {register: native.get_register(0, register) for register in values} == values
    assert native.get_register(1, register_ids.v(5)) == 0
    assert native.get_register(0, register_ids.PC) == 0


def test_many_registers_at_once_are_what_they_are_one_by_one(native: NativeMachine) -> None:
    changed = {
        register_ids.v(3): WIDE,
        register_ids.x(7): WIDE >> 64,
        register_ids.FPSR: 0x0800_009F,
        register_ids.PC: 0x4000_0004,
    }
    unknown = RegisterId(0x6030_0000_0013_FFFF)
    wider_than_all = RegisterId(0x60A0_0000_0010_0000)
    asked = (*state_register_ids(), unknown, wider_than_all)

    refused = native.set_registers(0, changed)

    assert refused == []
    one_by_one = {each: native.get_register(0, each) for each in state_register_ids()}
    assert native.get_registers(0, asked) == one_by_one
    assert {each: one_by_one[each] for each in changed} == changed


def test_many_registers_at_once_are_refused_by_name_and_the_others_are_written(
    native: NativeMachine,
) -> None:
    given = {
        register_ids.x(1): 5,
        RegisterId(0x6030_0000_0013_FFFF): 1,
        register_ids.FPSR: 1 << 32,
        RegisterId(0x60A0_0000_0010_0000): 0,
        register_ids.x(2): -1,
        register_ids.PSTATE: 0xFF,
        register_ids.x(3): 6,
    }

    refused = native.set_registers(0, given)

    taken = register_ids.x(1), register_ids.x(3)
    assert refused == [each for each in given if each not in taken]
    assert [native.get_register(0, each) for each in taken] == [5, 6]
    assert native.get_register(0, register_ids.x(2)) == 0


def test_sctlr_of_a_vcpu_that_kvm_never_started_is_accepted(native: NativeMachine) -> None:
    reset = 0xC5_0078  # with CP15BEN and nAA, which mean nothing to this CPU

    assert native.set_register(1, register_ids.SCTLR_EL1, reset)
    assert not native.set_register(1, register_ids.SCTLR_EL1, reset | 1 << 7)


def test_register_value_wider_than_its_id_says_is_rejected_and_changes_nothing(
    native: NativeMachine,
) -> None:
    held = {
        register_ids.FPSR: 0x0800_009F,
        register_ids.x(3): (1 << 64) - 1,
        register_ids.v(3): (1 << 128) - 1,
    }
    for register, most in held.items():
        bits = 8 * register_bytes(register)
        assert native.set_register(0, register, most)

        for value in (1 << bits, -1):
            assert not native.set_register(0, register, value)

        assert native.get_register(0, register) == most


@pytest.mark.parametrize(
    ("register", "absent"),
    [
        (register_ids.FPCR, 1 << 1),  # AH: FEAT_AFP
        (register_ids.FPCR, 1 << 13),  # EBF: FEAT_EBF16
        (register_ids.FPCR, 1 << 8),  # IOE: no exception is trapped
        (register_ids.FPSR, 1 << 31),  # N: only AArch32 has it
    ],
)
def test_fp_control_bit_that_this_cpu_lacks_is_rejected_by_name(
    register: RegisterId, absent: int
) -> None:
    machine = SoftMachine.create(ram_bytes=1 << 20)
    vcpu = machine.vcpus[0]
    state = vcpu.save()
    changed = replace(state, registers={**state.registers, register: absent})

    with pytest.raises(StateError, match=f"vCPU 0 rejects {register_name(register)} = {absent:#x}"):
        vcpu.load(changed)

    assert vcpu.save() == state
    machine.close()


def test_register_id_with_another_size_names_no_register(native: NativeMachine) -> None:
    for register in state_register_ids():
        for size in range(9):
            other = type(register)(register & ~(0xF << 52) | size << 52)
            if other != register:
                assert native.get_register(0, other) is None, hex(other)
                assert not native.set_register(0, other, 0), hex(other)


def test_state_register_ids_ascend_and_every_one_can_be_read(native: NativeMachine) -> None:
    ids = state_register_ids()

    assert list(ids) == sorted(set(ids))
    assert not [hex(each) for each in ids if native.get_register(0, each) is None]
    assert {register_bytes(each) for each in ids} == {4, 8, 16}


def test_wide_registers_move_with_the_state_through_the_stream() -> None:
    source, destination = (bare.machine_with([a64.b(0)]) for _ in range(2))
    for register, value in (
        (register_ids.v(0), WIDE),
        (register_ids.v(31), TOP_BIT),
        (register_ids.FPSR, 0x0800_0000),
        (register_ids.FPCR, 0x0300_0000),
    ):
        source.vcpus[0].set_register(register, value)

    sent = encode_state(record_of_state(source.save_state()))
    destination.load_state(state_of_record(decode_state(sent)))

    assert destination.save_state() == source.save_state()
    assert bare.get(destination, register_ids.v(0)) == WIDE
    source.close()
    destination.close()


def test_load_state_with_a_counter_for_each_vcpu_keeps_the_latest() -> None:
    for counts in ((1000, 400), (400, 1000)):
        machine = bare.machine_with([a64.b(0)], vcpu_count=2)
        state = machine.save_state()
        vcpus = tuple(
            VcpuState({**vcpu.registers, register_ids.TIMER_COUNT: count}, vcpu.power)
            for vcpu, count in zip(state.vcpus, counts, strict=True)
        )
        machine.load_state(MachineState(vcpus, state.devices))

        assert [bare.get(machine, register_ids.TIMER_COUNT, vcpu) for vcpu in (0, 1)] == [1000] * 2
        machine.load_state(state)
        assert machine.save_state() == state, "a state with one counter is loaded as it is"
        machine.close()


def test_state_of_another_cpu_that_has_used_its_fp_unit_is_loaded_if_the_operator_allows() -> None:
    machine = SoftMachine.from_description(
        SoftMachine.create(ram_bytes=1 << 20).description, policy=CpuPolicy(allow_mismatch=True)
    )
    state = machine.save_state()
    used = {register_ids.v(3): WIDE, register_ids.FPCR: 0x0300_0000, register_ids.FPSR: 0x10}
    registers = {
        **state.vcpus[0].registers,
        register_ids.ID_AA64PFR0_EL1: ID_AA64PFR0_OF_ANOTHER,
        **used,
    }
    foreign = MachineState((VcpuState(registers, PowerState.ON),), state.devices)

    machine.load_state(foreign)

    assert machine.save_state().vcpus[0].registers.items() >= used.items()
    machine.close()
