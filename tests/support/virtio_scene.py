"""A virtio device on a bus over RAM, with a driver: for tests without a machine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tagalong.devices import DeviceBus, create_devices
from tagalong.devices.virtio.abi import DeviceId
from tagalong.devices.virtio.backing import DiskBacking, VirtioBackings, VirtioDevices
from tagalong.devices.virtio.block import DiskError
from tagalong.devices.virtio.chain import Chain, RequestBatch
from tagalong.devices.virtio.described import VirtioConfig, described_at
from tagalong.devices.virtio.function import Port, WithoutHostSide
from tagalong.devices.virtio.transport import VirtioMmio
from tagalong.devices.virtio.work import InlineWork, WorkMaker
from tagalong.machine import DeviceDescription
from tests.support.virtio_driver import VirtioDriver, new_memory


def no_failure(error: Exception) -> None:
    """Take a bug of a device's thread as the test's failure."""
    raise AssertionError("a device failed") from error


class EchoFunction(WithoutHostSide):
    """Queue 0 returns what is readable in what is writable; queue 1 is the device's to fill.

    `before`: called for each request, without the lock, before it is served.
    """

    device_id = DeviceId.ENTROPY
    served_queues = (0,)
    threads = 2
    most_at_once = 4
    config = bytes(range(16))

    def __init__(self, before: Callable[[Chain], None] = lambda _: None) -> None:
        self.before = before
        self.port: Port | None = None
        self.written: list[tuple[int, bytes]] = []
        self.supplies = 0
        self.served = 0

    def attach(self, port: Port) -> None:
        self.port = port

    def write_config(self, offset: int, data: bytes) -> None:
        self.written.append((offset, data))

    def serve(self, queue: int, batch: RequestBatch) -> None:
        del queue
        for number, chain in enumerate(batch):
            self.before(chain)
            self.served += 1
            data = chain.readable.read(0, min(chain.readable.size_bytes, chain.writable.size_bytes))
            chain.writable.write(data)
            batch.written[number] = len(data)

    def supplied(self, queue: int) -> None:
        del queue
        self.supplies += 1

    def reset(self) -> None:
        self.written.clear()

    def save(self) -> bytes:
        return b"echo"

    def objection(self, state: bytes) -> str:
        return "" if state == b"echo" else f"no echo is {state.hex()}"

    def load(self, state: bytes) -> None:
        assert state == b"echo"


ECHO = described_at(0, "echo0", "echo", VirtioConfig(2, 16, 1 << 50, b""))


@dataclass
class VirtioScene:
    """`levels`: what the line was set to. The device works already."""

    device: VirtioMmio
    levels: list[bool] = field(default_factory=list)
    start: int = 0

    def __post_init__(self) -> None:
        self.memory = new_memory()
        self.bus = DeviceBus(
            [self.device], self.memory, lambda _intid, level: self.levels.append(level)
        )
        self.driver = VirtioDriver(self.bus, self.memory, self.device.description, self.start)
        self.bus.resume(no_failure)

    def close(self) -> None:
        self.bus.close()


def echo_scene(
    before: Callable[[Chain], None] = lambda _: None, work: WorkMaker = InlineWork
) -> tuple[VirtioScene, EchoFunction]:
    """Return a device with the simplest function."""
    function = EchoFunction(before)
    config = VirtioConfig(2, 16, 1 << 50 | (1 << 28 | 1 << 29 | 1 << 32), b"")
    return VirtioScene(VirtioMmio(ECHO, config, function, work)), function


def disk_scene(
    path: Path, *, read_only: bool = False, serial: str = "", work: WorkMaker = InlineWork
) -> tuple[VirtioScene, list[DiskError]]:
    """Return a disk with an image, and the list of its errors."""
    backings = VirtioBackings(disks={"disk0": DiskBacking(path, read_only, serial)})
    return devices_scene(backings, work)


def devices_scene(
    backings: VirtioBackings, work: WorkMaker = InlineWork, seed: int | None = None
) -> tuple[VirtioScene, list[DiskError]]:
    """Return the only device that `backings` describes."""
    errors: list[DiskError] = []
    (device,) = make_devices(backings, backings.describe(), work, errors, seed)
    return VirtioScene(device), errors


def make_devices(
    backings: VirtioBackings,
    descriptions: tuple[DeviceDescription, ...],
    work: WorkMaker = InlineWork,
    errors: list[DiskError] | None = None,
    seed: int | None = None,
) -> list[VirtioMmio]:
    """Return devices as a machine makes them."""
    found = [] if errors is None else errors
    models = VirtioDevices(backings, work, seed=seed, report=found.append).models()
    devices = create_devices(descriptions, models)
    return [device for device in devices if isinstance(device, VirtioMmio)]
