"""What an embedded machine can be, and its RAM."""

from typing import Final

from tagalong.devices import DeviceBus
from tagalong.errors import UsageError
from tagalong.machine import MachineDescription
from tagalong.memory import GuestMemory
from tagalong.mte.version import MteVersion
from tagalong.soft.native import NativeMachine

PAGE_BYTES: Final = 4096
"""A page of a new machine, and of the interpreter's dirty log."""


def refuse_foreign(description: MachineDescription) -> None:
    """Raise UsageError for what an embedded machine cannot be."""
    if description.mte_version != MteVersion.MTE3:
        raise UsageError(
            f"MTE version {description.mte_version}: the embedded machine has {MteVersion.MTE3}"
        )
    if not description.regions:
        raise UsageError("a machine needs at least one RAM region")


def map_all(native: NativeMachine, memory: GuestMemory, bus: DeviceBus) -> None:
    """Give the interpreter its guest physical addresses: RAM, and what leaves for a device.

    Raises UsageError for RAM or windows that it cannot map.
    """
    for region in memory.regions:
        native.add_ram(region)
    for window in bus.page_ranges(PAGE_BYTES):
        native.add_mmio(window.gpa, window.size_bytes)
