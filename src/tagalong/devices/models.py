"""The device models that come with the package, and how a machine gets its devices."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from tagalong.devices.device import BackedDevice, Device, DeviceModels
from tagalong.devices.pl011 import Pl011
from tagalong.devices.pl031 import Pl031
from tagalong.devices.pl061 import Pl061
from tagalong.devices.time_source import TimeSource
from tagalong.errors import UsageError
from tagalong.machine import DeviceDescription


def built_in_models(console: Callable[[bytes], None] | None, time: TimeSource) -> DeviceModels:
    """Return the models of this package.

    `console` gets what a guest writes to its UARTs; its real-time clocks count `time`.
    """
    return {
        Pl011.KIND: lambda description: Pl011(console, description),
        Pl031.KIND: lambda description: Pl031(description, time),
        Pl061.KIND: Pl061,
    }


def create_devices(descriptions: Sequence[DeviceDescription], models: DeviceModels) -> list[Device]:
    """Return a new device for each description.

    Raises UsageError that names a device whose kind is not in `models`, or that its model
    cannot be; the devices made before it are closed then.
    """
    with ExitStack() as undo:
        devices = []
        for each in descriptions:
            if each.kind not in models:
                known = ", ".join(sorted(models)) or "none"
                raise UsageError(
                    f"device {each.name!r} is of kind {each.kind!r}: this machine knows {known}"
                )
            device = models[each.kind](each)
            devices.append(device)
            if isinstance(device, BackedDevice):
                undo.callback(device.close)
        undo.pop_all()
    return devices
