"""Runs the guest `paged` in a QEMU on KVM, in the lab, dumps it by its process id, prints what is
in the core as JSON: python -m tests.support.attached_guest FOLDER
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from tagalong.boot import guest_image_path
from tagalong.core import open_core
from tagalong.qemu import dump_process

QEMU = "/opt/vmm/qemu"
PAGE = 4096
POOL = 0x4027_0000
RAM = 0x4000_0000
_DEADLINE_S = 200


def start(console: Path, monitor: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            QEMU, "-accel", "kvm", "-cpu", "host", "-m", "16M", "-smp", "1",
            "-machine", "virt,mte=on,gic-version=3,memory-backend=ram",
            "-object", "memory-backend-memfd,id=ram,size=16M,share=on",
            "-nodefaults", "-no-user-config", "-display", "none",
            "-serial", f"file:{console}", "-qmp", f"unix:{monitor},server=on,wait=off",
            "-kernel", str(guest_image_path("paged")),
        ],
    )  # fmt: skip


def wait_for(console: Path, text: str, qemu: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _DEADLINE_S
    while not (console.exists() and text in console.read_text()):
        if qemu.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"the guest did not come up: {console.read_text()}")
        time.sleep(0.1)


def main() -> None:
    folder = Path(sys.argv[1])
    console, monitor, path = folder / "console", folder / "qmp", folder / "vm.core"
    with start(console, monitor) as qemu:
        wait_for(console, "paged: granule", qemu)
        attached = dump_process(qemu.pid, path, monitor=monitor)
        qemu.kill()
    with open_core(path) as core:
        tags = [core.granule_tags(POOL + page * PAGE, PAGE).tolist() for page in range(8)]
        found = {
            "tags": tags,
            "untagged": int(core.granule_tags(RAM, 1 << 20).max()),
            "pc": [vcpu.pc for vcpu in core.vcpus],
            "words": attached.to_json(),
        }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
