"""The saved form of a device on the MMIO transport; docs/formats/virtio.md is normative."""

from dataclasses import dataclass
from typing import Final

from tagalong.binary.layout import Layout
from tagalong.devices.virtio.queue import QUEUE_LAYOUT, QueueRegisters

_VERSION: Final = 1
TRANSPORT_LAYOUT: Final = Layout(
    ("version", "u32"),
    ("device_id", "u32"),
    ("driver_features", "u64"),
    ("status", "u32"),
    ("interrupts", "u32"),
    ("generation", "u32"),
    ("device_features_sel", "u32"),
    ("driver_features_sel", "u32"),
    ("queue_sel", "u32"),
    ("queue_count", "u32"),
)
_FIELDS: Final = [
    name for name in TRANSPORT_LAYOUT.offsets if name not in ("version", "queue_count")
]
_MAX_QUEUES: Final = 64
_MAX_STATUS: Final = 0xFF
_MAX_INTERRUPTS: Final = 3


@dataclass(frozen=True)
class SavedTransport:
    """`own`: what the kind of device adds, in its own form."""

    device_id: int
    driver_features: int
    status: int
    interrupts: int
    generation: int
    device_features_sel: int
    driver_features_sel: int
    queue_sel: int
    queues: tuple[QueueRegisters, ...]
    own: bytes

    def to_bytes(self) -> bytes:
        """Return the saved form."""
        own = {name: getattr(self, name) for name in _FIELDS}
        head = TRANSPORT_LAYOUT.pack(version=_VERSION, queue_count=len(self.queues), **own)
        return head + b"".join(queue.to_bytes() for queue in self.queues) + self.own

    @classmethod
    def from_bytes(cls, state: bytes) -> "SavedTransport":
        """Return what `to_bytes` returned. Raises ValueError for what it did not return."""
        start = TRANSPORT_LAYOUT.size
        if len(state) < start:
            raise ValueError(f"{len(state)} bytes, expected at least {start}")
        found = TRANSPORT_LAYOUT.unpack(state)
        version, queue_count = found.pop("version"), found.pop("queue_count")
        if version != _VERSION:
            raise ValueError(f"version {version}, expected {_VERSION}")
        end = start + queue_count * QUEUE_LAYOUT.size
        if queue_count > _MAX_QUEUES or len(state) < end:
            raise ValueError(f"{len(state)} bytes are too few for {queue_count} queues")
        queues = tuple(
            QueueRegisters.from_bytes(state[at : at + QUEUE_LAYOUT.size])
            for at in range(start, end, QUEUE_LAYOUT.size)
        )
        saved = cls(**found, queues=queues, own=state[end:])
        if saved.status > _MAX_STATUS or saved.interrupts > _MAX_INTERRUPTS:
            raise ValueError(f"status {saved.status:#x}, interrupts {saved.interrupts:#x}")
        return saved

    def require_device(self, device_id: int, queue_count: int) -> None:
        """Raise ValueError if it is the state of another kind of device."""
        if (self.device_id, len(self.queues)) != (device_id, queue_count):
            raise ValueError(
                f"it is of device {self.device_id} with {len(self.queues)} queues, expected "
                f"device {device_id} with {queue_count}"
            )
