"""Alarms by the interpreter's counter: the exact instruction, and the end of waiting."""

from functools import partial

import pytest

from tagalong.machine import register_ids
from tagalong.soft.native import NO_DEADLINE, StopReason
from tagalong.soft.time_source import SoftTime
from tests.support import a64
from tests.support.gic_guest import CODE, GicGuest, gic_guest

WFI = a64.hint(3)
COUNT = [a64.add_imm(5, 5, 1), a64.b(-4)]
NS_PER_TICK = 16


def prepare(guest: GicGuest, *words: int) -> None:
    guest.put(CODE, *words)
    guest.set(register_ids.PC, CODE)


def test_alarm_comes_once_before_the_instruction_of_its_tick() -> None:
    with gic_guest() as guest:
        prepare(guest, *COUNT)
        guest.native.set_alarm(guest.native.counter() + 40)

        leave = guest.run(100_000)
        counted = guest.get(register_ids.x(5))
        again = guest.run(1000)

        assert (leave.reason, counted) == (StopReason.ALARM, 20)
        assert (again.reason, guest.get(register_ids.x(5))) == (StopReason.BUDGET, 520)


def test_alarm_that_is_due_already_comes_at_once() -> None:
    with gic_guest() as guest:
        prepare(guest, *COUNT)
        guest.run(100)
        guest.native.set_alarm(7)

        leave = guest.run(100)

        assert (leave.reason, guest.get(register_ids.x(5))) == (StopReason.ALARM, 50)


def test_waiting_ends_at_the_alarm() -> None:
    with gic_guest() as guest:
        prepare(guest, WFI, a64.b(0))
        at = guest.native.counter() + 62_500_000
        guest.native.set_alarm(at)

        leave = guest.run(100)
        then = guest.run(100)

        assert (leave.reason, guest.native.counter()) == (StopReason.ALARM, at)
        assert (then.reason, then.idle_ticks) == (StopReason.IDLE, NO_DEADLINE)


def test_waiting_by_the_hosts_clock_is_left_to_the_caller() -> None:
    with gic_guest() as guest:
        prepare(guest, WFI, a64.b(0))
        guest.native.follow_host_clock(follows=True)
        guest.native.set_alarm(guest.native.counter() + (1 << 40))

        leave = guest.run(100)

        assert leave.reason == StopReason.IDLE
        assert 1 << 39 < leave.idle_ticks <= 1 << 40


def test_alarm_that_is_unset_does_not_come() -> None:
    with gic_guest() as guest:
        prepare(guest, *COUNT)
        guest.native.set_alarm(guest.native.counter() + 40)
        guest.native.set_alarm()

        assert guest.run(1000).reason == StopReason.BUDGET


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_each_alarm_of_a_source_rings_at_its_own_tick(order: tuple[int, int]) -> None:
    with gic_guest() as guest:
        prepare(guest, *COUNT)
        source, rung = SoftTime(guest.native), list[tuple[int, int]]()

        def ring(number: int) -> None:
            rung.append((number, guest.native.counter()))

        alarms = [source.alarm(partial(ring, number)) for number in range(2)]
        for number in order:
            alarms[number].set((100 + 50 * number) * NS_PER_TICK - 3)  # rounded up to a tick

        while guest.run(1000).reason == StopReason.ALARM:
            source.ring_due()

        assert rung == [(0, 100), (1, 150)]


def test_alarm_that_rings_may_be_set_again_then() -> None:
    with gic_guest() as guest:
        prepare(guest, *COUNT)
        source, rung = SoftTime(guest.native), list[int]()

        def ring() -> None:
            rung.append(guest.native.counter())
            if len(rung) < 3:
                alarm.set(source.now_ns() + 10 * NS_PER_TICK)

        alarm = source.alarm(ring)
        alarm.set(10 * NS_PER_TICK)
        while guest.run(1000).reason == StopReason.ALARM:
            source.ring_due()

        assert rung == [10, 20, 30]


def test_alarm_by_utc_looks_again_within_a_second_of_the_counter() -> None:
    with gic_guest() as guest:
        prepare(guest, WFI, a64.b(0))
        source, rung = SoftTime(guest.native), list[int]()
        source.is_utc = True
        source.alarm(lambda: rung.append(1)).set(source.now_ns() + 3600 * 10**9)

        leave = guest.run(100)
        source.ring_due()

        assert (leave.reason, rung) == (StopReason.ALARM, [])
        assert guest.native.counter() == 62_500_000
