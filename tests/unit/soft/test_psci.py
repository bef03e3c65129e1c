import pytest

from tagalong.machine import PowerState, RunState, register_ids
from tagalong.soft import SoftMachine
from tests.support import a64, bare

NOT_SUPPORTED, INVALID_PARAMETERS, ALREADY_ON, INVALID_ADDRESS = (
    (1 << 64) + code for code in (-1, -2, -4, -9)
)


def call(machine: SoftMachine, *arguments: int) -> int:
    bare.set_x(machine, dict(enumerate(arguments)))
    machine.vcpus[0].step(1)
    return bare.get_x(machine, 0)


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ((0x84000000,), 0x10001),
        ((0x80000000,), 0x10001),
        ((0x84000006,), 2),
        ((0x8400000A, 0xC4000003), 0),
        ((0x8400000A, 0x84000003), 0),
        ((0x8400000A, 0xC4000008), NOT_SUPPORTED),
        ((0x8400000A, 0x84000077), NOT_SUPPORTED),
        ((0x84000077,), NOT_SUPPORTED),
        ((0xC4000004, 0, 0), 0),
        ((0xC4000004, 1, 0), 1),
        ((0xC4000004, 2, 0), INVALID_PARAMETERS),
        ((0xC4000004, 0, 1), INVALID_PARAMETERS),
        ((0xC4000003, 0, bare.CODE, 0), ALREADY_ON),
        ((0xC4000003, 9, bare.CODE, 0), INVALID_PARAMETERS),
        ((0xC4000003, 0x101, bare.CODE, 0), INVALID_PARAMETERS),
        ((0xC4000003, 1, 0x1000, 0), INVALID_ADDRESS),
        ((0xC4000001, 0, 0, 0), 0),
        ((0x8400000A, 0x84000012), 0),
        ((0x84000012, 1), INVALID_PARAMETERS),
    ],
)
def test_call_returns_what_psci_says(arguments: tuple[int, ...], result: int) -> None:
    machine = bare.machine_with([a64.hvc()], vcpu_count=2)

    assert call(machine, *arguments) == result
    machine.close()


def test_call_other_immediate_is_not_supported() -> None:
    machine = bare.machine_with([a64.hvc(3)])

    assert call(machine, 0x84000000) == NOT_SUPPORTED
    machine.close()


def test_cpu_on_starts_the_vcpu_at_its_entry_in_reset_state() -> None:
    machine = bare.machine_with([a64.hvc(), a64.b(0)], vcpu_count=2)

    result = call(machine, 0xC4000003, 1, bare.CODE + 4, 0x1234)

    assert result == 0
    assert machine.vcpus[1].save().power is PowerState.ON
    assert bare.get_x(machine, 0, vcpu=1) == 0x1234
    machine.vcpus[1].step(5)
    assert bare.get(machine, register_ids.PC, vcpu=1) == bare.CODE + 4
    machine.close()


def test_cpu_on_leaves_the_counter_which_all_vcpus_share_alone() -> None:
    machine = bare.machine_with([a64.hint(0)] * 100 + [a64.hvc()], vcpu_count=2)
    machine.vcpus[0].step(100)

    call(machine, 0xC4000003, 1, bare.CODE, 0)

    assert [bare.get(machine, register_ids.TIMER_COUNT, vcpu) for vcpu in (0, 1)] == [101, 101]
    machine.close()


def test_cpu_off_takes_the_vcpu_out() -> None:
    machine = bare.machine_with([a64.hvc(), a64.b(0)])

    call(machine, 0x84000002)

    assert machine.vcpus[0].save().power is PowerState.OFF
    machine.close()


@pytest.mark.parametrize(
    ("arguments", "state"),
    [
        ((0x84000008,), RunState.SHUTDOWN),
        ((0x84000009,), RunState.RESET),
        ((0x84000012, 0), RunState.RESET),
        ((0xC4000012, 0x80000000, 1), RunState.RESET),
    ],
)
def test_system_off_and_reset_end_the_run(arguments: tuple[int, ...], state: RunState) -> None:
    machine = bare.machine_with([a64.hvc(), a64.b(0)])
    bare.set_x(machine, dict(enumerate(arguments)))

    machine.resume()

    assert machine.wait(60) is state
    machine.close()


def test_vcpus_beyond_the_first_sixteen_have_an_aff1() -> None:
    machine = bare.machine_with([a64.hvc(), a64.b(0)], vcpu_count=18)

    result = call(machine, 0xC4000003, 0x101, bare.CODE + 4, 0)

    assert result == 0
    assert machine.vcpus[17].save().power is PowerState.ON
    assert machine.vcpus[17].get_register(register_ids.MPIDR_EL1) == 0x8000_0101
    machine.close()
