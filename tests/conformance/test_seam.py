"""Across the seam: a guest that starts on one kind of machine goes to the other and back."""

from functools import partial

import pytest

from tagalong.errors import MigrationError
from tagalong.machine import Machine, register_ids
from tagalong.machine.cpu_match import CpuPolicy
from tests.conformance.conftest import KINDS, arrive
from tests.support.move import move
from tests.support.running_guest import Boot, Listener
from tests.support.ticking_guest import has_active_interrupt, pause_in, ticking

# No built-in guest uses them: they must arrive as they are.
UNUSED = {
    **{register_ids.v(number): (number + 1) << 120 | 0xFEDC << number for number in range(32)},
    register_ids.FPSR: 0x0800_0011,
    register_ids.FPCR: 0x0340_0000,
}
CALM = "working-set=1M write-rate=10 report=256"


@pytest.fixture
def machine_name() -> str:
    """Say where guests start if a test does not: here it names the machines itself."""
    return "soft"


@pytest.mark.parametrize("route", [("soft", "kvm", "soft"), ("kvm", "soft", "kvm")], ids="-".join)
def test_guest_goes_across_the_seam_and_back_and_keeps_its_invariants(
    boot: Boot, opened: list[Machine], route: tuple[str, ...]
) -> None:
    guest = boot("churn", CALM, on=route[0])
    machine, console = guest.machine, Listener()
    machine.resume()
    guest.wait_for("progress", 2)
    machine.pause()
    for register, value in UNUSED.items():
        machine.vcpus[0].set_register(register, value)

    for name in route[1:]:
        accepted: list[str] = []
        policy = CpuPolicy(allow_mismatch=True, tell=accepted.append)
        console = Listener()
        build = partial(arrive, name, opened, policy=policy, console=console.hear)
        machine = move(machine, build)
        assert {each: machine.vcpus[0].get_register(each) for each in UNUSED} == UNUSED
        machine.resume()
        console.wait_for("progress", 3)
        machine.pause()
        assert not console.lines_with("FAIL")
        # DCZID_EL0 differs (or is not known) on both legs, and no kernel takes another one.
        assert any(line.startswith("vCPU 0: DCZID_EL0 ") for line in accepted), accepted
        print(route, name, *accepted, sep="\n")


@pytest.mark.parametrize("route", [("soft", "kvm"), ("kvm", "soft")], ids="-".join)
def test_interrupts_in_flight_and_time_go_across_the_seam(
    opened: list[Machine], route: tuple[str, str]
) -> None:
    guest = ticking(KINDS[route[0]].from_description, "ticks=0 period-us=200 active-us=100")
    opened.append(guest.machine)
    state = pause_in(guest.machine, has_active_interrupt)
    policy, console = CpuPolicy(allow_mismatch=True), Listener()

    machine = move(
        guest.machine, partial(arrive, route[1], opened, policy=policy, console=console.hear)
    )

    arrived = machine.save_state()
    assert arrived.gic == state.gic
    assert [vcpu.registers[register_ids.TIMER_COUNT] for vcpu in arrived.vcpus] == [
        vcpu.registers[register_ids.TIMER_COUNT] for vcpu in state.vcpus
    ]
    machine.resume()
    console.wait_for("console interrupts", 2)
    machine.pause()
    assert not console.lines_with("FAIL")


def test_another_cpu_is_refused_without_permission_and_the_guest_goes_on(
    boot: Boot, opened: list[Machine]
) -> None:
    guest = boot("churn", CALM, on="soft")
    guest.machine.resume()
    guest.wait_for("progress", 1)

    with pytest.raises(MigrationError, match="--allow-cpu-mismatch"):
        move(guest.machine, partial(arrive, "kvm", opened))

    guest.wait_for("progress", len(guest.lines_with("progress")) + 1)
    assert not guest.lines_with("FAIL")
