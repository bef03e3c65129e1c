"""Save a machine to a core, then read memory, tags and registers out of the file."""

import tempfile
import threading
from pathlib import Path

import tagalong
from tagalong.errors import NotInCoreError
from tagalong.mte import tags
from tagalong.snapshot import save
from tagalong.soft import RAM_GPA

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "vm.core"
    spoke = threading.Event()  # the guest reports its progress on its console
    machine = tagalong.SoftMachine.create(ram_bytes=16 << 20, console=lambda _: spoke.set())
    image = tagalong.guest_image_path("churn").read_bytes()
    tagalong.boot_guest(machine, image, command_line="working-set=1M report=256")
    machine.resume()
    spoke.wait()
    save(machine, path)
    machine.close()

    with tagalong.open_core(path) as core:
        for region in core.regions:
            print(f"{region.address:#x} to {region.end:#x}, tags: {region.has_tags}")
        packed = core.tags(RAM_GPA, 16 << 20)  # two tags a byte, lower address in the low nibble
        tagged = [run for run in tags.runs(packed) if run[2]]
        print(f"{len(tagged)} runs of granules have a tag, the first: {tagged[0]}")
        print(f"vCPU 0 was at pc {core.vcpus[0].pc:#x}")
        try:
            core.data(0x1000, 16)
        except NotInCoreError as error:
            print(error)
