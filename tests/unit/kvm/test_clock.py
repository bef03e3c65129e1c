"""The guest's time: what is noted when it stops, and put back when it continues."""

from typing import Any

import pytest

from tagalong.kvm.clock import VirtualTime
from tagalong.machine import RegisterId
from tagalong.machine import register_ids as ids

STEP = 10


class Ticking:
    """A vCPU whose counters run on by STEP whenever a register is read."""

    def __init__(self, *absent: RegisterId) -> None:
        self.registers = {
            ids.TIMER_COUNT: 1000,
            ids.PTIMER_COUNT: 5000,
            ids.TIMER_CONTROL: 1,
            ids.TIMER_COMPARE: 1100,
            ids.PTIMER_CONTROL: 5,
            ids.PTIMER_COMPARE: 5000 + 100 * STEP,
        }
        for register in absent:
            del self.registers[register]
        self.written: list[tuple[RegisterId, int]] = []

    def register_ids(self) -> tuple[RegisterId, ...]:
        return tuple(self.registers)

    def get_register(self, register: RegisterId) -> int:
        for counter in (ids.TIMER_COUNT, ids.PTIMER_COUNT):
            if counter in self.registers:
                self.registers[counter] += STEP
        return self.registers[register]

    def set_register(self, register: RegisterId, value: int) -> None:
        self.registers[register] = value
        self.written.append((register, value))


def time_of(vcpu: Any) -> VirtualTime:
    return VirtualTime(vcpu)


def read(time: VirtualTime, vcpu: Any, register: RegisterId) -> int:
    return time.read(vcpu, register)


def test_time_begins_stopped_and_its_counters_stand() -> None:
    vcpu = Ticking()
    time = time_of(vcpu)

    first = [read(time, vcpu, counter) for counter in (ids.TIMER_COUNT, ids.PTIMER_COUNT)]
    vcpu.get_register(ids.TIMER_COUNT)

    assert [read(time, vcpu, each) for each in (ids.TIMER_COUNT, ids.PTIMER_COUNT)] == first


def test_first_start_leaves_the_physical_counter_alone() -> None:
    vcpu = Ticking()
    time = time_of(vcpu)
    stopped = read(time, vcpu, ids.TIMER_COUNT)

    time.start()
    time.start()

    assert vcpu.written == [(ids.TIMER_COUNT, stopped)]
    assert read(time, vcpu, ids.TIMER_COUNT) == stopped + STEP  # it runs


def test_start_after_a_pause_puts_both_counters_back() -> None:
    vcpu = Ticking()
    time = time_of(vcpu)
    time.start()
    time.stop()
    virtual, physical = (read(time, vcpu, each) for each in (ids.TIMER_COUNT, ids.PTIMER_COUNT))
    vcpu.written.clear()

    time.stop()
    time.start()

    assert vcpu.written == [(ids.TIMER_COUNT, virtual), (ids.PTIMER_COUNT, physical)]


def test_start_on_a_kernel_without_the_physical_counter_puts_the_virtual_one_back() -> None:
    vcpu = Ticking(ids.PTIMER_COUNT)
    time = time_of(vcpu)
    time.start()
    time.stop()
    vcpu.written.clear()

    time.start()

    assert [register for register, _ in vcpu.written] == [ids.TIMER_COUNT]


def test_counters_that_were_loaded_are_where_the_time_continues() -> None:
    vcpu = Ticking()
    time = time_of(vcpu)

    assert time.set(ids.TIMER_COUNT, 7)
    assert time.set(ids.PTIMER_COUNT, 8)
    assert not time.set(ids.TIMER_COMPARE, 9)
    time.start()

    assert vcpu.written[-2:] == [(ids.TIMER_COUNT, 7), (ids.PTIMER_COUNT, 8)]
    assert not time.set(ids.TIMER_COUNT, 7)  # it runs


@pytest.mark.parametrize(
    ("control", "compare", "counter"),
    [
        (ids.TIMER_CONTROL, ids.TIMER_COMPARE, ids.TIMER_COUNT),
        (ids.PTIMER_CONTROL, ids.PTIMER_COMPARE, ids.PTIMER_COUNT),
    ],
    ids=["virtual", "physical"],
)
def test_timer_of_a_stopped_time_is_due_by_the_counter_that_stands(
    control: RegisterId, compare: RegisterId, counter: RegisterId
) -> None:
    vcpu = Ticking()
    time = time_of(vcpu)
    stands = read(time, vcpu, counter)

    for deadline, status in ((stands + 1, 0), (stands, 4), (stands - 1, 4)):
        vcpu.registers[compare] = deadline
        assert read(time, vcpu, control) == 1 | status, deadline


def test_timer_of_a_running_time_is_due_as_kvm_says() -> None:
    vcpu = Ticking()
    time = time_of(vcpu)
    time.start()

    assert read(time, vcpu, ids.PTIMER_CONTROL) == 5
