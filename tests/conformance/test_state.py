"""A vCPU's state, saved on one machine and taken over by another of its kind."""

import pytest

from tagalong.errors import RunStateError, StateError
from tagalong.machine import MachineState, PowerState, RegisterId, VcpuState, register_ids
from tagalong.memory import Gpa
from tests.support import a64
from tests.support.bare import DATA, tagged
from tests.support.bare_program import BareProgram, Maker

MTE_REGISTERS = {
    register_ids.RGSR_EL1: 0x1205,
    register_ids.GCR_EL1: 0x1ABCD,
    register_ids.TFSR_EL1: 0x1,
    register_ids.TFSRE0_EL1: 0x2,
}
LOOP = a64.b(0)


def copy_ram(source: BareProgram, target: BareProgram) -> None:
    region = source.machine.memory.regions[0]
    page = region.page_size_bytes
    for first, count in source.machine.populated_pages()[0].runs().tolist():
        gpa, length = Gpa(region.gpa + first * page), count * page
        target.machine.memory.write(gpa, source.machine.memory.read(gpa, length))
        target.machine.write_tags(gpa, source.machine.read_tags(gpa, length))


def test_state_of_mte_registers_moves(bare: Maker) -> None:
    one, other = bare([LOOP]), bare([LOOP])
    for register, value in MTE_REGISTERS.items():
        one.machine.vcpus[0].set_register(register, value)

    other.machine.load_state(one.machine.save_state())

    for register, value in MTE_REGISTERS.items():
        assert other.machine.vcpus[0].get_register(register) == value


def test_state_with_tco_set_moves_and_still_suppresses_checks(bare: Maker) -> None:
    words = [a64.msr_tco(1), LOOP, a64.ldr(1, 2), a64.msr_tco(0), a64.ldr(1, 2)]
    registers = {1: 0, 2: tagged(DATA, 3)}
    # The program that is moved is in its loop; the rest comes behind it.
    one = bare(words[:2], registers)
    other = bare(words[:2], registers)
    one.run_to_loop()
    assert one.machine.vcpus[0].get_register(register_ids.PSTATE) & 1 << 25
    copy_ram(one, other)
    tail = b"".join(word.to_bytes(4, "little") for word in words[2:])
    behind = Gpa(one.pc + 4)

    other.machine.load_state(one.machine.save_state())
    other.machine.memory.write(behind, tail)
    other.leave_loop()
    other.run()

    assert (other.esr, other.far) == (0x9600_0011, tagged(DATA, 3))
    # The first load passed, the second did not.
    assert other.machine.vcpus[0].get_register(register_ids.ELR_EL1) == behind + 8


def test_state_after_a_device_access_has_the_access_completed(bare: Maker) -> None:
    words = [a64.ldr(3, 2, 0x18), a64.str_(1, 2), a64.add_imm(4, 4, 1), a64.b(-12)]
    program = bare(words, {1: ord("."), 2: 0x0900_0000, 3: 0, 4: 0})
    start = program.pc

    moments = set[int]()
    while len(moments) < 30:  # however late the guest gets a CPU
        program.machine.resume()
        program.machine.wait(0.003)
        program.machine.pause()
        written, counted = len(program.output), program.x(4)
        # At `add` the store is done and not yet counted; anywhere else both agree.
        assert written == counted + (program.pc == start + 8)
        moments.add(written)


def test_save_state_while_running_is_refused(bare: Maker) -> None:
    program = bare([LOOP])
    program.machine.resume()

    with pytest.raises(RunStateError, match="pause it first"):
        program.machine.save_state()

    program.machine.pause()


def test_load_state_with_an_unknown_register_refuses_by_name(bare: Maker) -> None:
    program = bare([LOOP])
    state = program.machine.save_state()
    unknown = register_ids.sysreg(3, 7, 15, 15, 7)

    with pytest.raises(StateError, match=r"vCPU 0 lacks S3_7_C15_C15_7 = 0x5"):
        program.machine.load_state(with_register(state, unknown, 5))

    assert program.machine.save_state() == state


def test_load_state_of_another_cpu_is_refused_by_register_and_values(bare: Maker) -> None:
    program = bare([LOOP])
    state = program.machine.save_state()

    with pytest.raises(StateError, match=r"another CPU: .*REVIDR_EL1 is 0x7 there and .* here"):
        program.machine.load_state(with_register(state, register_ids.REVIDR_EL1, 7))

    assert program.machine.save_state() == state


def test_load_state_switches_a_vcpu_off(bare: Maker) -> None:
    one, other = bare([LOOP]), bare([LOOP])
    state = one.machine.save_state()
    off = MachineState((VcpuState(state.vcpus[0].registers, PowerState.OFF),), state.devices)

    other.machine.load_state(off)

    assert other.machine.save_state().vcpus[0].power is PowerState.OFF


def with_register(state: MachineState, register: RegisterId, value: int) -> MachineState:
    vcpu = state.vcpus[0]
    changed = VcpuState({**vcpu.registers, register: value}, vcpu.power)
    return MachineState((changed, *state.vcpus[1:]), state.devices)
