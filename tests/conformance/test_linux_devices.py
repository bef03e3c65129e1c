"""A Linux guest that reads and writes a disk and receives frames while it is moved.

What a device stores to guest RAM no vCPU has stored, so no machine's own dirty log has it: the
marks of `HostStores` do. A migration compares digests of all memory, so one mark too few is seen.
"""

from pathlib import Path

import pytest

from tagalong.errors import DigestMismatchError
from tagalong.machine import Machine, RunState
from tagalong.memory.stores import HostStores
from tagalong.migrate import MigrationOptions
from tests.support.frame_peer import FramePeer
from tests.support.linux_guest import linux_guest_with
from tests.support.linux_host import MIB, LinuxHost
from tests.support.move import move
from tests.support.running_guest import Listener

TIMEOUT_S = 900.0
STEP_S = TIMEOUT_S / 4
RAM_BYTES = 96 * MIB
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


@pytest.mark.timeout(TIMEOUT_S)
def test_linux_guest_under_disk_and_network_load_moves_only_with_the_stores_of_its_devices(
    machine_name: str, opened: list[Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, network = tmp_path / "disk.img", tmp_path / "net"
    with disk.open("wb") as file:
        file.truncate(8 * MIB)
    here, lossy, there = (
        LinuxHost(machine_name, opened, disk=disk, network=network) for _ in range(3)
    )
    with FramePeer(network) as peer:
        kernel, initrd = linux_guest_with(tmp_path, {"load": LOAD, "keeper": KEEPER})
        source = here.boot(kernel, initrd, WORDS, ram_bytes=RAM_BYTES)

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
