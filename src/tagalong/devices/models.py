"""The device models that come with the package, and how a machine gets its devices."""

from collections.abc import Callable, Sequence

from tagalong.devices.device import Device, DeviceModels
from tagalong.devices.pl011 import Pl011
from tagalong.errors import UsageError
from tagalong.machine import DeviceDescription


def built_in_models(console: Callable[[bytes], None] | None) -> DeviceModels:
    """Return the models of this package; `console` gets what a guest writes to its UARTs."""
    return {Pl011.KIND: lambda description: Pl011(console, description)}


def create_devices(descriptions: Sequence[DeviceDescription], models: DeviceModels) -> list[Device]:
    """Return a new device for each description.

    Raises UsageError that names a device whose kind is not in `models`, or that its model
    cannot be.
    """
    devices = []
    for each in descriptions:
        if each.kind not in models:
            known = ", ".join(sorted(models)) or "none"
            raise UsageError(
                f"device {each.name!r} is of kind {each.kind!r}: this machine knows {known}"
            )
        devices.append(models[each.kind](each))
    return devices
