"""Makes the frozen examples of virtio devices: `python -m tests.golden.build_devices`.

To be run once per version of the forms; the files of older versions stay for ever.
"""

from dataclasses import replace
from pathlib import Path

from tagalong.devices import DeviceBus
from tagalong.devices.virtio.backing import (
    ConsoleBacking,
    DiskBacking,
    NetworkBacking,
    VirtioBackings,
)
from tagalong.devices.virtio.queue import QueueRegisters
from tagalong.devices.virtio.saved import SavedTransport
from tagalong.devices.virtio.transport import VirtioMmio
from tests.support.virtio_driver import RAM, new_memory
from tests.support.virtio_scene import make_devices

FOLDER = Path(__file__).parent
DISK_BYTES = 1 << 20
MAC = bytes.fromhex("525400aabbcc")
SEED = 7

# What a driver left in each device: two requests under way, then none, then none negotiated.
_QUEUE = QueueRegisters(
    size=8,
    is_ready=True,
    desc_gpa=RAM + 0x1000,
    driver_gpa=RAM + 0x2000,
    device_gpa=RAM + 0x3000,
    next_avail=0xFFFE,
    next_used=0xFFFE,
    signalled_used=0xFFFD,
    has_signalled=True,
)


def backings(image: Path, socket: Path) -> VirtioBackings:
    """Return what backs one device of each kind."""
    return VirtioBackings(
        disks={"disk0": DiskBacking(image, serial="frozen")},
        networks={"net0": NetworkBacking("unix", str(socket), MAC)},
        consoles={"console0": ConsoleBacking(lambda _: None)},
        entropy=["rng0"],
    )


def golden_devices(image: Path, socket: Path) -> list[VirtioMmio]:
    """Return the devices, with the states that are frozen; the caller closes them."""
    given = backings(image, socket)
    devices = make_devices(given, given.describe(), seed=SEED)
    memory = new_memory()
    DeviceBus(devices, memory, lambda *_: None)
    for device in devices:
        fresh = SavedTransport.from_bytes(device.save())
        queues = (_QUEUE, *fresh.queues[1:])
        used = replace(
            fresh,
            driver_features=device._offered,
            status=0xF,
            interrupts=1,
            generation=2,
            queue_sel=1,
            queues=queues,
        )
        device.load(used.to_bytes())
    return devices


def golden_files(devices: list[VirtioMmio]) -> dict[str, bytes]:
    """Return the content of each file by its name."""
    found = {}
    for device in devices:
        kind = device.description.kind
        found[f"{kind}-v1.config"] = device.description.config
        found[f"{kind}-v1.state"] = device.save()
    return found
