"""Device models that both machines share; they know neither.

device  what every device model is
bus     the devices of a machine by their addresses
irq     interrupt lines as values
models  the models that come with the package, and how a machine gets its devices
pl011   the UART that is a guest's console
virtio/ disks, network cards, consoles and random numbers

Private: machines offer their devices by name.
"""

from tagalong.devices.bus import DeviceBus
from tagalong.devices.device import (
    ANY_WIDTH,
    BackedDevice,
    Device,
    DeviceModel,
    DeviceModels,
    Doorbell,
    Window,
)
from tagalong.devices.irq import IrqLine, SharedInput, Sink
from tagalong.devices.models import built_in_models, create_devices
from tagalong.devices.pl011 import Pl011

__all__ = [
    "ANY_WIDTH",
    "BackedDevice",
    "Device",
    "DeviceBus",
    "DeviceModel",
    "DeviceModels",
    "Doorbell",
    "IrqLine",
    "Pl011",
    "SharedInput",
    "Sink",
    "Window",
    "built_in_models",
    "create_devices",
]
