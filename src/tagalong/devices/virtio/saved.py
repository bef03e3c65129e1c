"""The saved form of a device on the MMIO transport; docs/formats/devices.md is normative."""

import struct
from dataclasses import dataclass
from typing import Final

from tagalong.devices.virtio.queue import QueueRegisters

_VERSION: Final = 1
_HEAD: Final = struct.Struct("<IIQIIIIIII")
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
        head = _HEAD.pack(
            _VERSION,
            self.device_id,
            self.driver_features,
            self.status,
            self.interrupts,
            self.generation,
            self.device_features_sel,
            self.driver_features_sel,
            self.queue_sel,
            len(self.queues),
        )
        return head + b"".join(queue.to_bytes() for queue in self.queues) + self.own

    @classmethod
    def from_bytes(cls, state: bytes) -> "SavedTransport":
        """Return what `to_bytes` returned. Raises ValueError for what it did not return."""
        if len(state) < _HEAD.size:
            raise ValueError(f"{len(state)} bytes, expected at least {_HEAD.size}")
        version, device_id, features, *values, queue_count = _HEAD.unpack_from(state)
        if version != _VERSION:
            raise ValueError(f"version {version}, expected {_VERSION}")
        end = _HEAD.size + queue_count * QueueRegisters.BYTES
        if queue_count > _MAX_QUEUES or len(state) < end:
            raise ValueError(f"{len(state)} bytes are too few for {queue_count} queues")
        queues = tuple(
            QueueRegisters.from_bytes(state[at : at + QueueRegisters.BYTES])
            for at in range(_HEAD.size, end, QueueRegisters.BYTES)
        )
        status, interrupts, generation, device_sel, driver_sel, queue_sel = values
        saved = cls(
            device_id,
            features,
            status,
            interrupts,
            generation,
            device_sel,
            driver_sel,
            queue_sel,
            queues,
            state[end:],
        )
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
