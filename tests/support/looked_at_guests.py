"""Looks at guests of unmodified QEMUs on KVM in every way that there is: run inside the lab.

    python -m tests.support.looked_at_guests bare|linux FOLDER

A bare guest of a QEMU that tagalong has not started is dumped by its process id. A Linux guest,
whose tagkeeper lives on its tags, runs beside tagalong with its RAM in a memfd: it is dumped
through the control socket while it runs, and once more, paused, in both ways, which must agree.
Prints what was found as JSON; the cores of the Linux guest are FOLDER/vm.core.zst and user.core.
"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tagalong.boot import guest_image_path
from tagalong.control.client import connect
from tagalong.control.saving import save_vm
from tagalong.core import open_core, pack
from tagalong.qapi.saving import SaveInfo, SaveKind, SaveRequest
from tagalong.qemu import Attached, dump_process
from tagalong.studies.beside import QemuGuest
from tagalong.studies.beside.host import BesideHost
from tests.support.keeper_core import find_kept

VMM = Path("/opt/vmm")
PAGE = 4096
POOL = 0x4027_0000
RAM = 0x4000_0000
LINUX_RAM_BYTES = 128 << 20
MIB = 4
_DEADLINE_S = 300.0
_SHARED = (
    "-M", "memory-backend=ram",
    "-object", "memory-backend-memfd,id=ram,size=128M,share=on",
)  # fmt: skip


# --- a bare guest, and a QEMU that we do not know ---


def start(console: Path, monitor: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            VMM / "qemu", "-accel", "kvm", "-cpu", "host", "-m", "16M", "-smp", "1",
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


def look_at_bare_guest(folder: Path) -> dict[str, object]:
    console, monitor, path = folder / "console", folder / "qmp", folder / "bare.core"
    with start(console, monitor) as qemu:
        wait_for(console, "paged: granule", qemu)
        attached = dump_process(qemu.pid, path, monitor=monitor)
        qemu.kill()
    with open_core(path) as core:
        return {
            "tags": [core.granule_tags(POOL + page * PAGE, PAGE).tolist() for page in range(8)],
            "untagged": int(core.granule_tags(RAM, 1 << 20).max()),
            "pc": [vcpu.pc for vcpu in core.vcpus],
            "words": attached.to_json(),
        }


# --- a Linux guest beside tagalong ---


def _quiet(_: SaveInfo) -> None:
    """Show nothing."""


async def dump(host: BesideHost, path: Path) -> dict[str, object]:
    request = SaveRequest(path, kind=SaveKind.DUMP)
    return dict((await save_vm(host.control, request, _quiet)).to_json())


async def look_at_linux(folder: Path) -> dict[str, object]:
    guest = QemuGuest(VMM / "qemu", VMM / "Image", VMM / "initrd", knobs=f"mib={MIB} rate=300")
    monitor = folder / "own"
    more = [*_SHARED, "-qmp", f"unix:{monitor},server=on,wait=off"]
    host = BesideHost(guest, folder, "linux", more=more)
    try:
        await host.wait_for_reports(1, _DEADLINE_S)
        report = await dump(host, folder / "vm.core")
        await host.wait_for_reports(len(host.progress) + 1, _DEADLINE_S)
        kept = find_kept(folder / "vm.core", 1, MIB, folder)
        assert kept is not None, "no vCPU runs tagkeeper"
        return {
            "report": report,
            "granules": kept.granules,
            "wrong": [kept.wrong_tags, kept.wrong_data],
            "address": kept.address,
            "first_tags": kept.tags[:64].tolist(),
            "failures": list(host.failures),
            **await compare_ways(host, monitor, folder),
        }
    finally:
        host.stop()


async def compare_ways(host: BesideHost, monitor: Path, folder: Path) -> dict[str, object]:
    """Dump the paused guest through its control socket, and by QEMU's process id."""
    async with connect(host.control) as client:
        await client.execute("stop")
        await dump(host, folder / "control.core")
        pid = qemu_of(host)
        known = await asyncio.to_thread(dump_process, pid, folder / "known.core", monitor=monitor)
        blind = await asyncio.to_thread(dump_process, pid, folder / "blind.core")
        explained = [explain(each) for each in (host.control, folder / "control.core")]
        state = await client.run_state()
    return {
        "explained": explained,
        "state": state,
        "known": differences(folder, "known.core", known),
        "blind": differences(folder, "blind.core", blind),
    }


def explain(path: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "tagalong", "explain", str(path), "--json"]
    printed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    found: dict[str, object] = json.loads(printed)
    return found


def qemu_of(host: BesideHost) -> int:
    tasks = Path(f"/proc/{host.process.pid}/task").iterdir()
    children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    (found,) = [
        pid for pid in children if b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return found


def differences(folder: Path, name: str, attached: Attached) -> dict[str, object]:
    """Return where a core by process id differs from the one through the control socket."""
    with open_core(folder / "control.core") as core, open_core(folder / name) as other:
        registers = [(v.pc, v.sp, v.x) for v in core.vcpus] == [
            (v.pc, v.sp, v.x) for v in other.vcpus
        ]
        return {
            "data": bool(np.array_equal(
                core.data(RAM, LINUX_RAM_BYTES), other.data(RAM, LINUX_RAM_BYTES)
            )),
            "tags": bool(np.array_equal(
                core.tags(RAM, LINUX_RAM_BYTES), other.tags(RAM, LINUX_RAM_BYTES)
            )),
            "registers": registers,
            "threads": len(other.vcpus),
            "linux": None if other.vmcoreinfo is None else other.vmcoreinfo.osrelease,
            "words": attached.to_json(),
        }  # fmt: skip


def main() -> None:
    which, folder = sys.argv[1], Path(sys.argv[2])
    if which == "bare":
        print(json.dumps(look_at_bare_guest(folder)))
        return
    found = asyncio.run(look_at_linux(folder))
    pack(folder / "vm.core", folder / "vm.core.zst", level=1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
