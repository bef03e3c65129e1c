"""A Linux guest that lives on its tags crosses the seam: embedded machine, the lab's KVM, and back.

It boots on this host, where an interpreter is quick, and leaves in the middle of an interrupt, by a
migration into a file. The lab has that file in its root.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tagalong import lab, migrate
from tagalong.boot.linux import LINUX_CONSOLE, LINUX_GIC, LinuxBoot, boot_linux
from tagalong.lab.cpio import CpioWriter
from tagalong.machine import Machine
from tagalong.migrate import Compression, CompressionMode, MigrationOptions
from tagalong.soft import SoftMachine
from tests.support.lab_session import KERNELS, request
from tests.support.linux_guest import linux_guest
from tests.support.running_guest import MIB, Listener
from tests.support.seen_state import differences, seen_state
from tests.support.ticking_guest import has_active_interrupt, pause_in

TIMEOUT_S = 900.0
WORDS = "console=ttyAMA0 quiet cryptomgr.notests -- tagkeeper mib=1 rate=500 signals=1"
PROGRESS = "tagkeeper: progress"
# In what the two CPUs differ on every kernel, which must be told.
NAMED = ("MIDR_EL1", "ID_AA64MMFR0_EL1", "CTR_EL0", "CNTFRQ_EL0")


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give the archive with the stream of a guest that left a machine here, and its state then."""
    kernel, initrd = linux_guest()
    console, stream = Listener(), tmp_path_factory.mktemp("seam") / "guest.stream"
    description = SoftMachine.describe(
        ram_bytes=128 * MIB, vcpu_count=1, devices=(LINUX_CONSOLE,), gic=LINUX_GIC
    )
    machine = SoftMachine.from_description(description, console=console.hear)
    try:
        boot_linux(machine, LinuxBoot(kernel, initrd, WORDS))
        machine.resume()
        console.wait_for(PROGRESS, 1, TIMEOUT_S / 2)
        pause_in(machine, has_active_interrupt)
        yield send(machine, stream), seen_state(machine)
    finally:
        machine.close()


def send(machine: Machine, stream: Path) -> Path:
    compressed = MigrationOptions(compression=Compression(CompressionMode.ZSTD))
    migrate.migrate_to(f"file:{stream}", machine, compressed)
    archive = stream.with_suffix(".cpio")
    with archive.open("wb") as out:
        writer = CpioWriter(out)
        writer.add_file(stream.name, stream.read_bytes())
        writer.close()
    return archive


@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.parametrize("kernel", KERNELS)
def test_linux_guest_goes_to_kvm_and_back_with_tags_registers_and_interrupts(
    kernel: str, booted: tuple[Path, dict[str, Any]]
) -> None:
    archive, sent = booted
    system = lab.set_up(request(kernel), lab.SilentObserver()).system
    output, messages = bytearray(), bytearray()

    status = lab.run(
        replace(system, archives=(*system.archives, archive)),
        f"exec python3 -m tests.support.seam_route /guest.stream '{PROGRESS}'\n",
        lab.EmulatorOptions(timeout_s=TIMEOUT_S),
        lab.Streams(output.extend, messages.extend),
    )

    assert status == 0, messages.decode()
    there, back, left, ran = (json.loads(line) for line in output.splitlines())
    assert differences(sent, there) == []
    assert differences(left, back) == []
    for arrived in (there, back):
        named = "\n".join(arrived["accepted"])
        assert [name for name in NAMED if name not in named] == [], named
    assert not any("FAIL" in line for line in left["console"] + ran["console"])
