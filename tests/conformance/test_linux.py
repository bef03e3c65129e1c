"""A stock Debian kernel as the guest, with a program that lives on its tags, moved as it runs."""

from functools import partial

import pytest

from tagalong.boot.linux import LINUX_CONSOLE, LINUX_GIC, LinuxBoot, boot_linux
from tagalong.machine import Machine
from tagalong.migrate import MigrationOptions
from tests.conformance.conftest import KINDS, arrive
from tests.support.linux_guest import linux_guest
from tests.support.move import move
from tests.support.running_guest import Listener

MIB = 1 << 20
TIMEOUT_S = 900.0
WORDS = "console=ttyAMA0 quiet cryptomgr.notests -- tagkeeper mib=1 rate=500 signals=1"


@pytest.mark.timeout(TIMEOUT_S)
def test_linux_guest_lives_on_its_tags_before_and_after_a_migration(
    machine_name: str, opened: list[Machine]
) -> None:
    kernel, initrd = linux_guest()
    kind, before, after = KINDS[machine_name], Listener(), Listener()
    description = kind.describe(
        ram_bytes=128 * MIB, vcpu_count=1, devices=(LINUX_CONSOLE,), gic=LINUX_GIC
    )
    source = kind.from_description(description, console=before.hear)
    opened.append(source)
    boot_linux(source, LinuxBoot(kernel, initrd, WORDS))

    source.resume()
    before.wait_for("tagkeeper: progress", 1, TIMEOUT_S / 3)
    moved = move(
        source,
        partial(arrive, machine_name, opened, console=after.hear),
        MigrationOptions(verify=True, max_downtime_s=10.0),
    )
    moved.resume()
    after.wait_for("tagkeeper: progress", 2, TIMEOUT_S / 3)

    assert before.lines_with("FAIL") + after.lines_with("FAIL") == []
