"""A Linux guest that reads and writes a disk and receives frames while it is moved.

What a device stores to guest RAM no vCPU has stored, so no machine's own dirty log has it: the
marks of `HostStores` do. A migration compares digests of all memory, so one mark too few is seen.
"""

from pathlib import Path

import pytest

from tagalong.boot.linux import LINUX_CONSOLE, LINUX_GIC, LinuxBoot, boot_linux
from tagalong.devices import (
    DiskBacking,
    InlineWork,
    NetworkBacking,
    ThreadedWork,
    VirtioBackings,
    VirtioDevices,
)
from tagalong.errors import DigestMismatchError
from tagalong.machine import Machine, MachineDescription, RunState
from tagalong.memory.stores import HostStores
from tagalong.migrate import MigrationOptions
from tests.conformance.conftest import KINDS
from tests.support.frame_peer import FramePeer
from tests.support.linux_guest import linux_guest_with
from tests.support.move import move
from tests.support.running_guest import Listener

MIB = 1 << 20
TIMEOUT_S = 900.0
STEP_S = TIMEOUT_S / 4
LOAD = r"""
mke2fs /dev/vda >/dev/null && mount /dev/vda /mnt || { echo "load: FAIL mount"; exit 1; }
ip link set eth0 up
seq 1 40000 >/mnt/first
round=0
while [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do
	cp /mnt/first /mnt/copy && sync && echo 3 >/proc/sys/vm/drop_caches
	cmp /mnt/first /mnt/copy || echo "load: FAIL in round $round"
	round=$((round + 1))
	frames=$(cat /sys/class/net/eth0/statistics/rx_packets)
	echo "load: progress round=$round frames=$frames"
done
umount /mnt && e2fsck -fn /dev/vda && echo "load: END"
"""
WORDS = 'console=ttyAMA0 quiet cryptomgr.notests -- sh -c "keeper & load; poweroff -f"'
KEEPER = "exec tagkeeper mib=1 rate=500\n"
RARP = b"\x80\x35"
OPTIONS = MigrationOptions(verify=True, max_downtime_s=10.0)


class Host:
    """What one side has: its console, and the backings of the VM's devices."""

    def __init__(self, name: str, folder: Path, opened: list[Machine]) -> None:
        self.console = Listener()
        self._kind = KINDS[name]
        self._opened = opened
        self.backings = VirtioBackings(
            {"disk0": DiskBacking(folder / "disk.img")},
            {"net0": NetworkBacking("unix", str(folder / "net"))},
        )
        self._work = InlineWork if name == "soft" else ThreadedWork

    def describe(self) -> MachineDescription:
        devices = (LINUX_CONSOLE, *self.backings.describe())
        return self._kind.describe(ram_bytes=96 * MIB, vcpu_count=1, devices=devices, gic=LINUX_GIC)

    def make(self, description: MachineDescription) -> Machine:
        models = VirtioDevices(self.backings, self._work).models()
        machine = self._kind.from_description(description, console=self.console.hear, models=models)
        self._opened.append(machine)
        return machine


@pytest.mark.timeout(TIMEOUT_S)
def test_linux_guest_under_disk_and_network_load_moves_only_with_the_stores_of_its_devices(
    machine_name: str, opened: list[Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "disk.img").open("wb") as file:
        file.truncate(8 * MIB)
    here, lossy, there = (Host(machine_name, tmp_path, opened) for _ in range(3))
    with FramePeer(tmp_path / "net") as peer:
        source = here.make(here.describe())
        source.activate()
        kernel, initrd = linux_guest_with(tmp_path, {"load": LOAD, "keeper": KEEPER})
        boot_linux(source, LinuxBoot(kernel, initrd, WORDS))

        source.resume()
        here.console.wait_for("load: progress", 2, STEP_S)
        with monkeypatch.context() as patch:
            _forget_stores(patch)
            with pytest.raises(DigestMismatchError):
                move(source, lossy.make, OPTIONS)
        state = source.run_state
        moved = move(source, there.make, OPTIONS)
        moved.resume()
        there.console.wait_for("load: progress", 3, STEP_S)
        there.console.wait_for("tagkeeper: progress", 2, STEP_S)
    # The network is gone: for this guest that is the sign to end.
    end = moved.wait(STEP_S)

    assert state is RunState.RUNNING
    assert here.console.lines_with("FAIL") + there.console.lines_with("FAIL") == []
    assert _frames(there.console) > _frames(here.console) > 0
    assert any(frame[12:14] == RARP for frame in peer.received)  # it announced itself
    assert end is RunState.SHUTDOWN
    assert there.console.lines_with("load: END"), there.console.lines[-5:]  # e2fsck found no error


def _forget_stores(patch: pytest.MonkeyPatch) -> None:
    """Let nothing mark what devices store."""
    for name in ("mark", "mark_pages"):
        patch.setattr(HostStores, name, lambda *_: None)


def _frames(console: Listener) -> int:
    return int(console.lines_with("load: progress")[-1].rsplit("frames=", 1)[1])
