"""What the GIC signals, and when: acknowledgement, priorities, end of interrupt, SGIs, lines.

Source: Arm IHI 0069 chapters 4 and 12.
"""

import threading

import pytest

from tagalong.errors import UsageError
from tagalong.machine import register_ids
from tagalong.soft.native import InterruptLine, StopReason
from tests.support import a64
from tests.support.gic_guest import (
    AP0R0,
    AP1R0,
    ASGI1R,
    BPR1,
    CODE,
    CTLR,
    DIR,
    EL1_OPEN,
    EOIR0,
    EOIR1,
    FIQ,
    GICD,
    HPPIR0,
    HPPIR1,
    IAR0,
    IAR1,
    IGRPEN1,
    IRQ,
    ISR,
    ISR_FIQ,
    ISR_IRQ,
    PMR,
    RPR,
    SGI0R,
    SGI1R,
    SPURIOUS,
    VECTORS,
    Encoding,
    gic_guest,
    redistributor,
)

SET_PENDING, SET_ACTIVE, CLEAR_ENABLE, GROUP = 0x200, 0x300, 0x180, 0x080
ROUTER = 0x6000
EOIMODE = 2
WFI = a64.hint(3)


def test_level_is_pending_again_after_its_end_until_the_line_falls() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.line(40, True)
        seen = [guest.mrs(ISR), guest.mrs(HPPIR1), guest.mrs(IAR1), guest.mrs(ISR)]
        running = guest.mrs(RPR)
        guest.msr(EOIR1, 40)
        again = guest.mrs(IAR1)
        guest.line(40, False)
        guest.msr(EOIR1, 40)

        assert seen == [ISR_IRQ, 40, 40, 0]
        assert (running, again) == (0xA0, 40)
        assert (guest.mrs(IAR1), guest.mrs(ISR), guest.mrs(RPR)) == (SPURIOUS, 0, 0xFF)


def test_edge_is_latched_though_the_line_fell_and_comes_once() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.set_edge(50)
        guest.line(50, True)
        guest.line(50, False)
        first = guest.mrs(IAR1)
        guest.msr(EOIR1, 50)

        assert (first, guest.mrs(IAR1)) == (50, SPURIOUS)


def test_edge_that_comes_while_it_is_active_is_pending_after_its_end() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.set_edge(50)
        for level in (True, False):
            guest.line(50, level)
        first = guest.mrs(IAR1)
        guest.line(50, True)
        meanwhile = guest.mrs(HPPIR1)
        guest.msr(EOIR1, 50)

        assert (first, meanwhile, guest.mrs(IAR1)) == (50, SPURIOUS, 50)


def test_line_that_stays_high_is_one_edge() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.set_edge(50)
        guest.line(50, True)
        first = guest.mrs(IAR1)
        guest.line(50, True)
        guest.msr(EOIR1, 50)

        assert (first, guest.mrs(IAR1)) == (50, SPURIOUS)


@pytest.mark.parametrize("what", ["distributor", "interface", "interrupt", "mask", "priority"])
def test_interrupt_that_is_not_let_through_is_not_signalled(what: str) -> None:
    with gic_guest() as guest:
        guest.open()
        guest.line(40, True)
        before = guest.mrs(ISR)
        if what == "distributor":
            guest.store(GICD, 0)
        elif what == "interface":
            guest.msr(IGRPEN1, 0)
        elif what == "interrupt":
            guest.store(GICD + CLEAR_ENABLE + 4, 1 << 8)
        elif what == "mask":
            guest.msr(PMR, 0xA0)  # only priorities above it
        else:
            guest.set_priority(40, 0xF8)

        assert (before, guest.mrs(ISR), guest.mrs(IAR1)) == (ISR_IRQ, 0, SPURIOUS)


def test_highest_priority_comes_first_then_the_lowest_number() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.set_priority(90, 0x40)
        guest.set_priority(41, 0x50)
        for intid in (90, 42, 41, 43):
            guest.line(intid, True)
        order = []
        for _ in range(4):
            intid = guest.mrs(IAR1)
            order.append(intid)
            guest.line(intid, False)
            guest.msr(EOIR1, intid)

        assert order == [90, 41, 42, 43]


def test_higher_priority_preempts_and_both_end_in_turn() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.line(40, True)
        outer = guest.mrs(IAR1)
        guest.line(41, True)
        same = guest.mrs(ISR)
        guest.set_priority(41, 0x20)
        higher, inner = guest.mrs(ISR), guest.mrs(IAR1)
        nested = guest.mrs(AP1R0), guest.mrs(RPR)
        guest.line(40, False)
        guest.line(41, False)
        guest.msr(EOIR1, inner)
        between = guest.mrs(RPR)
        guest.msr(EOIR1, outer)

        assert (outer, same, higher, inner) == (40, 0, ISR_IRQ, 41)
        assert nested == (1 << (0xA0 >> 3) | 1 << (0x20 >> 3), 0x20)
        assert (between, guest.mrs(RPR)) == (0xA0, 0xFF)


@pytest.mark.parametrize(("binary_point", "preempts"), [(3, True), (4, False), (5, False)])
def test_binary_point_decides_what_preempts(binary_point: int, preempts: bool) -> None:
    with gic_guest() as guest:
        guest.open()
        guest.msr(BPR1, binary_point)
        guest.set_priority(40, 0x58)
        guest.set_priority(41, 0x50)
        guest.line(40, True)
        assert guest.mrs(IAR1) == 40

        guest.line(41, True)

        assert (guest.mrs(ISR) == ISR_IRQ) == preempts


def test_split_end_drops_the_priority_first_and_deactivates_later() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.msr(CTLR, EOIMODE)
        guest.line(40, True)
        guest.line(41, True)
        first = guest.mrs(IAR1)
        guest.msr(EOIR1, first)
        dropped, second = guest.mrs(RPR), guest.mrs(IAR1)
        guest.msr(EOIR1, second)
        held = guest.load(GICD + SET_ACTIVE + 4), guest.mrs(IAR1)
        guest.msr(DIR, first)

        assert (first, dropped, second) == (40, 0xFF, 41)
        assert held == (3 << 8, SPURIOUS)
        assert guest.mrs(IAR1) == 40  # its line is still high


def test_deactivation_is_ignored_where_the_end_is_one() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.line(40, True)
        guest.mrs(IAR1)
        guest.msr(DIR, 40)

        assert guest.load(GICD + SET_ACTIVE + 4) == 1 << 8


def test_end_of_what_is_no_interrupt_changes_nothing() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.line(40, True)
        guest.mrs(IAR1)
        for intid in (1020, 1023):
            guest.msr(EOIR1, intid)

        assert (guest.mrs(RPR), guest.load(GICD + SET_ACTIVE + 4)) == (0xA0, 1 << 8)


def test_end_in_the_other_group_does_not_deactivate() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.line(40, True)
        guest.mrs(IAR1)
        guest.msr(EOIR0, 40)

        assert (guest.mrs(RPR), guest.load(GICD + SET_ACTIVE + 4)) == (0xA0, 1 << 8)


def test_group_0_is_the_fiq_and_has_registers_of_its_own() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.store(GICD + GROUP + 4, ~(1 << 8) & 0xFFFF_FFFF)
        guest.line(40, True)
        lines = guest.mrs(ISR)
        in_group_1 = guest.mrs(HPPIR1), guest.mrs(IAR1)
        pending, acknowledged = guest.mrs(HPPIR0), guest.mrs(IAR0)
        active = guest.mrs(AP0R0), guest.mrs(AP1R0)
        guest.line(40, False)
        guest.msr(EOIR0, acknowledged)

        assert (lines, in_group_1) == (ISR_FIQ, (SPURIOUS, SPURIOUS))
        assert (pending, acknowledged, active) == (40, 40, (1 << (0xA0 >> 3), 0))
        assert (guest.mrs(RPR), guest.load(GICD + SET_ACTIVE + 4)) == (0xFF, 0)


def test_vcpu_takes_the_interrupt_at_its_vector() -> None:
    for group, vector in ((0xFFFF_FFFF, IRQ), (0, FIQ)):
        with gic_guest() as guest:
            guest.open()
            guest.store(GICD + GROUP + 4, group)
            guest.line(40, True)
            guest.put(CODE, a64.movz(5, 1))
            guest.set(register_ids.PC, CODE)
            guest.set(register_ids.PSTATE, EL1_OPEN)

            guest.run(10)

            assert guest.get(register_ids.PC) == VECTORS + vector
            assert guest.get(register_ids.ELR_EL1) == CODE
            assert guest.get(register_ids.x(5)) == 0


def test_acknowledgement_and_end_take_back_the_signal_before_the_next_instruction() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.line(40, True)
        unmask = a64.msr_imm(3, 7, 0xF)
        guest.put(CODE, a64.mrs(2, IAR1), unmask, a64.movz(5, 1), a64.b(0))
        guest.set(register_ids.PC, CODE)

        guest.run(10)

        assert guest.get(register_ids.x(2)) == 40
        assert guest.get(register_ids.PC) == CODE + 12
        assert guest.get(register_ids.x(5)) == 1


def test_spi_goes_to_the_vcpu_that_its_route_names() -> None:
    with gic_guest(vcpus=3) as guest:
        for vcpu in range(3):
            guest.open(vcpu=vcpu)
        guest.store(GICD + 0x6000 + 8 * 40, 2)
        guest.line(40, True)
        lines = [guest.mrs(ISR, vcpu) for vcpu in range(3)]
        guest.store(GICD + 0x6000 + 8 * 40, 9)  # nobody's
        nowhere = [guest.mrs(ISR, vcpu) for vcpu in range(3)]

        assert (lines, nowhere) == ([0, 0, ISR_IRQ], [0, 0, 0])


def test_private_interrupts_are_each_vcpu_s_own() -> None:
    with gic_guest(vcpus=2) as guest:
        for vcpu in range(2):
            guest.open(vcpu=vcpu)
        guest.store(redistributor(1) + SET_PENDING, 1 << 22)

        assert (guest.mrs(IAR1, 0), guest.mrs(IAR1, 1)) == (SPURIOUS, 22)


@pytest.mark.parametrize(
    ("value", "reached"),
    [
        (0x0000_0001 | 3 << 24, [0]),
        (0x0000_0006 | 3 << 24, [1, 2]),
        (0x0000_FFF8 | 3 << 24, []),
        (1 << 40 | 3 << 24, [1, 2]),  # all but itself
        (0x0000_0007 | 1 << 16 | 3 << 24, []),  # another Aff1
        (0x0000_0007 | 1 << 32 | 3 << 24, []),
        (0x0000_0007 | 1 << 48 | 3 << 24, []),
        (0x0000_0007 | 1 << 44 | 3 << 24, []),  # Aff0 from 16 on
    ],
)
def test_sgi_reaches_whom_it_names(value: int, reached: list[int]) -> None:
    with gic_guest(vcpus=3) as guest:
        for vcpu in range(3):
            guest.open(vcpu=vcpu)

        guest.msr(SGI1R, value)

        acknowledged = [guest.mrs(IAR1, vcpu) for vcpu in range(3)]
        assert acknowledged == [3 if vcpu in reached else SPURIOUS for vcpu in range(3)]


@pytest.mark.parametrize(
    ("value", "reached"),
    [
        (0x8001 | 3 << 24, [0, 15]),
        (0x8001 | 1 << 16 | 3 << 24, [16]),
        (0x0002 | 1 << 16 | 3 << 24, [17]),
        (0xFFFF | 2 << 16 | 3 << 24, []),
        (0x0001 | 1 << 16 | 1 << 44 | 3 << 24, []),
        (1 << 40 | 3 << 24, list(range(1, 18))),
    ],
)
def test_sgi_reaches_vcpus_beyond_the_first_sixteen(value: int, reached: list[int]) -> None:
    with gic_guest(vcpus=18) as guest:
        for vcpu in range(18):
            guest.open(vcpu=vcpu)

        guest.msr(SGI1R, value)

        assert [vcpu for vcpu in range(18) if guest.mrs(IAR1, vcpu) == 3] == reached


def test_spi_is_routed_to_a_vcpu_by_its_affinity() -> None:
    with gic_guest(vcpus=18) as guest:
        for vcpu in range(18):
            guest.open(vcpu=vcpu)
        guest.store(GICD + ROUTER + 8 * 40, 0x101, size=8)

        guest.store(GICD + SET_PENDING + 4, 1 << 8)

        assert [vcpu for vcpu in range(18) if guest.mrs(IAR1, vcpu) == 40] == [17]


@pytest.mark.parametrize(
    ("register", "group", "arrives"),
    [(SGI1R, 1, True), (SGI1R, 0, True), (SGI0R, 0, True), (SGI0R, 1, False), (ASGI1R, 1, False)],
)
def test_sgi_of_a_group_is_sent_by_its_register(
    register: Encoding, group: int, arrives: bool
) -> None:
    with gic_guest() as guest:
        guest.open()
        guest.store(redistributor(0) + GROUP, 0xFFFF_FFFF if group else 0)

        guest.msr(register, 1 | 5 << 24)

        assert (guest.mrs(IAR1 if group else IAR0) == 5) == arrives


def test_sgi_ends_the_other_vcpu_s_wfi_in_the_same_run_each_time() -> None:
    def run() -> list[int]:
        with gic_guest(vcpus=2) as guest:
            for vcpu in range(2):
                guest.open(vcpu=vcpu)
            sender, waiter = CODE, CODE + 0x100
            guest.put(sender, *[a64.add_imm(3, 3, 1)] * 9, a64.msr(SGI1R, 2), a64.b(0))
            guest.put(waiter, WFI, a64.mrs(2, IAR1), a64.mrs(4, (3, 3, 14, 0, 2)), a64.b(0))
            guest.set(register_ids.x(2), 2 | 7 << 24)
            guest.set(register_ids.PC, sender)
            guest.set(register_ids.PC, waiter, 1)
            guest.run(50_000)
            return [guest.get(register_ids.x(number), 1) for number in (2, 4)]

    first, second = run(), run()

    assert first == second
    assert first[0] == 7


def test_line_from_another_thread_ends_wfi() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.put(CODE, WFI, a64.mrs(2, IAR1), a64.b(0))
        guest.set(register_ids.PC, CODE)
        assert guest.run(100).reason == StopReason.IDLE
        setter = threading.Thread(target=guest.line, args=(40, True))
        setter.start()
        setter.join()

        assert guest.run(100).reason == StopReason.BUDGET
        assert guest.get(register_ids.x(2)) == 40


def test_line_from_another_thread_is_seen_by_a_vcpu_that_runs() -> None:
    with gic_guest() as guest:
        guest.open()
        guest.put(CODE, a64.b(0))
        guest.put(VECTORS + IRQ, a64.hvc())
        guest.set(register_ids.PC, CODE)
        guest.set(register_ids.PSTATE, EL1_OPEN)
        setter = threading.Timer(0.01, guest.line, args=(40, True))
        setter.start()

        leave = guest.run(1 << 40)

        setter.join()
        assert leave.reason == StopReason.HVC


def test_lines_that_are_not_there_are_rejected() -> None:
    with gic_guest() as guest:
        for intid in (27, 128, 1023):
            with pytest.raises(UsageError, match=f"line of interrupt {intid}: there is no such"):
                guest.line(intid, True)
        with pytest.raises(UsageError, match="cannot set IRQ of vCPU 0: there is no such input"):
            guest.native.set_interrupt(0, InterruptLine.IRQ, level=True)


def test_pair_access_to_the_gic_is_two_accesses() -> None:
    with gic_guest() as guest:
        guest.set(register_ids.x(1), GICD)
        guest.execute(a64.pair((0, 1), a64.PAIR_OFFSET, 2, 3, 1))

        assert guest.get(register_ids.x(2)) == 0x50
        assert guest.get(register_ids.x(3)) == guest.load(GICD + 4)
