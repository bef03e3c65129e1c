"""Tests what a machine's description says of its devices."""

import pytest

from tagalong.errors import UsageError
from tagalong.machine import (
    DEFAULT_CONSOLE,
    DeviceDescription,
    MachineDescription,
    RegionDescription,
)
from tagalong.memory import Gpa

_RAM = (RegionDescription(Gpa(0x4000_0000), 0x10000),)


def test_machine_description_without_devices_has_one_console() -> None:
    description = MachineDescription(4096, 1, 3, _RAM)

    assert description.devices == (DEFAULT_CONSOLE,)
    assert DEFAULT_CONSOLE.kind == "pl011"
    assert DEFAULT_CONSOLE.interrupt is None


def test_machine_description_with_one_name_twice_is_refused_by_name() -> None:
    first = DeviceDescription("disk0", "test", Gpa(0x0A00_0000), 0x200, 48)
    second = DeviceDescription("disk0", "test", Gpa(0x0A00_0200), 0x200, 49)

    with pytest.raises(UsageError) as caught:
        MachineDescription(4096, 1, 3, _RAM, (DEFAULT_CONSOLE, first, second))

    assert str(caught.value) == "devices of a machine have the same name: disk0"


def test_descriptions_take_plain_integers_for_addresses() -> None:
    """Strict typing checks this file too: no address has to be wrapped in Gpa by a caller."""
    region = RegionDescription(0x4000_0000, 0x10000)
    device = DeviceDescription("disk0", "test", 0x0A00_0000, 0x200)

    assert (region.gpa, device.gpa) == (Gpa(0x4000_0000), Gpa(0x0A00_0000))
