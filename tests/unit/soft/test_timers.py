"""The EL1 timers: registers, lines, and the time that they make pass.

Source: DDI 0487 D11.2.
"""

import time

import pytest

from tagalong._native import InterpreterExit
from tagalong.machine import register_ids
from tagalong.soft.native import NO_DEADLINE, StopReason
from tests.support import a64
from tests.support.gic_guest import (
    CODE,
    EL0_MASKED,
    EL1_OPEN,
    IAR1,
    IRQ,
    ISR,
    ISR_IRQ,
    VECTORS,
    Encoding,
    GicGuest,
    UndefinedInstructionError,
    gic_guest,
    redistributor,
)

FREQUENCY = (3, 3, 14, 0, 0)
PHYSICAL_COUNT, VIRTUAL_COUNT = (3, 3, 14, 0, 1), (3, 3, 14, 0, 2)
PHYSICAL, VIRTUAL = 2, 3
KERNEL_CONTROL = (3, 0, 14, 1, 0)
ENABLE, MASKED, STATUS = 1, 2, 4
WFI, WFE, NOP = a64.hint(3), a64.hint(2), a64.hint(0)
INTIDS = {VIRTUAL: 27, PHYSICAL: 30}
COUNTS = {VIRTUAL: VIRTUAL_COUNT, PHYSICAL: PHYSICAL_COUNT}
KINDS = pytest.mark.parametrize("kind", [VIRTUAL, PHYSICAL])


def value(kind: int) -> Encoding:
    return (3, 3, 14, kind, 0)


def control(kind: int) -> Encoding:
    return (3, 3, 14, kind, 1)


def compare(kind: int) -> Encoding:
    return (3, 3, 14, kind, 2)


@KINDS
def test_registers_hold_the_compare_value_and_two_bits_of_control(kind: int) -> None:
    with gic_guest() as guest:
        guest.msr(compare(kind), 0x1234_5678_9ABC_DEF0)
        guest.msr(control(kind), 0xFFFF_FFFF)

        assert guest.mrs(compare(kind)) == 0x1234_5678_9ABC_DEF0
        assert guest.mrs(control(kind)) == ENABLE | MASKED


@KINDS
def test_timer_value_counts_down_and_is_signed_in_32_bits(kind: int) -> None:
    with gic_guest() as guest:
        guest.set(register_ids.TIMER_COUNT, 1 << 40)
        guest.set(register_ids.PTIMER_COUNT, 1 << 41)
        before = guest.mrs(COUNTS[kind])
        guest.msr(value(kind), 0xFFFF_FFFF_FFFF_FF00)
        behind = guest.mrs(compare(kind)) - before
        guest.msr(value(kind), 0x1000)

        assert behind == 1 - 0x100  # an instruction after `before`
        assert guest.mrs(value(kind)) == 0xFFF


@KINDS
def test_status_and_line_follow_the_counter(kind: int) -> None:
    with gic_guest() as guest:
        guest.open()
        guest.msr(compare(kind), guest.mrs(COUNTS[kind]) + 6)
        guest.msr(control(kind), ENABLE)
        early = guest.mrs(control(kind)), guest.mrs(ISR)
        late = [guest.mrs(control(kind)) for _ in range(3)]
        line, intid = guest.mrs(ISR), guest.mrs(IAR1)
        guest.msr(control(kind), ENABLE | MASKED)
        masked = guest.mrs(control(kind)), guest.load(redistributor(0) + 0x200)
        guest.msr(control(kind), MASKED)

        assert early == (ENABLE, 0)
        assert late[-1] == ENABLE | STATUS
        assert (line, intid) == (ISR_IRQ, INTIDS[kind])
        assert masked == (ENABLE | MASKED | STATUS, 0)
        assert guest.mrs(control(kind)) == MASKED  # no status while it is off


@KINDS
def test_interrupt_comes_at_the_exact_instruction(kind: int) -> None:
    for distance in (0, 1, 2, 7, 5000, 100_001):
        with gic_guest() as guest:
            guest.open()
            guest.put(CODE, a64.add_imm(5, 5, 1), a64.b(-4))
            guest.set(register_ids.PC, CODE)
            guest.set(register_ids.PSTATE, EL1_OPEN)
            begin(guest, kind, distance)

            guest.run(200_000)

            assert guest.get(register_ids.PC) == VECTORS + IRQ
            assert guest.get(register_ids.x(5)) == -(-distance // 2)
            assert guest.get(register_ids.ELR_EL1) == CODE + 4 * (distance % 2)


def begin(guest: GicGuest, kind: int, distance: int, vcpu: int = 0) -> None:
    """Let a timer of `vcpu` reach its compare value in `distance` ticks."""
    now = guest.native.counter() + distance
    if kind == VIRTUAL:
        guest.set(register_ids.TIMER_COMPARE, now, vcpu)
        guest.set(register_ids.TIMER_CONTROL, ENABLE, vcpu)
    else:
        guest.set(register_ids.PTIMER_COMPARE, now, vcpu)
        guest.set(register_ids.PTIMER_CONTROL, ENABLE, vcpu)


def test_write_in_the_middle_of_a_run_takes_effect_at_once() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.put(
            CODE,
            *(a64.mrs(0, VIRTUAL_COUNT), a64.add_imm(0, 0, 40), a64.msr(compare(VIRTUAL), 0)),
            *(a64.movz(1, ENABLE), a64.msr(control(VIRTUAL), 1)),
            *(a64.add_imm(5, 5, 1), a64.b(-4)),
        )
        guest.set(register_ids.PC, CODE)
        guest.set(register_ids.PSTATE, EL1_OPEN)

        guest.run(100_000)

        assert guest.get(register_ids.PC) == VECTORS + IRQ
        assert guest.get(register_ids.x(5)) == 18  # 40 ticks from the first instruction on


@KINDS
def test_wfi_jumps_to_the_next_timer(kind: int) -> None:
    with gic_guest() as guest:
        guest.open()
        guest.put(CODE, WFI, a64.mrs(2, COUNTS[kind]), a64.mrs(3, IAR1), a64.b(0))
        guest.set(register_ids.PC, CODE)
        begin(guest, kind, 62_500_000)

        leave = guest.run(100)

        assert leave.reason == StopReason.BUDGET
        assert guest.get(register_ids.x(3)) == INTIDS[kind]
        assert guest.get(register_ids.x(2)) == guest.get(
            register_ids.TIMER_COMPARE if kind == VIRTUAL else register_ids.PTIMER_COMPARE
        )


def test_wfi_whose_timer_is_not_let_through_waits_for_ever() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.store(redistributor(0) + 0x180, 1 << 27)
        guest.put(CODE, WFI, a64.b(0))
        guest.set(register_ids.PC, CODE)
        begin(guest, VIRTUAL, 1000)

        leave = guest.run(100)

        assert (leave.reason, leave.idle_ticks) == (StopReason.IDLE, NO_DEADLINE)


def test_all_vcpus_in_wfi_wake_each_at_its_own_timer() -> None:
    with gic_guest(vcpus=3) as guest:
        for vcpu in range(3):
            guest.open(vcpu=vcpu)
        guest.put(CODE, WFI, a64.mrs(2, VIRTUAL_COUNT), a64.mrs(3, IAR1), WFI, a64.b(-4))
        start = guest.native.counter()
        for vcpu, distance in enumerate((300_000, 100_000, 200_000)):
            guest.set(register_ids.PC, CODE, vcpu)
            begin(guest, VIRTUAL, distance, vcpu)

        leave = guest.run(1000)

        woken = [guest.get(register_ids.x(2), vcpu) - start for vcpu in range(3)]
        assert (leave.reason, leave.idle_ticks) == (StopReason.IDLE, NO_DEADLINE)
        assert [round(each, -4) for each in woken] == [300_000, 100_000, 200_000]


def test_wfe_beside_a_timer_comes_back_within_a_millisecond() -> None:
    with gic_guest() as guest:
        guest.put(CODE, WFE, a64.mrs(2, VIRTUAL_COUNT), a64.b(0))
        guest.set(register_ids.PC, CODE)
        start = guest.native.counter()
        begin(guest, VIRTUAL, 62_500_000)

        assert guest.run(100).reason == StopReason.BUDGET
        assert guest.get(register_ids.x(2)) - start == 62_500 + 1


@KINDS
def test_el0_needs_the_kernel_s_leave(kind: int) -> None:
    bit = 8 if kind == VIRTUAL else 9
    with gic_guest() as guest:
        guest.set(register_ids.PSTATE, EL0_MASKED)
        with pytest.raises(UndefinedInstructionError) as raised:
            guest.mrs(control(kind))
        guest.set(register_ids.sysreg(*KERNEL_CONTROL), 1 << bit)
        guest.set(register_ids.PSTATE, EL0_MASKED)

        assert raised.value.esr >> 26 == 0x18
        assert guest.mrs(control(kind)) == 0


def test_timers_work_without_a_gic_but_interrupt_nobody() -> None:
    with gic_guest(gic=False) as guest:
        guest.set(register_ids.PSTATE, EL1_OPEN)
        guest.msr(control(VIRTUAL), ENABLE)

        assert guest.mrs(control(VIRTUAL)) == ENABLE | STATUS


def test_counts_are_set_each_for_itself() -> None:
    with gic_guest() as guest:
        guest.set(register_ids.PTIMER_COUNT, 5_000_000)
        guest.set(register_ids.TIMER_COUNT, 1_000_000)

        assert guest.get(register_ids.PTIMER_COUNT) == 5_000_000
        assert guest.get(register_ids.TIMER_COUNT) == 1_000_000
        assert guest.mrs(PHYSICAL_COUNT) - guest.mrs(VIRTUAL_COUNT) == 4_000_000 - 1


def test_control_that_does_not_exist_is_rejected_and_status_is_ignored() -> None:
    with gic_guest() as guest:
        assert not guest.native.set_register(0, register_ids.TIMER_CONTROL, 8)
        guest.set(register_ids.TIMER_CONTROL, ENABLE | STATUS)
        guest.set(register_ids.TIMER_COMPARE, 1 << 60)

        assert guest.get(register_ids.TIMER_CONTROL) == ENABLE


def test_host_clock_goes_on_from_where_the_count_was_and_back() -> None:
    with gic_guest() as guest:
        before = guest.native.counter()
        guest.native.follow_host_clock(follows=True)
        time.sleep(0.005)
        guest.native.follow_host_clock(follows=False)
        after = guest.native.counter()
        guest.execute(NOP)

        assert after - before >= 62_500_000 * 0.005
        assert guest.native.counter() == after + 1


def wait_past_a_timer(guest: GicGuest) -> InterpreterExit:
    """Let a guest wait for a timer by the host's clock until that is due; return how it waited."""
    guest.open()
    guest.put(CODE, WFI, a64.mrs(3, IAR1), a64.b(0))
    guest.set(register_ids.PC, CODE)
    begin(guest, VIRTUAL, 62_500_000 // 50)
    guest.native.follow_host_clock(follows=True)
    idle = guest.run(100)
    time.sleep(0.02)
    return idle


def test_host_clock_leaves_the_waiting_to_the_caller_and_fires_afterwards() -> None:
    with gic_guest() as guest:
        idle = wait_past_a_timer(guest)

        woken = guest.run(100)

        assert idle.reason == StopReason.IDLE
        assert idle.idle_ticks <= 62_500_000 // 50
        assert woken.reason == StopReason.BUDGET
        assert guest.get(register_ids.x(3)) == 27


def test_host_clock_timer_that_expires_before_an_alarm_is_set_is_not_lost() -> None:
    with gic_guest() as guest:
        wait_past_a_timer(guest)
        guest.native.set_alarm()

        guest.run(100)

        assert guest.get(register_ids.x(3)) == 27
