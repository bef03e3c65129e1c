"""A stock Debian kernel with a disk, a network and consoles, moved as all of them work.

Then it resets itself, starts anew, loses its network, and is ended by its power button.

What a device stores to guest RAM no vCPU has stored, so no machine's own dirty log has it: the
marks of `HostStores` do. A migration compares digests of all memory, so one mark too few is seen.

On an emulated KVM each frame is dear: there, only TAGALONG_LONG looks for what is not marked. It
also has four CPUs, and pauses the guest for so long that its clock would show it.
"""

import os
import time
from pathlib import Path

import pytest

from tagalong.boot.linux import LinuxBoot, boot_linux
from tagalong.errors import DigestMismatchError
from tagalong.kvm import KvmMachine
from tagalong.machine import Machine, MachineDescription, RunState
from tagalong.memory.stores import HostStores
from tagalong.migrate import MigrationOptions
from tests.conformance.conftest import KINDS
from tests.support.answering_network import AnsweringNetwork, answering_network
from tests.support.bare import wait_until
from tests.support.linux_guest import linux_guest
from tests.support.linux_work import COMMAND_LINE, LinuxSite, write_image, write_initrd
from tests.support.move import move

MIB = 1 << 20
IS_LONG = "TAGALONG_LONG" in os.environ
VCPUS = 4 if IS_LONG else 1
PAUSE_S = 20.0 if IS_LONG else 0.5
TIMEOUT_S = 1200.0
WAIT_S = TIMEOUT_S / 4
OPTIONS = MigrationOptions(verify=True, max_downtime_s=20.0)


class Journey:
    """One guest, and the places that it comes to."""

    def __init__(self, name: str, opened: list[Machine], folder: Path, network: Path) -> None:
        kernel, base = linux_guest()
        self.boot = LinuxBoot(kernel, write_initrd(base, folder / "initrd.cpio"), COMMAND_LINE)
        image = write_image(folder / "disk.img")
        self._opened = opened
        self.here, self.lossy, self.there = (
            LinuxSite(KINDS[name], image, network) for _ in range(3)
        )

    def start(self) -> Machine:
        """Boot it `here`."""
        machine = self.here.build(self.here.describe(128 * MIB, VCPUS))
        self._opened.append(machine)
        boot_linux(machine, self.boot)
        machine.resume()
        return machine

    def move(self, source: Machine, site: LinuxSite) -> Machine:
        """Return the machine at `site` that it arrived in."""

        def arrive(description: MachineDescription) -> Machine:
            self._opened.append(site.build(description))
            return self._opened[-1]

        return move(source, arrive, OPTIONS)


@pytest.mark.timeout(TIMEOUT_S)
def test_linux_guest_moves_under_load_resets_and_powers_off(
    machine_name: str, opened: list[Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_thorough = IS_LONG or machine_name == "soft"
    with answering_network(tmp_path / "net", makes_noise=is_thorough) as network:
        journey = Journey(machine_name, opened, tmp_path, network.path)
        here, there = journey.here, journey.there
        source = journey.start()
        see_it_work(here, network)

        if is_thorough:
            with monkeypatch.context() as patch:
                forget_stores(patch)
                with pytest.raises(DigestMismatchError):
                    journey.move(source, journey.lossy)
            assert source.run_state is RunState.RUNNING
            assert frames(here) > 0

        moved = journey.move(source, there)
        pause(moved)
        see_it_work(there, network)
        assert not is_thorough or frames(there) > frames(here)
        assert network.announcements[-1] > 0
        there.order("check")
        there.hvc.wait_for("blocks read", 1, WAIT_S)
        (verdict,) = there.hvc.lines_with("blocks read")
        assert ", 0 wrong" in verdict
        assert there.hvc.lines_with("work: clean")
        assert here.uart.lines_with("FAIL") + there.uart.lines_with("FAIL") == []
        assert_no_leap(there)

        there.order("reset")
        assert moved.wait(WAIT_S) is RunState.RESET
        seen = len(there.hvc.lines_with("work: block"))
        moved.reset()
        boot_linux(moved, journey.boot)
        moved.resume()
        there.hvc.wait_for("work: block", seen + 2, WAIT_S)
        assert there.hvc.lines_with("work: the link is down") == []
        network.hang_up()
        there.hvc.wait_for("work: the link is down", 1, WAIT_S)
        there.press_power_button()
        assert moved.wait(WAIT_S) is RunState.SHUTDOWN
        assert there.uart.lines_with("the power button was pressed")
        if isinstance(moved, KvmMachine):
            assert moved.answered_accesses > 0  # of interrupts, without Python


def see_it_work(site: LinuxSite, network: AnsweringNetwork) -> None:
    """Wait until everything in the guest has gone on."""
    answered = network.answers[-1] if network.answers else 0
    site.hvc.wait_for("work: block", 8, WAIT_S)
    site.uart.wait_for("tagkeeper: progress", 2, WAIT_S)
    site.uart.wait_for("clockwatch: progress", 2, WAIT_S)
    wait_until(lambda: network.answers[-1] > answered, WAIT_S)


def forget_stores(patch: pytest.MonkeyPatch) -> None:
    """Let nothing mark what devices store."""
    for name in ("mark", "mark_pages", "mark_by"):
        patch.setattr(HostStores, name, lambda *_: None)


def pause(machine: Machine) -> None:
    """Let it run a while, and pause it for long."""
    machine.resume()
    time.sleep(PAUSE_S / 10)
    machine.pause()
    time.sleep(PAUSE_S)
    machine.resume()


def assert_no_leap(site: LinuxSite) -> None:
    """Require that no thread of the guest saw its clock leap over the pause.

    Shorter pauses would not differ from what an overloaded host's scheduler takes.
    """
    lines = site.uart.lines_with("clockwatch: progress")
    assert all(f"cpus={VCPUS} " in line for line in lines)
    steps_ms = [int(line.rpartition("largest-step-ms=")[2]) for line in lines]
    assert not IS_LONG or max(steps_ms) < PAUSE_S * 500


def frames(site: LinuxSite) -> int:
    return int(site.hvc.lines_with("work: block")[-1].rpartition("frames=")[2])
