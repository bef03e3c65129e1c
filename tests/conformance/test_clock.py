"""The real-time clock of a machine for Linux: its alarm comes by itself, its time moves along."""

import pytest

from tagalong.boot.linux import LINUX_CONSOLE, LINUX_GIC, LINUX_RTC
from tagalong.machine import Machine, RunState, register_ids
from tagalong.memory import Gpa
from tagalong.migrate import MachineBuilder, MigrationOptions
from tagalong.mte.registers import TagCheckMode
from tests.conformance.conftest import KINDS
from tests.support import a64, bare
from tests.support.bare import DATA, wait_until
from tests.support.move import move

MATCH, LOAD, MASK, CLEAR = 0x04, 0x08, 0x10, 0x1C
PENDING_34, CONFIG_34 = (LINUX_GIC.distributor + at for at in (0x204, 0xC08))
JUST_BEFORE_A_SECOND = 62_490_000  # ticks of the embedded machine, whose time is counted
OFF = [*a64.mov_value(0, 0x8400_0008), a64.hvc(), a64.b(0)]
BASES = [*a64.mov_value(1, LINUX_RTC.gpa), *a64.mov_value(5, PENDING_34), *a64.mov_value(7, DATA)]
# What ICFGR is at first is UNKNOWN, and an edge stays pending when the line is low again.
LEVEL = [*a64.mov_value(10, CONFIG_34), a64.ldst(a64.STR_W, a64.ZR, 10, 0)]


@pytest.fixture
def machine(machine_name: str, opened: list[Machine]) -> Machine:
    """Return a machine with a clock, before any program."""
    kind = KINDS[machine_name]
    described = kind.describe(
        ram_bytes=bare.RAM_BYTES, devices=(LINUX_CONSOLE, LINUX_RTC), gic=LINUX_GIC
    )
    opened.append(kind.from_description(described))
    return opened[-1]


def load(machine: Machine, *words: int) -> None:
    """Give it a program that runs with the MMU off."""
    bare.prepare(machine, [*BASES, *words], TagCheckMode.NONE)
    machine.vcpus[0].set_register(register_ids.SCTLR_EL1, 0x30D0_0800)


def read_word(rt: int, rn: int, offset: int = 0) -> int:
    return a64.ldst(a64.LDR_W, rt, rn, offset)


def write_word(rt: int, rn: int, offset: int = 0) -> int:
    return a64.ldst(a64.STR_W, rt, rn, offset)


def test_alarm_comes_in_its_second_to_a_guest_that_does_not_look_at_the_clock(
    machine: Machine,
) -> None:
    load(
        machine,
        *LEVEL,
        *(read_word(9, 1), a64.add_imm(9, 9, 1, sf=0), write_word(9, 1, MATCH)),
        *(a64.movz(3, 1), write_word(3, 1, MASK)),
        *(read_word(4, 5), a64.tbz(4, 2, -4)),
        *(read_word(6, 1), write_word(3, 1, CLEAR), read_word(8, 5)),
        *OFF,
    )
    machine.vcpus[0].set_register(register_ids.TIMER_COUNT, JUST_BEFORE_A_SECOND)

    machine.resume()

    assert machine.wait(60) is RunState.SHUTDOWN
    assert bare.get_x(machine, 6) >= bare.get_x(machine, 9)
    assert bare.get_x(machine, 8) & 4 == 0  # and is gone when it was cleared


def test_time_that_the_guest_set_moves_with_it(
    machine: Machine, from_description: MachineBuilder
) -> None:
    load(
        machine,
        *(*a64.mov_value(2, 1_000_000), write_word(2, 1, LOAD)),
        *(read_word(2, 1), write_word(2, 7), a64.b(-8)),
    )
    machine.resume()
    wait_until(lambda: seen(machine) > 0)

    options = MigrationOptions(max_downtime_s=20.0)
    there = move(machine, from_description, options)
    left = seen(there)
    there.memory.write(Gpa(DATA), bytes(4))
    there.resume()
    wait_until(lambda: seen(there) > 0)

    assert 1_000_000 <= left <= seen(there) < 1_001_000


def seen(machine: Machine) -> int:
    """Return the time that the guest read last."""
    return int.from_bytes(machine.memory.read(Gpa(DATA), 4), "little")
