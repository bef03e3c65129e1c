"""The part of a device's description that is its own: DeviceDescription.config of virtio devices.

What a guest sees of a device and its state does not say: how many queues of which size it has, the
features that it offers, and what its kind adds (docs/formats/virtio.md). A destination makes the
device of it; what it cannot offer, it refuses by name.
"""

from dataclasses import dataclass
from typing import Final

from tagalong.binary.layout import Layout
from tagalong.devices.virtio.abi import MAX_QUEUE_SIZE, WINDOW_BYTES, VirtioFeature
from tagalong.errors import UsageError
from tagalong.machine import DeviceDescription
from tagalong.memory import Gpa

BASE_FEATURES: Final = int(
    VirtioFeature.INDIRECT_DESC | VirtioFeature.EVENT_IDX | VirtioFeature.VERSION_1
)
"""What every device of ours offers."""

SLOTS: Final = 32
_FIRST_GPA: Final = 0x0A00_0000
_FIRST_INTID: Final = 48
_VERSION: Final = 1
HEAD_LAYOUT: Final = Layout(
    ("version", "u32"), ("queue_count", "u16"), ("queue_size", "u16"), ("features", "u64")
)


@dataclass(frozen=True)
class VirtioConfig:
    """`own`: what the kind of device adds, in its own form."""

    queue_count: int
    queue_size: int
    features: int
    own: bytes

    def to_bytes(self) -> bytes:
        """Return DeviceDescription.config."""
        head = HEAD_LAYOUT.pack(
            version=_VERSION,
            queue_count=self.queue_count,
            queue_size=self.queue_size,
            features=int(self.features) | BASE_FEATURES,
        )
        return head + self.own


def described_at(slot: int, name: str, kind: str, config: VirtioConfig) -> DeviceDescription:
    """Return the description of a device in one of the 32 slots of QEMU's virt machine.

    Raises UsageError if there is no such slot.
    """
    if not 0 <= slot < SLOTS:
        raise UsageError(f"device {name!r}: a machine has room for {SLOTS} virtio devices")
    gpa = Gpa(_FIRST_GPA + slot * WINDOW_BYTES)
    return DeviceDescription(name, kind, gpa, WINDOW_BYTES, _FIRST_INTID + slot, config.to_bytes())


def own_config(description: DeviceDescription) -> VirtioConfig:
    """Return a virtio device's own part of its description. Raises UsageError that names it."""
    device = _named(description)
    if description.size_bytes != WINDOW_BYTES or description.interrupt is None:
        raise UsageError(
            f"{device} has a window of {description.size_bytes:#x} bytes and interrupt "
            f"{description.interrupt}: it needs {WINDOW_BYTES:#x} bytes and an interrupt"
        )
    raw = description.config
    head = HEAD_LAYOUT.unpack(raw) if len(raw) >= HEAD_LAYOUT.size else {}
    if head.get("version") != _VERSION:
        raise UsageError(
            f"{device}: its configuration of {len(raw)} bytes that begins with "
            f"{raw[:4].hex() or 'nothing'} is not of version {_VERSION}"
        )
    size = head["queue_size"]
    if not 1 <= size <= MAX_QUEUE_SIZE or size & size - 1:
        raise UsageError(
            f"{device} has queues of {size}: their size is a power of two of at most "
            f"{MAX_QUEUE_SIZE}"
        )
    return VirtioConfig(head["queue_count"], size, head["features"], raw[HEAD_LAYOUT.size :])


def config_of(
    description: DeviceDescription, queue_count: int, known_features: int
) -> VirtioConfig:
    """Return the same for a kind with so many queues and these features. Raises UsageError."""
    found, device = own_config(description), _named(description)
    if found.queue_count != queue_count:
        raise UsageError(f"{device} has {found.queue_count} queues: it needs {queue_count}")
    if unknown := found.features & ~int(known_features | BASE_FEATURES):
        raise UsageError(f"{device} offers features {unknown:#x}, which are not known here")
    if missing := BASE_FEATURES & ~found.features:
        raise UsageError(f"{device} does not offer features {missing:#x}, which every device has")
    return found


def _named(description: DeviceDescription) -> str:
    return f"device {description.name!r} ({description.kind})"
