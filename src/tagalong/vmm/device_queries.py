"""What the control socket says of a VM's vCPUs and devices, and of what backs them here."""

import os
from collections.abc import Callable, Sequence

from tagalong.devices import BlockFunction, VirtioBackings, disk_size_bytes
from tagalong.machine import DeviceDescription
from tagalong.qapi.cpus import CpuInfo
from tagalong.qapi.devices import BlockInfo, CharDevice
from tagalong.vmm.vm import Vm

_BLOCK_BYTES = 512  # the unit of st_blocks


class DeviceQueries:
    """Answers queries about the vCPUs and devices of `vm`; `backings` back the latter.

    `char_devices` tells where the consoles of this process are.
    """

    def __init__(
        self,
        vm: Vm,
        backings: VirtioBackings,
        char_devices: Callable[[], Sequence[CharDevice]] = tuple,
    ) -> None:
        self._vm = vm
        self._backings = backings
        self._char_devices = char_devices

    def cpus(self) -> list[dict[str, object]]:
        """Return what query-cpus-fast answers: nothing before the VM is here."""
        machine = self._vm.machine
        threads = machine.vcpu_threads() if machine is not None else ()
        return [CpuInfo(index, thread).to_qmp() for index, thread in enumerate(threads)]

    def chardev(self) -> list[dict[str, object]]:
        """Return what query-chardev answers: the consoles, also before the VM is here."""
        return [each.to_qmp() for each in self._char_devices()]

    def block(self) -> list[dict[str, object]]:
        """Return what query-block answers: nothing before the VM is here."""
        machine = self._vm.machine
        devices = machine.description.devices if machine is not None else ()
        return [self._disk(each).to_qmp() for each in devices if each.kind == BlockFunction.KIND]

    def _disk(self, description: DeviceDescription) -> BlockInfo:
        backing = self._backings.disks[description.name]
        try:
            actual_bytes = os.stat(backing.path).st_blocks * _BLOCK_BYTES
        except OSError:
            actual_bytes = 0  # it was removed or renamed; the disk has it open
        return BlockInfo(
            device=description.name,
            path=str(backing.path),
            read_only=backing.read_only,
            size_bytes=disk_size_bytes(description),
            actual_bytes=actual_bytes,
            is_active=self._vm.departure is None,
        )
