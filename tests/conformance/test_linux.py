"""A stock Debian kernel with a disk, a network and consoles, moved as all of them work.

Then it resets itself, starts anew, and is ended by its power button.
"""

from pathlib import Path

import pytest

from tagalong.boot.linux import LinuxBoot, boot_linux
from tagalong.machine import Machine, MachineDescription, RunState
from tagalong.migrate import MigrationOptions
from tests.conformance.conftest import KINDS
from tests.support.answering_network import answering_network
from tests.support.bare import wait_until
from tests.support.linux_guest import linux_guest
from tests.support.linux_work import COMMAND_LINE, LinuxSite, write_image, write_initrd
from tests.support.move import move

MIB = 1 << 20
TIMEOUT_S = 1200.0
WAIT_S = TIMEOUT_S / 4


@pytest.mark.timeout(TIMEOUT_S)
def test_linux_guest_moves_under_load_resets_and_powers_off(
    machine_name: str, opened: list[Machine], tmp_path: Path
) -> None:
    kernel, base = linux_guest()
    initrd = write_initrd(base, tmp_path / "initrd.cpio")
    boot = LinuxBoot(kernel, initrd, COMMAND_LINE)
    image = write_image(tmp_path / "disk.img")
    with answering_network(tmp_path / "net") as network:
        here, there = (LinuxSite(KINDS[machine_name], image, network.path) for _ in range(2))

        def arrive(description: MachineDescription) -> Machine:
            opened.append(there.build(description))
            return opened[-1]

        source = here.build(here.describe(128 * MIB, 1))
        opened.append(source)
        boot_linux(source, boot)
        source.resume()
        here.hvc.wait_for("work: block", 8, WAIT_S)
        here.uart.wait_for("tagkeeper: progress", 1, WAIT_S)
        wait_until(lambda: network.answers[0] > 0, WAIT_S)

        moved = move(source, arrive, MigrationOptions(verify=True, max_downtime_s=20.0))
        moved.resume()
        there.hvc.wait_for("work: block", 8, WAIT_S)
        there.uart.wait_for("tagkeeper: progress", 2, WAIT_S)
        there.uart.wait_for("clockwatch: progress", 2, WAIT_S)
        wait_until(lambda: network.answers[1] > 0, WAIT_S)
        there.order("check")
        there.hvc.wait_for("blocks read", 1, WAIT_S)

        (verdict,) = there.hvc.lines_with("blocks read")
        assert ", 0 wrong" in verdict
        assert here.uart.lines_with("FAIL") + there.uart.lines_with("FAIL") == []

        there.order("reset")
        assert moved.wait(WAIT_S) is RunState.RESET
        seen = len(there.hvc.lines_with("work: block"))
        moved.reset()
        boot_linux(moved, boot)
        moved.resume()
        there.hvc.wait_for("work: block", seen + 2, WAIT_S)
        there.press_power_button()
        assert moved.wait(WAIT_S) is RunState.SHUTDOWN
        assert there.uart.lines_with("the power button was pressed")
