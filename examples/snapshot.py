"""Save a running guest without stopping it for long, and restore it twice from one file."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import tagalong
from tagalong.machine import MachineDescription
from tagalong.memory import RegionSource
from tagalong.snapshot import SaveOptions, restore, save
from tagalong.soft import SoftMachine


def build(description: MachineDescription, sources: Sequence[RegionSource] | None) -> SoftMachine:
    """Make the machine of a snapshot on top of its file, which is mapped copy-on-write."""
    return SoftMachine.from_description(description, sources=sources)


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "vm.core"
    machine = SoftMachine.create(ram_bytes=64 << 20)
    image = tagalong.guest_image_path("churn").read_bytes()
    tagalong.boot_guest(machine, image, command_line="working-set=1M")
    machine.resume()
    machine.wait(0.2)
    report = save(machine, path, SaveOptions(live=True, max_downtime_s=0.05))
    print(f"{report.size_bytes} bytes, {report.disk_bytes} of them on disk")
    print(f"the guest was stopped for {report.downtime_s * 1000:.1f} ms and is running again")
    machine.close()

    for number in (1, 2):
        restored = restore(path, build)
        restored.machine.resume()
        restored.machine.wait(0.2)
        print(f"restored {number}: {restored.machine.run_state.value}")
        restored.machine.close()
