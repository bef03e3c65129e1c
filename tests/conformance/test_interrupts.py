"""Interrupts and time through the GIC: a guest that counts both is looked at, paused and moved.

The guest stops with FAIL if an interrupt is lost or comes twice, or a counter goes back.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tagalong.access import STRATEGIES, Host
from tagalong.access.choice import missing
from tagalong.errors import StateError
from tagalong.kvm import KvmMachine
from tagalong.kvm.clock import VirtualTime
from tagalong.machine import (
    Clock,
    Machine,
    MachineDescription,
    MachineState,
    RunState,
    register_ids,
)
from tagalong.memory import Gpa
from tagalong.mte.registers import TagCheckMode
from tagalong.snapshot import restore, save
from tagalong.soft import SoftMachine
from tagalong.studies.comparison.measure import Tries, try_all
from tagalong.vmm.factory import use_clock
from tests.conformance.conftest import KINDS
from tests.support.move import move
from tests.support.running_guest import Listener, RunningGuest
from tests.support.ticking_guest import (
    RAM,
    gic_of,
    has_active_interrupt,
    has_due_timer,
    has_pending_sgi,
    pause_in,
    ticking,
)

FOR_EVER = "ticks=0 period-us=2000 active-us=1000"
# So many ticks that there is a line of output, and so a look, for each strategy and more.
LOOKED_AT = "ticks=448 period-us=500 active-us=50"
UNUSED_GPA = Gpa(RAM.gpa + RAM.size_bytes - (1 << 20))  # the guest is at the start of RAM
LOOK_TIMEOUT_S = 120.0
MOMENTS: dict[str, Callable[[MachineState], bool]] = {
    "an active interrupt": has_active_interrupt,
    "a pending SGI": has_pending_sgi,
    "a timer that is due": has_due_timer,
}

Start = Callable[..., RunningGuest]


@pytest.fixture
def start(machine_name: str, opened: list[Machine]) -> Start:
    """Return what boots the guest on the machine under test."""

    def boot(command_line: str, *, vcpu_count: int = 2) -> RunningGuest:
        guest = ticking(KINDS[machine_name].from_description, command_line, vcpu_count=vcpu_count)
        opened.append(guest.machine)
        return guest

    return boot


def registers_of(state: MachineState) -> list[dict[str, int]]:
    return [
        {register_ids.register_name(name): value for name, value in vcpu.registers.items()}
        for vcpu in state.vcpus
    ]


@pytest.mark.parametrize("vcpu_count", [1, 3])
def test_guest_counts_its_interrupts_to_the_end(start: Start, vcpu_count: int) -> None:
    guest = start("ticks=48 period-us=500 active-us=50", vcpu_count=vcpu_count)

    lines = guest.run_to_the_end()

    assert not guest.lines_with("FAIL")
    assert lines[-1].startswith(f"ticks: PASS {48 * vcpu_count} ticks, "), lines
    sgis, spis = (int(part.split()[0]) for part in lines[-1].split(", ")[1:])
    assert sgis > 0
    assert spis > 0


class Looker:
    """Looks at a running guest by each strategy in turn: a look for each line that it prints."""

    def __init__(self) -> None:
        self.tries: dict[str, Tries] = {}
        self._line, self._look = threading.Semaphore(0), threading.Semaphore(0)

    def hear(self, data: bytes) -> None:
        """Let the guest go on when the look is over: none of them falls behind the guest's end."""
        if b"\n" in data:
            self._line.release()
            assert self._look.acquire(timeout=LOOK_TIMEOUT_S)

    def look_at(self, machine: Machine, host: Host) -> None:
        strategies = [kind for kind in STRATEGIES.values() if not missing(kind.needs, host)]
        for kind in cycle(strategies):
            while not self._line.acquire(timeout=0.01):
                if machine.run_state is not RunState.RUNNING:
                    return
            self._look.release()  # the guest runs during the look, and waits for the next
            self.tries[kind.name] = try_all(host, kind(host), UNUSED_GPA, TagCheckMode.SYNC)


def test_looks_by_every_strategy_change_nothing_of_a_guest_that_takes_interrupts(
    machine_name: str, opened: list[Machine]
) -> None:
    looker = Looker()

    def make(description: MachineDescription, **options: Any) -> Machine:
        def hear(data: bytes) -> None:
            options["console"](data)
            looker.hear(data)

        return KINDS[machine_name].from_description(description, seed=1, console=hear)

    watched = ticking(make, LOOKED_AT)
    opened.append(watched.machine)
    assert isinstance(watched.machine, SoftMachine | KvmMachine)
    host = watched.machine.host

    watched.machine.resume()
    looker.look_at(watched.machine, host)

    assert watched.machine.wait(LOOK_TIMEOUT_S) is RunState.SHUTDOWN, watched.lines[-3:]
    assert {"ioctl", "tco", "kernel", "prctl", "sp", "match"} <= looker.tries.keys()
    assert [tries for tries in looker.tries.values() if tries.faults or tries.wrong] == []
    assert watched.lines[-1].startswith("ticks: PASS ")
    if machine_name == "soft":  # whose runs can be repeated
        alone = ticking(SoftMachine.from_description, LOOKED_AT)
        opened.append(alone.machine)
        assert alone.run_to_the_end() == watched.lines
        assert alone.machine.save_state() == watched.machine.save_state()


def test_guest_paused_in_every_moment_of_an_interrupt_moves_and_loses_none(
    start: Start, machine_name: str, opened: list[Machine]
) -> None:
    guest = start(FOR_EVER, vcpu_count=2)
    machine, console = guest.machine, Listener()
    for name, moment in MOMENTS.items():
        state = pause_in(machine, moment)
        console = Listener()

        machine = move(machine, partial(KINDS[machine_name].from_description, console=console.hear))
        opened.append(machine)

        assert machine.run_state is RunState.PAUSED
        arrived = machine.save_state()
        assert arrived.gic == state.gic, name
        assert registers_of(arrived) == registers_of(state), name
        machine.resume()
        console.wait_for("console interrupts", 2)
        assert not console.lines_with("FAIL"), name
    machine.pause()


def test_snapshot_in_the_moment_of_an_interrupt_restores_it(
    start: Start, machine_name: str, opened: list[Machine], tmp_path: Path
) -> None:
    guest = start(FOR_EVER)
    state = pause_in(guest.machine, has_active_interrupt)
    save(guest.machine, tmp_path / "vm.core")
    console = Listener()

    machine = restore(
        tmp_path / "vm.core",
        lambda description, sources: KINDS[machine_name].from_description(
            description, sources=sources, console=console.hear
        ),
    ).machine
    opened.append(machine)

    assert machine.save_state().gic == state.gic
    machine.resume()
    console.wait_for("console interrupts", 2)
    machine.pause()
    assert not console.lines_with("FAIL")


def test_counters_stand_while_the_machine_is_paused(start: Start) -> None:
    guest = start(FOR_EVER)
    counters = (register_ids.TIMER_COUNT, register_ids.PTIMER_COUNT)

    def read() -> list[int]:
        return [guest.machine.vcpus[1].get_register(counter) for counter in counters]

    before = read()
    for _ in range(3):
        guest.machine.resume()
        guest.machine.wait(0.05)
        guest.machine.pause()
        at_pause = read()
        time.sleep(0.05)

        assert read() == at_pause
        assert all(now > then for now, then in zip(at_pause, before, strict=True))
        before = at_pause


def test_time_that_passed_on_the_host_while_paused_does_not_pass_for_the_guest(
    start: Start,
) -> None:
    guest = start(FOR_EVER)
    machine = guest.machine
    use_clock(machine, Clock.HOST)
    machine.resume()
    guest.wait_for(" Hz", 1)
    machine.pause()
    frequency = int(guest.lines_with(" Hz")[0].split()[-2])
    ran_s, elapsed_s = 0.0, 0.0

    for _ in range(3):
        before = machine.vcpus[1].get_register(register_ids.TIMER_COUNT)
        time.sleep(0.3)
        resumed = time.monotonic()
        machine.resume()
        machine.wait(0.02)
        machine.pause()
        ran_s += time.monotonic() - resumed
        after = machine.vcpus[1].get_register(register_ids.TIMER_COUNT)
        elapsed_s += (after - before) / frequency

    assert 0 < elapsed_s <= ran_s


def test_hours_that_pass_on_the_host_while_paused_do_not_pass_for_the_guest(start: Start) -> None:
    guest = start(FOR_EVER)
    machine = guest.machine
    use_clock(machine, Clock.HOST)
    machine.resume()
    guest.wait_for(" Hz", 1)
    frequency = int(guest.lines_with(" Hz")[0].split()[-2])
    steps_s = []

    for hours in (10, -5):
        machine.pause()
        before = machine.vcpus[1].get_register(register_ids.TIMER_COUNT)
        move_host_counter(machine, hours * 3600 * frequency)
        machine.resume()
        machine.wait(0.02)
        machine.pause()
        after = machine.vcpus[1].get_register(register_ids.TIMER_COUNT)
        steps_s.append((after - before) / frequency)
        machine.resume()

    assert all(0 < step_s < 3600 for step_s in steps_s), steps_s
    assert guest.lines_with("FAIL") == []


def move_host_counter(machine: Machine, ticks: int) -> None:
    """Let the counter of a machine that is paused be one that went on; it is KVM's alone."""
    if isinstance(machine, KvmMachine):
        assert isinstance(machine._clock, VirtualTime)
        descriptor = machine._clock._descriptor
        counter = register_ids.TIMER_COUNT
        descriptor.set_register(counter, descriptor.get_register(counter) + ticks & (1 << 64) - 1)


def test_check_state_names_what_is_no_state_of_its_gic(start: Start) -> None:
    machine = start(FOR_EVER).machine
    state = machine.save_state()
    gic = gic_of(state)
    other = replace(gic, distributor={**gic.distributor, 0x0008: 0x43B})
    short = replace(gic, spi_levels=gic.spi_levels[1:])

    for changed, message in (
        (None, "the state has no GIC, which this machine has"),
        (other, "GICD_IIDR"),
        (short, "the GIC's state has 2 words of SPI levels, expected 3"),
    ):
        with pytest.raises(StateError, match=message):
            machine.check_state(replace(state, gic=changed))

    machine.check_state(state)
    assert machine.save_state() == state
