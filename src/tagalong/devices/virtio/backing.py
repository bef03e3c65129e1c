"""What this host has for the virtio devices of a machine, by their names, and devices made of it.

The guest sees the first half of a device, its description, which travels with the VM. This is the
other half: a file, a socket, a program. A destination is given it again, for the same names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from tagalong._lazy import module_when_used
from tagalong.devices.virtio.block import (
    BlockFunction,
    ReportDiskError,
    describe_disk,
    disk_config,
)
from tagalong.devices.virtio.console import ConsoleFunction, describe_console
from tagalong.devices.virtio.described import VirtioConfig, described_at, own_config
from tagalong.devices.virtio.entropy import EntropyFunction, describe_entropy
from tagalong.devices.virtio.image import Image
from tagalong.devices.virtio.link import FrameChannel, NetworkLink, connect_stream, open_tap
from tagalong.devices.virtio.network import (
    MAC_BYTES,
    NetworkFunction,
    describe_network,
    mac_of,
)
from tagalong.devices.virtio.transport import VirtioMmio
from tagalong.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tagalong.devices.device import DeviceModels
    from tagalong.devices.virtio import passt
    from tagalong.devices.virtio.function import VirtioFunction
    from tagalong.devices.virtio.work import WorkMaker
    from tagalong.machine import DeviceDescription
else:
    passt = module_when_used("tagalong.devices.virtio.passt")

_FIRST_MAC: Final = 0x5254_0012_3456


@dataclass(frozen=True)
class DiskBacking:
    """The image of a disk. `serial` is what the guest reads as its number: of new disks only."""

    path: Path
    read_only: bool = False
    serial: str = ""


@dataclass(frozen=True)
class NetworkBacking:
    """What a network card is connected to: `kind` "user", "unix" or "tap".

    `target`: the path of the socket, the name of the tap device. `mac`: of new cards only.
    """

    kind: str
    target: str = ""
    mac: bytes | None = None


@dataclass(frozen=True)
class ConsoleBacking:
    """`output` gets what the guest writes; `connect` gets the console, for its input."""

    output: Callable[[bytes], None]
    connect: Callable[[ConsoleFunction], None] = lambda _: None


@dataclass(frozen=True)
class VirtioBackings:
    """The backings of all devices of a machine by their names.

    `entropy`: the names of sources of random numbers, of new machines only: they need nothing.
    """

    disks: Mapping[str, DiskBacking] = field(default_factory=dict)
    networks: Mapping[str, NetworkBacking] = field(default_factory=dict)
    consoles: Mapping[str, ConsoleBacking] = field(default_factory=dict)
    entropy: Sequence[str] = ()

    def describe(self) -> tuple[DeviceDescription, ...]:
        """Return the descriptions of new devices, one slot after the other.

        Raises UsageError, and HostError for an image that cannot be opened.
        """
        found: list[tuple[str, str, VirtioConfig]] = [
            *((name, BlockFunction.KIND, _describe_disk(name, disk))
              for name, disk in self.disks.items()),
            *((name, NetworkFunction.KIND, describe_network(net.mac or _default_mac(number)))
              for number, (name, net) in enumerate(self.networks.items())),
            *((name, ConsoleFunction.KIND, describe_console()) for name in self.consoles),
            *((name, EntropyFunction.KIND, describe_entropy()) for name in self.entropy),
        ]  # fmt: skip
        return tuple(described_at(slot, *each) for slot, each in enumerate(found))

    def objections(self, descriptions: Sequence[DeviceDescription]) -> Iterator[str]:
        """Yield what is missing, or too much, for a machine with these devices."""
        for kind, given, option in self._required():
            described = {each.name for each in descriptions if each.kind == kind}
            for name in sorted(described - set(given)) if option.is_needed else ():
                yield f"the VM has {option.what} {name!r}: give it as {option.example(name)}"
            for name in sorted(set(given) - described):
                yield f"the VM has no {option.what} {name!r}: leave out its {option.name}"

    def _required(self) -> Iterator[tuple[str, Mapping[str, object], _Option]]:
        yield BlockFunction.KIND, self.disks, _DISK
        yield NetworkFunction.KIND, self.networks, _NETWORK
        yield ConsoleFunction.KIND, self.consoles, _CONSOLE


@dataclass(frozen=True)
class _Option:
    """How a person gives a backing: for messages. `is_needed`: the device cannot be without."""

    what: str
    name: str
    value: str
    is_needed: bool = True

    def example(self, device: str) -> str:
        return f"{self.name} {self.value},name={device}"


_DISK: Final = _Option("disk", "--disk", "FILE")
_NETWORK: Final = _Option("network card", "--net", "user|unix:PATH|tap:NAME")
_CONSOLE: Final = _Option("console", "--virtio-console", "WHERE", is_needed=False)


class VirtioDevices:
    """Makes the virtio devices of one machine.

    `work` says which thread processes requests. `seed`: of random numbers, None for the host's.
    `report` gets the errors of disks, in any thread.
    """

    def __init__(
        self,
        backings: VirtioBackings,
        work: WorkMaker,
        *,
        seed: int | None = None,
        report: ReportDiskError = lambda _: None,
    ) -> None:
        self._backings = backings
        self._work = work
        self._seed = seed
        self._report = report

    def models(self) -> DeviceModels:
        """Return a model for each kind.

        A model raises UsageError that names a device which this host has nothing for, HostError if
        it cannot be opened.
        """
        return {
            BlockFunction.KIND: self._disk,
            NetworkFunction.KIND: self._network,
            ConsoleFunction.KIND: self._console,
            EntropyFunction.KIND: self._entropy,
        }

    def _disk(self, description: DeviceDescription) -> VirtioMmio:
        disk_config(description)  # first: what is no disk needs no image
        backing = _backing_of(description, self._backings.disks, _DISK)
        image = Image(backing.path, description.name, read_only=backing.read_only)
        try:
            return self._device(description, BlockFunction(description, image, self._report))
        except BaseException:
            image.close()
            raise

    def _network(self, description: DeviceDescription) -> VirtioMmio:
        mac_of(description)
        backing = _backing_of(description, self._backings.networks, _NETWORK)
        link = NetworkLink(_open_channel(description.name, backing), description.name)
        try:
            return self._device(description, NetworkFunction(description, link))
        except BaseException:
            link.close()
            raise

    def _console(self, description: DeviceDescription) -> VirtioMmio:
        backing = self._backings.consoles.get(description.name)
        function = ConsoleFunction(description, backing.output if backing is not None else None)
        if backing is not None:
            backing.connect(function)
        return self._device(description, function)

    def _entropy(self, description: DeviceDescription) -> VirtioMmio:
        return self._device(description, EntropyFunction(description, self._seed))

    def _device(self, description: DeviceDescription, function: VirtioFunction) -> VirtioMmio:
        config = own_config(description)
        return VirtioMmio(description, config, function, self._work)


_Backing = TypeVar("_Backing")


def _backing_of(
    description: DeviceDescription, given: Mapping[str, _Backing], option: _Option
) -> _Backing:
    name = description.name
    if name not in given:
        raise UsageError(f"the VM has {option.what} {name!r}: give it as {option.example(name)}")
    return given[name]


def _describe_disk(name: str, disk: DiskBacking) -> VirtioConfig:
    image = Image(disk.path, name, read_only=disk.read_only)
    try:
        return describe_disk(image, disk.serial)
    finally:
        image.close()


def _open_channel(name: str, backing: NetworkBacking) -> FrameChannel:
    match backing.kind:
        case "user":
            return passt.start_passt(name)
        case "unix":
            return connect_stream(Path(backing.target), name)
        case "tap":
            return open_tap(backing.target, name)
    raise UsageError(f"network {name!r}: no kind of network is {backing.kind!r}")


def _default_mac(number: int) -> bytes:
    """Return the address of a card that was given none: QEMU's own for the same number."""
    return (_FIRST_MAC + number).to_bytes(MAC_BYTES, "big")
