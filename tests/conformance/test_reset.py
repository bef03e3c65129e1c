"""A reset: what the guest asks for, what it changes, and what stays."""

import pytest

from tagalong.boot.linux import LINUX_CONSOLE, LINUX_GIC, LINUX_GPIO
from tagalong.devices import Pl061
from tagalong.machine import Machine, MachineState, RunState, register_ids
from tagalong.machine.register_ids import register_name
from tagalong.memory import Gpa
from tagalong.migrate import MachineBuilder, MigrationOptions, SendProgress
from tagalong.mte.registers import TagCheckMode
from tests.conformance.conftest import KINDS
from tests.support import a64, bare
from tests.support.bare import CODE, DATA
from tests.support.bare_program import BareProgram, Maker
from tests.support.move import move
from tests.support.running_guest import Boot

SYSTEM_OFF, SYSTEM_RESET, SYSTEM_RESET2, CPU_ON = 0x8400_0008, 0x8400_0009, 0x8400_0012, 0xC400_0003
UARTIMSC = LINUX_CONSOLE.gpa + 0x38
TAG = 0x7
COUNTERS = {register_ids.TIMER_COUNT, register_ids.PTIMER_COUNT}

TAGGED = bare.tagged(DATA, TAG)
ASK = [*a64.mov_value(0, SYSTEM_RESET), a64.hvc(), a64.b(0)]


def changed_registers(first: MachineState, after: MachineState) -> list[str]:
    """Return the registers that have not the value that they had first; but time goes on."""
    return [
        f"{register_name(register)} of vCPU {number}: {value:#x}, {other.registers[register]:#x}"
        for number, (one, other) in enumerate(zip(first.vcpus, after.vcpus, strict=True))
        for register, value in one.registers.items()
        if register not in COUNTERS and other.registers[register] != value
    ]


def ask_for_reset(program: BareProgram) -> Machine:
    """Run a program until its guest waits for its reset."""
    program.machine.resume()
    assert program.machine.wait(60) is RunState.RESET
    return program.machine


@pytest.mark.parametrize(
    "call",
    [
        {0: SYSTEM_RESET},
        {0: SYSTEM_RESET2, 1: 0},
        {0: SYSTEM_RESET2 | 1 << 30, 1: 1 << 31, 2: 5},
    ],
    ids=["reset", "warm", "vendor"],
)
def test_guest_that_asks_for_a_reset_waits_for_it(bare: Maker, call: dict[int, int]) -> None:
    program = bare([a64.hvc(), a64.b(0)], call)

    assert ask_for_reset(program).run_state is RunState.RESET


def test_reset_kind_that_is_reserved_is_refused_to_the_guest(bare: Maker) -> None:
    program = bare([a64.hvc(), a64.mov(5, 0)], {0: SYSTEM_RESET2, 1: 1}).run()

    assert program.x(5) == (1 << 64) - 2  # INVALID_PARAMETERS


def test_reset_leaves_ram_and_tags_and_gives_every_register_its_first_value(
    bare: Maker, machine_name: str, opened: list[Machine]
) -> None:
    words = [a64.stg(4, 4), a64.str_(5, 4), a64.msr((3, 3, 13, 0, 2), 5), *ASK]
    kind = KINDS[machine_name]
    opened.append(kind.create(ram_bytes=1 << 20))
    first = opened[-1].save_state()
    machine = ask_for_reset(bare(words, {4: TAGGED, 5: 0x1234_5678}))

    machine.reset()

    state = machine.save_state()
    assert machine.run_state is RunState.PAUSED
    assert changed_registers(first, state) == []
    assert [vcpu.power for vcpu in state.vcpus] == [vcpu.power for vcpu in first.vcpus]
    assert machine.memory.read(Gpa(DATA), 8) == (0x1234_5678).to_bytes(8, "little")
    assert machine.read_tags(DATA, 32).tolist() == [TAG]


def test_time_goes_on_across_a_reset(bare: Maker) -> None:
    machine = ask_for_reset(bare([*([a64.hint(0)] * 200), *ASK]))
    before = {r: machine.vcpus[0].get_register(r) for r in COUNTERS}

    machine.reset()

    for register, value in before.items():
        assert machine.vcpus[0].get_register(register) >= value


def linux_machine(name: str, opened: list[Machine], gpios: list[Pl061]) -> Machine:
    """Return a machine with two vCPUs and all that one for Linux has."""

    def gpio(description: object) -> Pl061:
        del description
        gpios.append(Pl061(LINUX_GPIO))
        return gpios[-1]

    kind = KINDS[name]
    described = kind.describe(
        ram_bytes=bare.RAM_BYTES, vcpu_count=2, devices=(LINUX_CONSOLE, LINUX_GPIO), gic=LINUX_GIC
    )
    opened.append(kind.from_description(described, models={Pl061.KIND: gpio}))
    return opened[-1]


def test_reset_makes_devices_and_vcpus_of_a_machine_with_a_gic_what_they_were_at_first(
    machine_name: str, opened: list[Machine]
) -> None:
    gpios: list[Pl061] = []
    machine = linux_machine(machine_name, opened, gpios)
    first = machine.save_state()
    stores = ((LINUX_GPIO.gpa + 0x408, 8), (LINUX_GPIO.gpa + 0x410, 8), (UARTIMSC, 0x10),
              (LINUX_GIC.distributor + 0x104, 0xFFFF), (LINUX_GIC.distributor + 0x420, 0x1020_3040),
              (LINUX_GIC.distributor + 0x204, 1 << 9), (LINUX_GIC.distributor, 2))  # fmt: skip
    words = [
        word
        for gpa, value in stores
        for word in (*a64.mov_value(1, gpa), *a64.mov_value(2, value), a64.ldst(a64.STR_W, 2, 1))
    ]
    on = [*a64.mov_value(0, CPU_ON), *a64.mov_value(1, 1), *a64.mov_value(2, CODE), a64.movz(3, 0)]
    bare.prepare(machine, [*words, *on, a64.hvc(), *ASK], TagCheckMode.NONE)
    machine.vcpus[0].set_register(register_ids.SCTLR_EL1, 0x30D0_0800)  # flat, without a MMU

    machine.resume()
    assert machine.wait(60) is RunState.RESET
    gpios[0].press(3)
    changed = machine.save_state()
    machine.reset()
    state = machine.save_state()

    assert changed.gic != first.gic
    assert changed.devices != first.devices
    assert state.gic == first.gic
    assert state.devices == first.devices
    assert changed_registers(first, state) == []
    assert [vcpu.power for vcpu in state.vcpus] == [vcpu.power for vcpu in first.vcpus]


def test_guest_that_is_loaded_again_runs_as_at_first(boot: Boot) -> None:
    guest = boot("churn", "report=8")
    guest.machine.resume()
    guest.wait_for("churn: progress", 1)
    guest.machine.pause()
    seen = len(guest.lines_with("churn: progress"))

    guest.machine.reset()
    guest.load_again()
    guest.machine.resume()
    guest.wait_for("churn: progress", seen + 2)

    assert guest.lines_with("FAIL") == []


def start_again(machine: Machine) -> None:
    """Give a machine whose guest waits for its reset other instructions, and let it run."""
    machine.reset()
    bare.prepare(machine, [a64.stg(4, 4), a64.str_(5, 4), a64.b(0)])
    bare.set_x(machine, {4: TAGGED, 5: 0x55})
    machine.resume()


def test_all_that_a_new_start_stores_during_a_migration_arrives(
    bare: Maker, from_description: MachineBuilder
) -> None:
    machine = ask_for_reset(bare(ASK))
    started: list[int] = []

    def start_in_a_round(_: SendProgress) -> None:
        if machine.run_state is RunState.RESET:
            start_again(machine)
            started.append(CODE)

    arrived = move(
        machine,
        from_description,
        MigrationOptions(verify=True, max_downtime_s=10.0),
        progress=start_in_a_round,
    )

    assert started == [CODE]
    assert arrived.read_tags(DATA, 32).tolist() == [TAG]
    assert arrived.memory.read(Gpa(DATA), 1) == b"\x55"
