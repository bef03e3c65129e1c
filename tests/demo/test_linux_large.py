"""A stock Debian kernel with more CPUs than one Aff1 has, and with RAM above 4 GiB."""

from pathlib import Path

import pytest

from tagalong.boot.linux import LINUX_CONSOLE, LINUX_GIC, LinuxBoot, boot_linux
from tagalong.machine import RunState
from tagalong.soft import SoftMachine
from tests.support.linux_guest import linux_guest
from tests.support.linux_work import COMMAND_LINE, write_initrd
from tests.support.running_guest import Listener

GIB = 1 << 30
TIMEOUT_S = 600.0
LARGE = """#!/bin/busybox sh
echo "large: $(nproc) CPUs"
grep MemTotal /proc/meminfo
tagkeeper mib=1 threads=2 seconds=1
"""


@pytest.mark.timeout(TIMEOUT_S)
def test_linux_guest_has_more_than_16_cpus_and_4_gib(tmp_path: Path) -> None:
    kernel, base = linux_guest()
    initrd = write_initrd(base, tmp_path / "initrd.cpio", LARGE)
    heard = Listener()
    described = SoftMachine.describe(
        ram_bytes=5 * GIB, vcpu_count=18, devices=(LINUX_CONSOLE,), gic=LINUX_GIC
    )
    with SoftMachine.from_description(described, console=heard.hear) as machine:
        boot_linux(machine, LinuxBoot(kernel, initrd, COMMAND_LINE))

        machine.resume()

        assert machine.wait(TIMEOUT_S / 2) is RunState.SHUTDOWN, heard.lines[-3:]
    assert heard.lines_with("large: 18 CPUs")
    (total,) = heard.lines_with("MemTotal")
    assert int(total.split()[1]) * 1024 > 4.75 * GIB
    assert heard.lines_with("tagkeeper: progress")
    assert heard.lines_with("guest: work ended with status 0")
