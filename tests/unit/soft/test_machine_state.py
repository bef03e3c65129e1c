"""The state of an embedded machine: saved, peeked at, checked and loaded."""

import numpy as np
import pytest

from tagalong.errors import (
    RunStateError,
    StateError,
)
from tagalong.machine import (
    MachineState,
    PowerState,
    RunState,
    register_ids,
)
from tests.support import a64, bare


def test_state_moved_in_mid_run_result_is_the_same() -> None:
    words = [a64.add_imm(0, 0, 1), a64.irg(3, 1), a64.stg(3, 3), a64.add_imm(1, 1, 16)] * 50
    whole, first, second = (bare.machine_with(words) for _ in range(3))
    for machine in (whole, first):
        bare.set_x(machine, {1: bare.DATA})

    whole.vcpus[0].step(200)
    first.vcpus[0].step(77)
    second.load_state(first.save_state())
    second.memory.regions[0].raw_data[:] = first.memory.regions[0].data
    second.memory.regions[0].raw_tags[:] = first.memory.regions[0].tags
    second.vcpus[0].step(123)

    assert second.save_state() == whole.save_state()
    assert np.array_equal(second.memory.regions[0].tags, whole.memory.regions[0].tags)
    for machine in (whole, first, second):
        machine.close()


def test_load_state_unknown_register_is_refused_by_name_and_nothing_changes() -> None:
    machine = bare.machine_with([a64.b(0)])
    state = machine.save_state()
    registers = {**state.vcpus[0].registers, register_ids.sysreg(3, 0, 2, 1, 0): 1}
    foreign = MachineState((type(state.vcpus[0])(registers, PowerState.ON),), state.devices)

    with pytest.raises(StateError, match=r"vCPU 0 lacks S3_0_C2_C1_0"):
        machine.load_state(foreign)

    assert machine.save_state() == state
    machine.close()


def test_load_state_other_id_register_is_refused_by_name_and_value() -> None:
    machine = bare.machine_with([a64.b(0)])
    state = machine.save_state()
    registers = {**state.vcpus[0].registers, register_ids.ID_AA64PFR1_EL1: 0x220}
    foreign = MachineState((type(state.vcpus[0])(registers, PowerState.ON),), state.devices)

    with pytest.raises(
        StateError,
        match=r"vCPU 0 is another CPU: ID_AA64PFR1_EL1 is 0x220 there and 0x320 here; accept",
    ):
        machine.load_state(foreign)

    assert machine.save_state() == state
    machine.close()


def test_peek_state_while_running_gives_the_state_between_two_instructions() -> None:
    words = [a64.add_imm(0, 0, 1), a64.add_imm(1, 1, 1), a64.b(-8)]
    machine = bare.machine_with(words)
    x0, x1 = register_ids.x(0), register_ids.x(1)

    machine.resume()
    seen = []
    for _ in range(50):
        seen.append(machine.peek_state().vcpus[0].registers)
        bare.wait_until(lambda: machine.peek_state().vcpus[0].registers[x0] > seen[-1][x0])

    assert machine.run_state is RunState.RUNNING
    assert all(each[x0] - each[x1] == (each[register_ids.PC] == bare.CODE + 4) for each in seen)
    machine.close()


def test_peek_state_while_paused_is_the_saved_state() -> None:
    machine = bare.machine_with([a64.b(0)], vcpu_count=2)

    assert machine.peek_state() == machine.save_state()
    machine.close()


def test_check_state_names_all_that_load_state_would_refuse_and_changes_nothing() -> None:
    machine = bare.machine_with([a64.b(0)], vcpu_count=2)
    bare.set_x(machine, {0: 7})
    state = machine.save_state()
    first, second = state.vcpus
    registers = dict(first.registers) | {
        register_ids.sysreg(3, 0, 2, 1, 0): 1,
        register_ids.ID_AA64PFR1_EL1: 0x220,
        register_ids.x(0): 8,
    }
    missing = {each: 1 for each in second.registers if each != register_ids.GCR_EL1}
    missing |= {register_ids.MPIDR_EL1: 0, register_ids.PSTATE: 1 << 63}
    vcpus = (type(first)(registers, PowerState.OFF), type(second)(missing, PowerState.ON))
    foreign = MachineState(vcpus, {"pl011": bytes(32), "gpu": b""})

    with pytest.raises(StateError) as caught:
        machine.check_state(foreign)
    with pytest.raises(StateError) as loading:
        machine.load_state(foreign)

    said = str(caught.value)
    for part in (
        "the state has a device 'gpu', which this machine has not; ",
        "pl011 state has version 0, expected 1 or 2; ",
        "vCPU 0 lacks S3_0_C2_C1_0 = 0x1; ",
        "vCPU 0 is another CPU: ID_AA64PFR1_EL1 is 0x220 there and 0x320 here; ",
        "vCPU 1 needs GCR_EL1, which the state lacks; ",
        "vCPU 1 is another CPU: ",
        "vCPU 1 rejects FPCR = 0x1, PSTATE = 0x8000000000000000, ",
        "MPIDR_EL1 = 0x0",
    ):
        assert part in said
    assert str(loading.value) == str(caught.value)
    assert machine.save_state() == state
    machine.close()


def test_check_state_of_a_state_that_fits_changes_nothing() -> None:
    machine, other = (bare.machine_with([a64.add_imm(0, 0, 1)] * 10) for _ in range(2))
    other.vcpus[0].step(5)
    before = machine.save_state()

    machine.check_state(other.save_state())

    assert machine.save_state() == before
    machine.close()
    other.close()


def test_check_state_while_running_is_refused() -> None:
    machine = bare.machine_with([a64.b(0)])
    machine.resume()

    with pytest.raises(RunStateError, match="the machine is running: pause it first"):
        machine.check_state(machine.peek_state())
    machine.close()


def test_load_state_other_vcpu_count_is_refused() -> None:
    one, two = bare.machine_with([a64.b(0)]), bare.machine_with([a64.b(0)], vcpu_count=2)

    with pytest.raises(StateError, match="the state is of 2 vCPUs, this machine has 1"):
        one.load_state(two.save_state())
    one.close()
    two.close()


@pytest.mark.parametrize(
    ("pstate", "forgotten"),
    [
        (0x0200_23C5, 1 << 13),  # EL1h, DAIF and TCO set, ALLINT: inside an exception handler
        (0x6000_0BC5, 2 << 10),  # BTYPE: behind a BLR of a CPU with FEAT_BTI
        (0x6000_07C5, 1 << 10),
        (0x6000_0FC5, 3 << 10),
    ],
)
def test_pstate_of_a_cpu_with_nmi_or_bti_is_taken_and_what_means_nothing_is_forgotten(
    pstate: int, forgotten: int
) -> None:
    machine = bare.machine_with([a64.b(0)])

    machine.vcpus[0].set_register(register_ids.PSTATE, pstate)

    assert bare.get(machine, register_ids.PSTATE) == pstate & ~forgotten
    machine.close()
