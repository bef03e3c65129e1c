"""What one side has of a Linux guest: its console, its devices' backings, its machines."""

from pathlib import Path

from tagalong.boot.linux import LINUX_CONSOLE, LINUX_GIC, LinuxBoot, boot_linux
from tagalong.devices import (
    DiskBacking,
    InlineWork,
    ThreadedWork,
    VirtioBackings,
    VirtioDevices,
)
from tagalong.machine import Machine, MachineDescription
from tests.conformance.conftest import KINDS
from tests.support.running_guest import Listener

MIB = 1 << 20


class LinuxHost:
    """Makes machines of kind `name` with a disk."""

    def __init__(self, name: str, opened: list[Machine], *, disk: Path) -> None:
        self.console = Listener()
        self._kind = KINDS[name]
        self._opened = opened
        self._backings = VirtioBackings({"disk0": DiskBacking(disk)})
        # As the process of a VM has it: vmm/assembly.py.
        self._work = InlineWork if name == "soft" else ThreadedWork

    def boot(self, kernel: Path, initrd: Path, words: str, *, ram_bytes: int) -> Machine:
        """Return a new machine with the kernel loaded; it is paused."""
        description = self._kind.describe(
            ram_bytes=ram_bytes,
            vcpu_count=1,
            devices=(LINUX_CONSOLE, *self._backings.describe()),
            gic=LINUX_GIC,
        )
        machine = self.make(description)
        machine.activate()
        boot_linux(machine, LinuxBoot(kernel, initrd, words))
        return machine

    def make(self, description: MachineDescription) -> Machine:
        """Return the machine that a stream describes."""
        models = VirtioDevices(self._backings, self._work).models()
        machine = self._kind.from_description(description, console=self.console.hear, models=models)
        self._opened.append(machine)
        return machine
