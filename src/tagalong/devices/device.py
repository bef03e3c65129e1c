"""What every device model is, whatever machine it is part of.

A device knows its registers and nothing of addresses; the bus (`tagalong.devices.bus`) knows
addresses; a line (`tagalong.devices.irq`) knows its level. So one model serves both machines.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from tagalong._native import PublishedRegister
from tagalong.binary.layout import Layout
from tagalong.devices.interrupt_status import InterruptStatus
from tagalong.devices.irq import IrqLine
from tagalong.errors import UsageError
from tagalong.machine import DeviceDescription
from tagalong.memory import GuestMemory

ANY_WIDTH: Final = frozenset({1, 2, 4, 8})
"""The sizes in bytes of all accesses that a CPU makes to a device."""


@dataclass(frozen=True)
class Window:
    """A range of registers: first gpa and size in bytes, both multiples of 4."""

    gpa: int
    size_bytes: int

    @property
    def end(self) -> int:
        """Return the first gpa after the window."""
        return self.gpa + self.size_bytes

    def __str__(self) -> str:
        return f"[{self.gpa:#x}, {self.end:#x})"


def require_plain_window(description: DeviceDescription, model: str, size_bytes: int) -> None:
    """Raise UsageError unless `description` has one window of that size and no configuration."""
    if (description.size_bytes, description.config) != (size_bytes, b""):
        raise UsageError(
            f"device {description.name!r} has a window of {description.size_bytes:#x} bytes "
            f"and {len(description.config)} bytes of configuration: a {model} has {size_bytes:#x} "
            "bytes and no configuration here"
        )


def state_objection(name: str, state: bytes, layout: Layout, version: int) -> str:
    """Return why `state` is not one of this layout and `version`, its first field; "" if it is.

    `name`: the device's.
    """
    if len(state) != layout.size:
        return f"{name} state has {len(state)} bytes, expected {layout.size}"
    found = layout.unpack(state)["version"]
    if found != version:
        return f"{name} state has version {found}, expected {version}"
    return ""


@dataclass(frozen=True)
class Doorbell:
    """A store that is a mere signal: `value`, of `size_bytes`, to `gpa` writes to an eventfd.

    A machine that knows how may carry out such stores without asking the bus.
    """

    gpa: int
    size_bytes: int
    value: int
    eventfd: int


class Device(Protocol):
    """One device of a machine. The bus calls it from one thread at a time.

    Reads and writes come while a vCPU waits for the answer, so whatever a device stores to guest
    RAM within them is complete before the machine counts as paused.
    """

    @property
    def description(self) -> DeviceDescription:
        """Return what the guest sees of it."""
        ...

    @property
    def windows(self) -> Sequence[Window]:
        """Return its ranges of registers; the first is the description's."""
        ...

    @property
    def widths(self) -> frozenset[int]:
        """Return the sizes in bytes of the accesses that it takes; others abort the guest."""
        ...

    def attach(self, memory: GuestMemory, line: IrqLine | None) -> None:
        """Take the guest RAM and the interrupt line of the machine, once, before it runs.

        `line`: None if the description has no interrupt.
        """
        ...

    def read(self, window: int, offset: int, size_bytes: int) -> int:
        """Return what is `offset` bytes into window number `window`, zero-extended."""
        ...

    def write(self, window: int, offset: int, size_bytes: int, value: int) -> None:
        """Store `value`, of `size_bytes`, `offset` bytes into window number `window`."""
        ...

    def reset(self) -> None:
        """Become what the device is at power-on, its line included."""
        ...

    def save(self) -> bytes:
        """Return the state in the device's own form, which begins with a version."""
        ...

    def objection(self, state: bytes) -> str:
        """Return why load() would reject `state`, by the device's name; "" if it would not.

        Changes nothing.
        """
        ...

    def load(self, state: bytes) -> None:
        """Take over what save() returned, and set the line's level by it.

        Raises StateError; nothing has changed then.
        """
        ...


@runtime_checkable
class BackedDevice(Device, Protocol):
    """A device with something of the host behind it: a file, a socket, threads.

    It is made paused and inactive. None of these methods is called within an access.
    """

    @property
    def doorbells(self) -> Sequence[Doorbell]:
        """Return the stores that an eventfd can stand for; they stay the same."""
        ...

    def pause(self) -> None:
        """Finish what is under way, and begin nothing until `resume`.

        On return the device stores nothing to guest RAM, its state is still, and so is its line.
        The machine's vCPUs are stopped already.
        """
        ...

    def resume(self, fail: Callable[[Exception], None]) -> None:
        """Work, also on what the guest asked for before; `fail` gets a bug met in a thread."""
        ...

    @property
    def is_active(self) -> bool:
        """Return whether it holds what only one process may hold."""
        ...

    def activate(self) -> None:
        """Take what only one process may hold, such as the lock of a disk's image.

        Raises HostError that names the device; nothing is taken then.
        """
        ...

    def flush(self) -> None:
        """Bring all that the guest stored to the disk. Raises HostError that names the device."""
        ...

    def inactivate(self) -> None:
        """Give up what `activate` took. The device is paused, and `flush` came before."""
        ...

    def close(self) -> None:
        """Release what it has of the host. Safe to call twice."""
        ...


@runtime_checkable
class StatusDevice(Device, Protocol):
    """A device on virtio's MMIO transport: its line follows an interrupt status."""

    @property
    def interrupt_status(self) -> InterruptStatus:
        """Return that, for a machine that answers for it, and drives the line, by itself."""
        ...


@runtime_checkable
class PublishingDevice(Device, Protocol):
    """A device with registers that a read does not change, and that are read often."""

    @property
    def published(self) -> Sequence[PublishedRegister]:
        """Return them, with their gpas; their values are always what a read would return.

        A machine that knows how may read them without asking the bus. They stay the same.
        """
        ...


DeviceModel = Callable[[DeviceDescription], Device]
"""Makes a device from what the guest is to see of it.

Raises UsageError for a description that the model cannot be. What backs the device on the host
is the maker's business, by the device's name.
"""

DeviceModels = Mapping[str, DeviceModel]
"""The models that a machine may be made of, by kind."""
