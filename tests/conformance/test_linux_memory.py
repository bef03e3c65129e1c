"""Tagged memory of a Linux guest's programs, moved while they use it: heaps, swap, every mode."""

from pathlib import Path

import pytest

from tagalong.machine import Machine, RunState
from tagalong.migrate import MigrationOptions
from tests.support.linux_guest import linux_guest_with
from tests.support.linux_host import MIB, LinuxHost
from tests.support.move import move

TIMEOUT_S = 900.0
STEP_S = TIMEOUT_S / 4
# So little that the programs do not fit: what is not in use is on the disk, and its tags are in the
# kernel's own memory.
RAM_BYTES = 72 * MIB
KEEPERS = """
mkswap /dev/vda >/dev/null && swapon /dev/vda || echo "keepers: FAIL swap"
GLIBC_TUNABLES=glibc.mem.tagging=3 heapkeeper forks=1 threads=2 blocks=128 &
GLIBC_TUNABLES=glibc.mem.tagging=1 heapkeeper blocks=64 &
tagkeeper mode=async mib=1 signals=1 &
tagkeeper mode=asymm mib=1 forks=1 &
exec tagkeeper mode=sync mib=20 pageout=1
"""
WORDS = "console=ttyAMA0 quiet cryptomgr.notests -- keepers"
OPTIONS = MigrationOptions(verify=True, max_downtime_s=10.0)


@pytest.mark.timeout(TIMEOUT_S)
def test_tags_of_heaps_and_of_swapped_pages_are_right_before_and_after_a_migration(
    machine_name: str, opened: list[Machine], tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(128 * MIB)
    here, there = (LinuxHost(machine_name, opened, disk=disk) for _ in range(2))
    kernel, initrd = linux_guest_with(tmp_path, {"keepers": KEEPERS})
    source = here.boot(kernel, initrd, WORDS, ram_bytes=RAM_BYTES)

    source.resume()
    _wait_for_all(here)
    moved = move(source, there.make, OPTIONS)
    moved.resume()
    _wait_for_all(there)
    moved.pause()

    assert moved.run_state is RunState.PAUSED
    assert here.console.lines_with("FAIL") + there.console.lines_with("FAIL") == []
    # Pages have come back from the disk, and then again on the other side.
    assert _page_ins(there) > _page_ins(here) > 0


def _wait_for_all(host: LinuxHost) -> None:
    """Wait until each kind of program has gone on."""
    for mode in ("sync", "async", "asymm"):
        host.console.wait_for(f" mode={mode}", 2, STEP_S)
    host.console.wait_for("heapkeeper: progress", 4, STEP_S)


def _page_ins(host: LinuxHost) -> int:
    last = host.console.lines_with(" mode=sync")[-1]
    return int(last.partition("major_faults=")[2].split()[0])
