"""Device models that both machines share; they know neither.

device  what every device model is
bus     the devices of a machine by their addresses
irq     interrupt lines as values; interrupt_status: why a virtio device interrupts
models  the models that come with the package, and how a machine gets its devices
pl011   the UART that is a guest's console
pl031   the real-time clock; time_source: what it counts by
pl061   the GPIO controller that has the power button
virtio/ disks, network cards, consoles and random numbers

Private: machines offer their devices by name.
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.devices.bus import DeviceBus
    from tagalong.devices.device import (
        ANY_WIDTH,
        BackedDevice,
        Device,
        DeviceModel,
        DeviceModels,
        Doorbell,
        StatusDevice,
        Window,
    )
    from tagalong.devices.interrupt_status import InterruptStatus
    from tagalong.devices.irq import IrqLine, SharedInput, Sink
    from tagalong.devices.models import built_in_models, create_devices
    from tagalong.devices.pl011 import Pl011
    from tagalong.devices.pl031 import Pl031
    from tagalong.devices.pl061 import Pl061
    from tagalong.devices.time_source import HostTime
    from tagalong.devices.virtio.backing import (
        ConsoleBacking,
        DiskBacking,
        NetworkBacking,
        VirtioBackings,
        VirtioDevices,
    )
    from tagalong.devices.virtio.block import (
        BlockFunction,
        DiskError,
        ReportDiskError,
        disk_size_bytes,
    )
    from tagalong.devices.virtio.network import parse_mac
    from tagalong.devices.virtio.work import InlineWork, ThreadedWork
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.devices.bus": ("DeviceBus",),
            "tagalong.devices.device": (
                "ANY_WIDTH",
                "BackedDevice",
                "Device",
                "DeviceModel",
                "DeviceModels",
                "Doorbell",
                "StatusDevice",
                "Window",
            ),
            "tagalong.devices.interrupt_status": ("InterruptStatus",),
            "tagalong.devices.irq": ("IrqLine", "SharedInput", "Sink"),
            "tagalong.devices.models": ("built_in_models", "create_devices"),
            "tagalong.devices.pl011": ("Pl011",),
            "tagalong.devices.pl031": ("Pl031",),
            "tagalong.devices.pl061": ("Pl061",),
            "tagalong.devices.time_source": ("HostTime",),
            "tagalong.devices.virtio.backing": (
                "ConsoleBacking",
                "DiskBacking",
                "NetworkBacking",
                "VirtioBackings",
                "VirtioDevices",
            ),
            "tagalong.devices.virtio.block": (
                "BlockFunction",
                "DiskError",
                "ReportDiskError",
                "disk_size_bytes",
            ),
            "tagalong.devices.virtio.network": ("parse_mac",),
            "tagalong.devices.virtio.work": ("InlineWork", "ThreadedWork"),
        },
    )

__all__ = [
    "ANY_WIDTH",
    "BackedDevice",
    "BlockFunction",
    "ConsoleBacking",
    "Device",
    "DeviceBus",
    "DeviceModel",
    "DeviceModels",
    "DiskBacking",
    "DiskError",
    "Doorbell",
    "HostTime",
    "InlineWork",
    "InterruptStatus",
    "IrqLine",
    "NetworkBacking",
    "Pl011",
    "Pl031",
    "Pl061",
    "ReportDiskError",
    "SharedInput",
    "Sink",
    "StatusDevice",
    "ThreadedWork",
    "VirtioBackings",
    "VirtioDevices",
    "Window",
    "built_in_models",
    "create_devices",
    "disk_size_bytes",
    "parse_mac",
]
