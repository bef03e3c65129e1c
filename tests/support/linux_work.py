"""A Linux guest with a disk, a network and a virtio console, all of them under load.

The guest writes files to a file system on its disk without end, and keeps the sum of each in its
memory; it pings a host and receives frames, changes tags (tagkeeper) and watches its clock
(clockwatch). What the tests order comes by the virtio console:

    check   stop writing, read all files back from the disk, say how many are wrong, unmount the
            file system and examine it
    reset   reboot
"""

import io
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tagalong.boot.linux import (
    LINUX_CONSOLE,
    LINUX_GIC,
    LINUX_GPIO,
    LINUX_RTC,
    POWER_BUTTON_LINE,
)
from tagalong.devices import (
    ConsoleBacking,
    DeviceModels,
    DiskBacking,
    InlineWork,
    NetworkBacking,
    Pl011,
    Pl061,
    ThreadedWork,
    VirtioBackings,
    VirtioDevices,
)
from tagalong.lab.cpio import CpioWriter
from tagalong.machine import DeviceDescription, Machine, MachineDescription
from tagalong.machine.cpu_match import STRICT
from tests.support.answering_network import ADDRESS
from tests.support.running_guest import Listener

SCRIPT: Final = "bin/work"
COMMAND_LINE: Final = "console=ttyAMA0 quiet cryptomgr.notests -- work"
DISK_BYTES: Final = 8 << 20
BLOCKS: Final = 32
_TIMEOUT_S: Final = 300.0

WORK: Final = f"""#!/bin/busybox sh
ip address add 10.9.0.2/24 dev eth0
ping {ADDRESS} >/dev/null 2>&1 &
tagkeeper mib=1 rate=200 signals=1 &
clockwatch &
has_link() {{ [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; }}
watch_link() {{
	until has_link; do sleep 0.1; done
	while has_link; do sleep 1; done
	echo "work: the link is down" >/dev/hvc0
}}
watch_link &
mke2fs /dev/vda >/dev/null && mount /dev/vda /mnt || echo "work: FAIL: no file system"
write_blocks() {{
	number=0
	while [ ! -e /tmp/halt ]; do
		seq $number 1000000 | head -c 65536 >/tmp/block
		place=$((number % {BLOCKS}))
		dd if=/tmp/block of=/mnt/block.$place bs=65536 conv=fsync 2>/dev/null ||
			echo "work: FAIL: cannot write block $number"
		md5sum </tmp/block >/tmp/sum.$place
		number=$((number + 1))
		frames=$(cat /sys/class/net/eth0/statistics/rx_packets)
		echo "work: block $number frames=$frames" >/dev/hvc0
	done
	touch /tmp/halted
}}
check() {{
	touch /tmp/halt
	while [ ! -e /tmp/halted ]; do sleep 0.1; done
	echo 3 >/proc/sys/vm/drop_caches
	blocks=0 wrong=0
	for sum in /tmp/sum.*; do
		md5sum </mnt/block.${{sum##*.}} >/tmp/found
		cmp -s /tmp/found $sum || wrong=$((wrong + 1))
		blocks=$((blocks + 1))
	done
	umount /mnt && e2fsck -fn /dev/vda >/dev/null && echo "work: clean" >/dev/hvc0
	echo "work: $blocks blocks read, $wrong wrong" >/dev/hvc0
}}
stty -F /dev/hvc0 -echo
write_blocks &
while read -r order; do
	case $order in
	check) check ;;
	reset) reboot -f ;;
	esac
done </dev/hvc0
"""


def write_initrd(base: Path, target: Path, script: str = WORK) -> Path:
    """Write the initial RAM disk `base` with `work` in it; the kernel unpacks both archives."""
    archive = io.BytesIO()
    writer = CpioWriter(archive)
    writer.add_file(SCRIPT, script.encode(), permissions=0o755)
    writer.close()
    target.write_bytes(base.read_bytes() + archive.getvalue())
    return target


@dataclass
class LinuxSite:
    """A host of the guest: where its consoles are heard, its power button, and what it gets.

    `image` and `network` are the same for all hosts of a guest.
    """

    kind: Any
    image: Path
    network: Path
    uart: Listener = field(default_factory=Listener)
    hvc: Listener = field(default_factory=Listener)

    def __post_init__(self) -> None:
        self._console: Any = None
        self._gpio: Pl061 | None = None
        self.backings = VirtioBackings(
            disks={"disk0": DiskBacking(self.image)},
            networks={"net0": NetworkBacking("unix", str(self.network))},
            consoles={"console0": ConsoleBacking(self.hvc.hear, self._connect)},
        )

    def describe(self, ram_bytes: int, vcpu_count: int) -> MachineDescription:
        described: MachineDescription = self.kind.describe(
            ram_bytes=ram_bytes,
            vcpu_count=vcpu_count,
            devices=(LINUX_CONSOLE, LINUX_RTC, LINUX_GPIO, *self.backings.describe()),
            gic=LINUX_GIC,
        )
        return described

    def build(self, description: MachineDescription) -> Machine:
        made: Machine = self.kind.from_description(
            description, models=self._models(), policy=STRICT
        )
        return made

    def order(self, word: str) -> None:
        """Type an order at the virtio console."""
        rest, end = f"{word}\n".encode(), time.monotonic() + _TIMEOUT_S
        while rest:
            rest = rest[self._console.receive(rest) :]
            assert time.monotonic() < end, f"the guest takes no input: {self.hvc.lines[-3:]}"
            time.sleep(0.01)

    def press_power_button(self) -> None:
        assert self._gpio is not None
        self._gpio.press(POWER_BUTTON_LINE)

    def _connect(self, console: Any) -> None:
        self._console = console

    def _models(self) -> DeviceModels:
        work = InlineWork if self.kind.__name__ == "SoftMachine" else ThreadedWork

        def gpio(description: DeviceDescription) -> Pl061:
            self._gpio = Pl061(description)
            return self._gpio

        return {
            **VirtioDevices(self.backings, work).models(),
            Pl011.KIND: lambda description: Pl011(self.uart.hear, description),
            Pl061.KIND: gpio,
        }


def write_image(path: Path) -> Path:
    """Write an empty image for the disk."""
    path.touch()
    os.truncate(path, DISK_BYTES)
    return path
