"""Interrupt inputs, the counter and the memory map, on the interpreter itself."""

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from tagalong._native import InterpreterExit
from tagalong.errors import UsageError
from tagalong.machine import RegisterId, register_ids
from tagalong.memory import Region
from tagalong.soft import RAM_GPA
from tagalong.soft.native import NO_DEADLINE, InterruptLine, NativeMachine, StopReason
from tests.support import a64, bare

CODE = RAM_GPA + 0x4000
VECTORS = RAM_GPA + 0x800
IRQ, FIQ = 0x080, 0x100
CURRENT_SPX, LOWER_EL = 0x200, 0x400
ALL_MASKED, IRQ_OPEN, FIQ_OPEN, ALL_OPEN = 0x3C5, 0x345, 0x385, 0x305
EL0_OPEN, EL0_MASKED = 0x300, 0x3C0
ISR_EL1, DAIF, CNTVCT_EL0 = (3, 0, 12, 1, 0), (3, 3, 4, 2, 1), (3, 3, 14, 0, 2)
DAIF_CLEAR, WFI, WFE, NOP = a64.msr_imm(3, 7, 0xF), a64.hint(3), a64.hint(2), a64.hint(0)


class Interpreter:
    """A NativeMachine with code at CODE, vectors that loop, and vCPU 0 before the code."""

    def __init__(self, words: Sequence[int], *, pstate: int = ALL_MASKED, vcpus: int = 1) -> None:
        self.native = NativeMachine(vcpus, 0)
        self.region = Region.create(RAM_GPA, 0x10000)
        self.native.add_ram(self.region)
        self.write(CODE, words)
        for vector in range(VECTORS, VECTORS + 0x800, 0x80):
            self.write(vector, [a64.b(0)])
        for vcpu in range(vcpus):
            self.native.set_power(vcpu, on=True)
            for register, value in (
                (register_ids.VBAR_EL1, VECTORS),
                (register_ids.PSTATE, pstate),
                (register_ids.PC, CODE),
            ):
                assert self.native.set_register(vcpu, register, value)

    def write(self, gpa: int, words: Sequence[int]) -> None:
        self.region.raw_data[gpa - RAM_GPA :][: 4 * len(words)] = memoryview(bare.encoded(words))

    def close(self) -> None:
        self.native.close()
        self.region.close()

    def get(self, register: RegisterId, vcpu: int = 0) -> int:
        value = self.native.get_register(vcpu, register)
        assert value is not None
        return value

    @property
    def pc(self) -> int:
        return self.get(register_ids.PC)

    def step(self, count: int) -> InterpreterExit:
        leave = InterpreterExit()
        self.native.step(0, count, leave)
        return leave

    def run(self, budget: int) -> InterpreterExit:
        leave = InterpreterExit()
        self.native.run(budget, leave)
        return leave


@pytest.fixture
def make() -> Iterator[type[Interpreter]]:
    made: list[Interpreter] = []

    class Closed(Interpreter):
        def __init__(
            self, words: Sequence[int], *, pstate: int = ALL_MASKED, vcpus: int = 1
        ) -> None:
            super().__init__(words, pstate=pstate, vcpus=vcpus)
            made.append(self)

    yield Closed
    for each in made:
        each.close()


def test_interrupt_by_line_el_and_mask_is_taken_where_the_manual_says(
    make: type[Interpreter],
) -> None:
    irq, fiq = InterruptLine.IRQ, InterruptLine.FIQ
    untaken = CODE + 4
    for lines, pstate, expected in (
        ([irq], ALL_MASKED, untaken),
        ([irq], FIQ_OPEN, untaken),
        ([irq], IRQ_OPEN, VECTORS + CURRENT_SPX + IRQ),
        ([fiq], IRQ_OPEN, untaken),
        ([fiq], FIQ_OPEN, VECTORS + CURRENT_SPX + FIQ),
        ([irq, fiq], ALL_OPEN, VECTORS + CURRENT_SPX + FIQ),
        ([irq, fiq], IRQ_OPEN, VECTORS + CURRENT_SPX + IRQ),
        ([irq], EL0_OPEN, VECTORS + LOWER_EL + IRQ),
        ([irq], EL0_MASKED, untaken),
    ):
        case = f"{lines} at {pstate:#x}"
        interpreter = make([NOP] * 4, pstate=pstate)
        for line in lines:
            interpreter.native.set_interrupt(0, line, level=True)

        interpreter.step(1)

        assert interpreter.pc == expected, case
        if expected != untaken:
            assert interpreter.get(register_ids.ELR_EL1) == CODE, case
            assert interpreter.get(register_ids.SPSR_EL1) == pstate, case
            assert interpreter.get(register_ids.PSTATE) & 0x3DF == ALL_MASKED, case
            assert interpreter.get(register_ids.ESR_EL1) == 0, case


def test_interrupt_that_is_unmasked_is_taken_before_the_next_instruction(
    make: type[Interpreter],
) -> None:
    interpreter = make([NOP, DAIF_CLEAR, a64.movz(0, 1)])
    interpreter.native.set_interrupt(0, InterruptLine.IRQ, level=True)

    interpreter.run(100)

    assert interpreter.get(register_ids.ELR_EL1) == CODE + 8
    assert interpreter.get(register_ids.x(0)) == 0


def test_interrupt_that_eret_or_msr_daif_unmasks_is_taken_at_once(make: type[Interpreter]) -> None:
    for words in ([a64.eret()], [a64.msr(DAIF, 1)]):
        interpreter = make([*words, a64.movz(0, 1)])
        for register, value in (
            (register_ids.ELR_EL1, CODE + 4),
            (register_ids.SPSR_EL1, ALL_OPEN),
        ):
            interpreter.native.set_register(0, register, value)
        interpreter.native.set_interrupt(0, InterruptLine.IRQ, level=True)

        interpreter.run(100)

        assert interpreter.get(register_ids.ELR_EL1) == CODE + 4
        assert interpreter.get(register_ids.x(0)) == 0


def test_interrupt_whose_line_falls_before_it_is_unmasked_is_not_taken(
    make: type[Interpreter],
) -> None:
    interpreter = make([NOP, DAIF_CLEAR, a64.b(0)])
    interpreter.native.set_interrupt(0, InterruptLine.IRQ, level=True)
    interpreter.step(1)
    interpreter.native.set_interrupt(0, InterruptLine.IRQ, level=False)

    interpreter.run(100)

    assert interpreter.pc == CODE + 8


def test_isr_el1_reads_the_levels_masked_or_not_and_is_no_state(make: type[Interpreter]) -> None:
    interpreter = make([a64.mrs(0, ISR_EL1), a64.b(-4)])
    seen = []
    for lines in ([], [InterruptLine.IRQ], [InterruptLine.FIQ], list(InterruptLine)):
        for line in InterruptLine:
            interpreter.native.set_interrupt(0, line, level=line in lines)
        interpreter.step(2)
        seen.append(interpreter.get(register_ids.x(0)))

    assert seen == [0, 0x80, 0x40, 0xC0]
    assert interpreter.native.get_register(0, register_ids.sysreg(*ISR_EL1)) is None


def test_run_all_in_wfi_is_idle_until_an_interrupt_even_if_it_is_masked(
    make: type[Interpreter],
) -> None:
    interpreter = make([WFI, a64.movz(0, 1), a64.b(0)])
    first, again = interpreter.run(1000), interpreter.run(1000)
    before = interpreter.get(register_ids.x(0))

    interpreter.native.set_interrupt(0, InterruptLine.IRQ, level=True)
    third = interpreter.run(1000)

    assert [leave.reason for leave in (first, again)] == [StopReason.IDLE] * 2
    assert first.idle_ticks == NO_DEADLINE
    assert (before, interpreter.get(register_ids.x(0))) == (0, 1)
    assert third.reason == StopReason.BUDGET


def test_wfi_with_an_interrupt_pending_does_not_wait(make: type[Interpreter]) -> None:
    interpreter = make([WFI, a64.movz(0, 1), a64.b(0)])
    interpreter.native.set_interrupt(0, InterruptLine.FIQ, level=True)

    leave = interpreter.run(10)

    assert leave.reason == StopReason.BUDGET
    assert interpreter.get(register_ids.x(0)) == 1


def test_wfe_comes_back_by_itself_after_a_millisecond(make: type[Interpreter]) -> None:
    interpreter = make([WFE, a64.movz(0, 1), a64.b(0)])

    first, second = interpreter.run(1000), interpreter.run(1000)

    assert (first.reason, first.idle_ticks) == (StopReason.IDLE, 62_500)
    assert second.reason == StopReason.BUDGET
    assert interpreter.get(register_ids.x(0)) == 1


def test_vcpu_in_wfi_leaves_all_turns_to_the_others(make: type[Interpreter]) -> None:
    interpreter = make([a64.cbz(0, 8), WFI, a64.add_imm(1, 1, 1), a64.b(-4)], vcpus=2)
    interpreter.native.set_register(0, register_ids.x(0), 1)

    leave = interpreter.run(200_000)

    assert leave.reason == StopReason.BUDGET
    assert interpreter.native.instructions(0) == 2
    assert interpreter.get(register_ids.x(1), vcpu=1) > 90_000


def test_interrupt_from_another_thread_ends_a_guests_loop(make: type[Interpreter]) -> None:
    interpreter = make([a64.b(0)], pstate=IRQ_OPEN)
    interpreter.write(VECTORS + CURRENT_SPX + IRQ, [a64.hvc()])
    leave = InterpreterExit()
    runner = threading.Thread(target=interpreter.native.run, args=(1 << 40, leave))

    runner.start()
    time.sleep(0.01)
    interpreter.native.set_interrupt(0, InterruptLine.IRQ, level=True)
    runner.join(60)

    assert not runner.is_alive()
    assert leave.reason == StopReason.HVC
    assert interpreter.get(register_ids.ELR_EL1) == CODE


def test_mmio_answered_while_an_interrupt_is_pending_is_carried_out_first(
    make: type[Interpreter],
) -> None:
    interpreter = make([a64.ldst(a64.LDR_W, 2, 1), a64.b(0)], pstate=IRQ_OPEN)
    interpreter.native.add_mmio(0x0900_0000, 0x1000)
    interpreter.native.set_register(0, register_ids.x(1), 0x0900_0000)
    assert interpreter.run(10).reason == StopReason.MMIO

    interpreter.native.set_interrupt(0, InterruptLine.IRQ, level=True)
    interpreter.native.complete_mmio(0, 0x1234)
    interpreter.run(10)

    assert interpreter.get(register_ids.x(2)) == 0x1234
    assert interpreter.get(register_ids.ELR_EL1) == CODE + 4


# --- the counter ---


def test_counter_is_one_for_all_vcpus_and_goes_with_all_their_instructions(
    make: type[Interpreter],
) -> None:
    interpreter = make([a64.mrs(0, CNTVCT_EL0), a64.b(-4)], vcpus=2)

    interpreter.run(50_000)

    counts = [interpreter.get(register_ids.TIMER_COUNT, vcpu) for vcpu in range(2)]
    executed = sum(interpreter.native.instructions(vcpu) for vcpu in range(2))
    assert counts == [executed, executed] == [50_000, 50_000]
    assert interpreter.native.counter() == 50_000
    assert 49_990 < max(interpreter.get(register_ids.x(0), vcpu) for vcpu in range(2)) < 50_000


def test_interrupt_of_no_vcpu_is_rejected(make: type[Interpreter]) -> None:
    interpreter = make([NOP])

    with pytest.raises(UsageError, match="cannot set FIQ of vCPU 1: there is no such input"):
        interpreter.native.set_interrupt(1, InterruptLine.FIQ, level=True)


def test_snapshot_holds_lines_and_what_the_vcpu_waits_for(make: type[Interpreter]) -> None:
    interpreter = make([WFI, a64.b(0)])
    plain = interpreter.native.save_snapshot(0)
    interpreter.native.set_interrupt(0, InterruptLine.IRQ, level=True)
    wanted = interpreter.native.save_snapshot(0)

    interpreter.native.load_snapshot(0, plain)
    without = interpreter.run(100)
    interpreter.native.load_snapshot(0, wanted)
    with_line = interpreter.run(100)

    assert plain != wanted
    assert (without.reason, with_line.reason) == (StopReason.IDLE, StopReason.BUDGET)


# --- the map ---


def test_mmio_of_many_windows_says_which_was_hit(make: type[Interpreter]) -> None:
    interpreter = make([a64.ldst(a64.STR_W, 2, 1), a64.b(-4)])
    gpas = [0x0900_0000 + 0x2000 * (7 * number % 200) for number in range(200)]
    numbers = [interpreter.native.add_mmio(gpa, 0x1000) for gpa in gpas]
    hit = []
    for gpa in gpas:
        interpreter.native.set_register(0, register_ids.PC, CODE)
        interpreter.native.set_register(0, register_ids.x(1), gpa + 0xFFC)
        leave = interpreter.run(10)
        hit.append((leave.reason, leave.mmio_window, leave.mmio_gpa))
        interpreter.native.complete_mmio(0, 0)

    assert numbers == list(range(200))
    assert hit == [(StopReason.MMIO, number, gpas[number] + 0xFFC) for number in numbers]


def test_ram_of_many_regions_is_reached_in_each_of_them(make: type[Interpreter]) -> None:
    interpreter = make([a64.ldr(2, 1), a64.b(-4)])
    numbers = [37 * number % 100 for number in range(100)]
    regions = [Region.create(0x8000_0000 + 0x3000 * number, 0x1000) for number in numbers]
    for number, region in zip(numbers, regions, strict=True):
        region.raw_data[0xFF8:].view("<u8")[0] = number + 1
        interpreter.native.add_ram(region)
    found = []
    for region in regions:
        interpreter.native.set_register(0, register_ids.PC, CODE)
        interpreter.native.set_register(0, register_ids.x(1), region.gpa + 0xFF8)
        interpreter.step(1)
        found.append(interpreter.get(register_ids.x(2)) - 1)

    assert found == numbers
    for region in regions:
        region.close()


def test_map_ranges_that_touch_are_taken_and_overlaps_are_rejected_by_name(
    make: type[Interpreter],
) -> None:
    native = make([NOP]).native
    native.add_mmio(0x1000, 0x1000)
    native.add_mmio(0x3000, 0x1000)
    native.add_mmio(0x2000, 0x1000)
    for gpa, size in (
        (0x1000, 0x1000),
        (0x0, 0x2000),
        (0x0, 0x5000),
        (0x3000, 0x2000),
        (RAM_GPA + 0xF000, 0x2000),
        (RAM_GPA - 0x1000, 0x2000),
        (0x5800, 0x1000),
        (0x5000, 0x800),
        (0x5000, 0),
        ((1 << 64) - 0x1000, 0x2000),
    ):
        with pytest.raises(
            UsageError,
            match=rf"cannot map MMIO window {gpa:#x}\+{size:#x}: it is misaligned or overlaps",
        ):
            native.add_mmio(gpa, size)

    assert native.add_mmio(RAM_GPA - 0x1000, 0x1000) == 3
    assert native.add_mmio(RAM_GPA + 0x10000, 0x1000) == 4
