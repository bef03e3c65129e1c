"""The GIC's and the timers' state: saved, rejected, and moved to another machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tagalong.devices import ANY_WIDTH, Window
from tagalong.errors import StateError
from tagalong.machine import (
    Clock,
    DeviceDescription,
    GicState,
    MachineDescription,
    RegionDescription,
    RunState,
    register_ids,
)
from tagalong.machine.gic import Icc
from tagalong.memory import Gpa
from tagalong.soft import RAM_GPA, SoftMachine
from tagalong.soft.native import GicPart
from tests.support import a64, bare
from tests.support.gic_guest import EOIR1, IAR1, IGRPEN1, PMR, SGI1R
from tests.support.gic_state import GIC

SPI_WORD = 0x100 + 4
COUNT, CONTROL, COMPARE = (3, 3, 14, 0, 2), (3, 3, 14, 3, 1), (3, 3, 14, 3, 2)
SYSTEM_OFF = 0x8400_0008


def describe(
    vcpus: int = 1, devices: tuple[DeviceDescription, ...] = (), gic: bool = True
) -> MachineDescription:
    regions = (RegionDescription(RAM_GPA, bare.RAM_BYTES),)
    return MachineDescription(4096, vcpus, 3, regions, devices, GIC if gic else None)


@contextmanager
def machine(vcpus: int = 1, gic: bool = True) -> Iterator[SoftMachine]:
    with SoftMachine(describe(vcpus, gic=gic)) as made:
        yield made


def gic_of(made: SoftMachine) -> GicState:
    state = made.save_state().gic
    assert state is not None
    return state


def rejected(made: SoftMachine, **changes: object) -> str:
    before = made.save_state()
    assert before.gic is not None
    wrong = replace(before, gic=replace(before.gic, **changes))  # type: ignore[arg-type]
    with pytest.raises(StateError) as raised:
        made.load_state(wrong)
    assert made.save_state() == before
    return str(raised.value)


def test_every_register_of_the_form_is_saved_and_loaded() -> None:
    with machine(2) as source, machine(2) as target:
        for vcpu in range(2):
            fill(source, vcpu)
        saved = source.save_state()

        target.load_state(saved)

        assert target.save_state() == saved
        assert gic_of(target).redistributors[1][0x1_0000 + 0x200] == 0x8000_0102
        assert gic_of(target).cpu_interfaces[1][Icc.ICC_AP1R0_EL1] == 0x102


def fill(made: SoftMachine, vcpu: int) -> None:
    """Give every register of a vCPU's part, and of the distributor, a value of its own."""
    native, own = made._native, GicPart.REDISTRIBUTOR
    for offset in (0x080, 0x100, 0x200, 0x300):
        assert native.set_gic(own, vcpu, 0x1_0000 + offset, 0x8000_0002 + offset * vcpu // 2)
        assert native.set_gic(GicPart.DISTRIBUTOR, 0, offset + 8, 0x4000_0000 + offset)
    for number in range(8):
        priorities = 0x0810_1820 + 0x2000_0000 * number + 8 * vcpu
        assert native.set_gic(own, vcpu, 0x1_0400 + 4 * number, priorities)
    for offset, value in ((0x420, 0x8040_2010), (0xC0C, 0x8000_0002), (0x6100, 0x201), (0, 0x52)):
        assert native.set_gic(GicPart.DISTRIBUTOR, 0, offset, value)
    assert native.set_gic(GicPart.SPI_LEVELS, 0, 1, 0x18)
    for register, value in (
        (Icc.ICC_CTLR_EL1, 0x8402),
        (Icc.ICC_IGRPEN0_EL1, vcpu),
        (Icc.ICC_IGRPEN1_EL1, 1),
        (Icc.ICC_PMR_EL1, 0xF0 - 8 * vcpu),
        (Icc.ICC_BPR0_EL1, 4),
        (Icc.ICC_BPR1_EL1, 5 + vcpu),
        (Icc.ICC_AP0R0_EL1, 0x80 << vcpu),
        (Icc.ICC_AP1R0_EL1, 0x81 << vcpu),
    ):
        assert native.set_gic(GicPart.INTERFACE, vcpu, register, value)


@pytest.mark.parametrize(
    ("offset", "value", "name"),
    [
        (0x0008, 0x4300_343B, "GICD_IIDR"),
        (0x0008, 0x4B00_143B, "GICD_IIDR"),
        (0x0000, 0x0053, "GICD_CTLR"),
        (0x0420, 0x0000_0007, "GICD_IPRIORITYR[0]"),
        (0x0C08, 0x0000_0001, "GICD_ICFGR[0]"),
        (0x6100, 0x8000_0000, "GICD_IROUTER[0]"),
        (0x6104, 0x0000_0001, "GICD_IROUTER[1]"),
    ],
)
def test_distributor_value_that_cannot_be_is_rejected_by_name(
    offset: int, value: int, name: str
) -> None:
    with machine() as made:
        registers = {**gic_of(made).distributor, offset: value}

        assert f"the GIC rejects {name} = {value:#x}" in rejected(made, distributor=registers)


def test_redistributor_and_interface_values_that_cannot_be_are_rejected_by_name() -> None:
    with machine() as made:
        state = gic_of(made)
        edge = {**state.redistributors[0], 0x1_0C04: 2}
        assert "GICR_ICFGR1 of vCPU 0 = 0x2" in rejected(made, redistributors=(edge,))
        for register, value in (
            (Icc.ICC_SRE_EL1, 1),
            (Icc.ICC_CTLR_EL1, 0x2_8400),
            (Icc.ICC_PMR_EL1, 0x100),
            (Icc.ICC_BPR0_EL1, 8),
            (Icc.ICC_IGRPEN1_EL1, 2),
            (Icc.ICC_AP1R0_EL1, 1 << 32),
        ):
            interface = {**state.cpu_interfaces[0], register: value}
            expected = f"{register.name} of vCPU 0 = {value:#x}"
            assert expected in rejected(made, cpu_interfaces=(interface,))


def test_level_of_a_ppi_that_no_device_has_is_rejected() -> None:
    with machine() as made:
        assert "levels of PPIs of vCPU 0 = 0x800000" in rejected(made, ppi_levels=(1 << 23,))


def test_state_without_a_gic_and_the_reverse_are_rejected() -> None:
    with machine() as made, machine(gic=False) as other:
        with pytest.raises(StateError, match="the state has no GIC, which this machine has"):
            made.load_state(replace(made.save_state(), gic=None))
        with pytest.raises(StateError, match="the state has a GIC, which this machine has not"):
            other.load_state(replace(other.save_state(), gic=gic_of(made)))


def test_interface_of_another_cpu_keeps_its_identity_and_its_priorities() -> None:
    with machine() as made:
        state = made.save_state()
        assert state.gic is not None
        interface = {
            **state.gic.cpu_interfaces[0],
            Icc.ICC_CTLR_EL1: 0x0E00,  # 7 bits of priority, 24 of INTIDs, no Aff3
        }
        for each in Icc:
            if "AP" in each.name:
                interface[each] = 3 << each % 4

        made.load_state(replace(state, gic=replace(state.gic, cpu_interfaces=(interface,))))

        assert gic_of(made).cpu_interfaces == (interface,)


def test_unused_interface_of_kvm_has_the_least_binary_points() -> None:
    with machine() as made:
        state = made.save_state()
        assert state.gic is not None
        unused = {**state.gic.cpu_interfaces[0], Icc.ICC_BPR0_EL1: 0, Icc.ICC_BPR1_EL1: 0}

        made.load_state(replace(state, gic=replace(state.gic, cpu_interfaces=(unused,))))

        assert gic_of(made) == state.gic


def test_reset_makes_the_gic_what_it_was_at_first() -> None:
    with machine() as made:
        first = made.save_state()
        fill(made, 0)
        changed = gic_of(made)
        assert made._native.set_gic(GicPart.SPI_LEVELS, 0, 1, 0)  # lines are the devices'

        made.reset()

        assert changed != first.gic
        assert gic_of(made) == first.gic


# --- devices' lines ---


class Switch:
    """A device whose register is its line's level."""

    KIND = "switch"

    def __init__(self, description: DeviceDescription) -> None:
        self.description = description
        self.windows = (Window(description.gpa, description.size_bytes),)
        self.widths = ANY_WIDTH
        self._level = False

    def attach(self, memory: object, line: object) -> None:
        del memory
        self._line = line

    def read(self, window: int, offset: int, size_bytes: int) -> int:
        del window, offset, size_bytes
        return int(self._level)

    def write(self, window: int, offset: int, size_bytes: int, value: int) -> None:
        del window, offset, size_bytes
        self._set(bool(value))

    def reset(self) -> None:
        self._set(False)

    def save(self) -> bytes:
        return bytes((self._level,))

    def objection(self, state: bytes) -> str:
        return "" if len(state) == 1 else "switch"

    def load(self, state: bytes) -> None:
        self._set(bool(state[0]))

    def _set(self, level: bool) -> None:
        self._level = level
        self._line.set(level)  # type: ignore[attr-defined]


SWITCH = DeviceDescription("switch", Switch.KIND, Gpa(0x0A00_0000), 0x1000, interrupt=48)


def switched() -> SoftMachine:
    return SoftMachine(describe(devices=(SWITCH,)), models={Switch.KIND: Switch})


def test_line_of_a_device_is_what_its_state_says_whatever_the_gic_s_says() -> None:
    with switched() as source, switched() as target:
        source._bus.write(SWITCH.gpa, 4, 1)
        saved = source.save_state()
        assert saved.gic is not None
        assert saved.gic.spi_levels == (1 << 16, 0, 0)

        target.load_state(replace(saved, gic=replace(saved.gic, spi_levels=(0, 0, 0))))
        loaded = gic_of(target).spi_levels
        target._bus.write(SWITCH.gpa, 4, 0)

        assert loaded == (1 << 16, 0, 0)
        assert gic_of(target).spi_levels == (0, 0, 0)


def test_loading_a_line_that_is_high_makes_no_edge() -> None:
    with switched() as source, switched() as target:
        for each in (source, target):
            each._native.set_gic(GicPart.DISTRIBUTOR, 0, 0xC0C, 2)  # 48 is edge-triggered
        source._bus.write(SWITCH.gpa, 4, 1)
        source._native.set_gic(GicPart.DISTRIBUTOR, 0, 0x204, 0)  # and was acknowledged

        target.load_state(source.save_state())

        assert gic_of(target).distributor[0x204] == 0


def test_line_wakes_a_machine_whose_vcpus_all_wait() -> None:
    with switched() as made:
        bare.prepare(made, [*enabled(48), a64.hint(3), *power_off()])
        made._native.set_gic(GicPart.DISTRIBUTOR, 0, 0, 0x52)
        made._native.set_gic(GicPart.DISTRIBUTOR, 0, 0x104, 1 << 16)
        made.resume()
        assert made.wait(0.05) is RunState.RUNNING

        made._bus.write(SWITCH.gpa, 4, 1)

        assert made.wait(60) is RunState.SHUTDOWN


def enabled(intid: int) -> list[int]:
    """Let interrupts of priority 0 through the CPU interface."""
    del intid
    return [a64.movz(0, 0xFF), a64.msr(PMR, 0), a64.movz(0, 1), a64.msr(IGRPEN1, 0)]


def power_off() -> list[int]:
    return [*a64.mov_value(0, SYSTEM_OFF), a64.hvc()]


# --- a machine that moves ---


def busy_program() -> list[int]:
    """Send itself an SGI, arm the timer, and count between interrupts for ever."""
    return [
        *enabled(0),
        *(a64.movz(0, 1), a64.movk(0, 0x500, 16), a64.msr(SGI1R, 0)),
        *(a64.mrs(0, COUNT), a64.add_imm(0, 0, 1000), a64.msr(COMPARE, 0)),
        *(a64.movz(0, 1), a64.msr(CONTROL, 0)),
        a64.msr_imm(3, 7, 0xF),
        *(a64.add_imm(20, 20, 1), a64.b(-4)),
    ]


def handler() -> list[int]:
    """Note the INTID, wait a while, arm the timer again, end the interrupt and return."""
    return [
        *(a64.mrs(21, IAR1), a64.add_reg(22, 22, 21), a64.add_imm(23, 23, 1)),
        *(a64.mrs(24, COUNT), a64.add_imm(24, 24, 700), a64.msr(COMPARE, 24)),
        *([a64.add_imm(25, 25, 1)] * 12),
        *(a64.msr(EOIR1, 21), a64.eret()),
    ]


def prepared() -> SoftMachine:
    made = SoftMachine(describe())
    bare.prepare(made, busy_program(), handler=handler())
    made._native.set_gic(GicPart.DISTRIBUTOR, 0, 0, 0x52)
    made._native.set_gic(GicPart.REDISTRIBUTOR, 0, 0x1_0100, 0xFFFF | 1 << 27)
    made._native.set_gic(GicPart.REDISTRIBUTOR, 0, 0x1_0000 + 0x400 + 4, 0)
    return made


def move(source: SoftMachine) -> SoftMachine:
    target = SoftMachine(source.description)
    region = source.memory.regions[0]
    target.memory.regions[0].raw_data[:] = region.raw_data
    target.load_state(source.save_state())
    source.close()
    return target


def test_guest_that_moves_at_any_instruction_takes_the_same_interrupts() -> None:
    with prepared() as reference:
        reference.vcpus[0].step(6000)
        expected = reference.save_state()
    moved = prepared()
    pending, active = set(), set()
    for count in [1] * 60 + [17] * 35 + [1] * 200 + [147] * 35:
        moved.vcpus[0].step(count)
        state = gic_of(moved)
        pending.add(state.redistributors[0][0x1_0200] | state.ppi_levels[0])
        active.add(state.redistributors[0][0x1_0300])
        moved = move(moved)

    with moved:
        assert moved.save_state() == expected
        assert moved.vcpus[0].get_register(register_ids.x(23)) > 6
    assert pending == {0, 1 << 5, 1 << 27}
    assert active == {0, 1 << 5, 1 << 27}


# --- the clock ---


def test_host_clock_stands_while_the_machine_is_paused() -> None:
    with machine() as made:
        bare.prepare(made, [a64.b(0)])
        made.use_clock(Clock.HOST)
        made.resume()
        made.wait(0.05)
        made.pause()
        first, second = (made.vcpus[0].get_register(register_ids.TIMER_COUNT) for _ in range(2))
        made.wait(0.05)

        assert first == second == made.vcpus[0].get_register(register_ids.TIMER_COUNT)
        assert first >= 62_500_000 * 0.04


def test_host_clock_wakes_a_guest_at_its_timer() -> None:
    for clock in Clock:
        with machine() as made:
            program = [
                *enabled(27),
                *(a64.mrs(0, COUNT), a64.movz(1, 10, 16), a64.add_reg(0, 0, 1)),
                *(a64.msr(COMPARE, 0), a64.movz(0, 1), a64.msr(CONTROL, 0), a64.hint(3)),
                *power_off(),
            ]
            bare.prepare(made, program)
            made._native.set_gic(GicPart.DISTRIBUTOR, 0, 0, 0x52)
            made._native.set_gic(GicPart.REDISTRIBUTOR, 0, 0x1_0100, 1 << 27)
            made.use_clock(clock)
            made.resume()

            assert made.wait(60) is RunState.SHUTDOWN
            assert made._native.counter() >= 10 << 16


def test_suspended_vcpu_waits_for_an_interrupt() -> None:
    with machine() as made:
        bare.prepare(made, [*enabled(0), *a64.mov_value(0, 0x8400_0001), a64.hvc(), a64.b(0)])
        made._native.set_gic(GicPart.DISTRIBUTOR, 0, 0, 0x52)
        made.resume()
        assert made.wait(0.05) is RunState.RUNNING
        made.pause()
        executed = made.vcpus[0].instructions
        made._native.set_gic(GicPart.REDISTRIBUTOR, 0, 0x1_0200, 1)
        made.resume()
        while made.vcpus[0].instructions == executed:
            made.wait(0.01)
        made.pause()

        assert made.vcpus[0].get_register(register_ids.x(0)) == 0
