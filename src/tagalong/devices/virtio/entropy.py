"""A source of random numbers (section 5.4): the host's, or on the embedded machine the seed's.

The host's are as good as those of its getrandom(2). A machine that has to run the same way twice
takes them from a stream that its seed determines (SHAKE-256 of the seed and a block's number): no
secret may depend on those. Where the stream is goes with the machine's state, so that a migration
does not change the run; a machine that uses the host's ignores it.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, ClassVar, Final

from tagalong._lazy import module_when_used
from tagalong.binary.layout import Layout
from tagalong.devices.virtio.abi import DeviceId
from tagalong.devices.virtio.described import VirtioConfig, config_of
from tagalong.devices.virtio.function import Port, WithoutHostSide
from tagalong.devices.virtio.ram import RingError
from tagalong.errors import UsageError

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Sequence

    from tagalong.devices.virtio.chain import Chain, RequestBatch
    from tagalong.machine import DeviceDescription
else:
    hashlib = module_when_used("hashlib")

_QUEUE_SIZE: Final = 8
_MAX_BYTES: Final = 4096
"""The most that one request gets: fewer than asked for are allowed (section 5.4.6.1)."""
RANDOM_LAYOUT: Final = Layout(("source", "u32"), ("seed", "u64"), ("block", "u64"))
_HOST, _SEEDED = 0, 1
_SEED_MASK: Final = (1 << 64) - 1


class EntropyFunction(WithoutHostSide):
    """Random numbers; implements VirtioFunction. `seed`: None for the host's."""

    KIND: ClassVar = "virtio-rng"

    device_id = DeviceId.ENTROPY
    served_queues: Sequence[int] = (0,)
    threads = 1
    most_at_once = _QUEUE_SIZE
    config = b""

    def __init__(self, description: DeviceDescription, seed: int | None) -> None:
        if config_of(description, 1, 0).own:
            raise UsageError(f"device {description.name!r}: nothing else describes a virtio-rng")
        self._seed = None if seed is None else seed & _SEED_MASK
        self._block = 0

    def attach(self, port: Port) -> None:
        """Take nothing."""

    def write_config(self, offset: int, data: bytes) -> None:
        """Ignore it: there is no configuration."""

    def supplied(self, queue: int) -> None:
        """Do nothing: all queues are served."""

    def serve(self, queue: int, batch: RequestBatch) -> None:
        """Fill buffers, or their beginnings."""
        del queue
        for number, chain in enumerate(batch):
            batch.written[number] = self._fill(chain)

    def _fill(self, chain: Chain) -> int:
        if chain.readable.size_bytes or not chain.writable.size_bytes:
            raise RingError(f"request {chain.head} for random numbers has nothing but a buffer")
        data = self._numbers(min(chain.writable.size_bytes, _MAX_BYTES))
        chain.writable.write(data)
        return len(data)

    def _numbers(self, count: int) -> bytes:
        if self._seed is None:
            return os.urandom(count)
        self._block += 1
        return hashlib.shake_256(struct.pack("<QQ", self._seed, self._block)).digest(count)

    # --- its life ---

    def reset(self) -> None:
        """Do nothing: a stream of numbers is not begun again."""

    def save(self) -> bytes:
        """Return where the stream is."""
        if self._seed is None:
            return RANDOM_LAYOUT.pack(source=_HOST, seed=0, block=0)
        return RANDOM_LAYOUT.pack(source=_SEEDED, seed=self._seed, block=self._block)

    def objection(self, state: bytes) -> str:
        """Return why load() would reject `state`."""
        if len(state) != RANDOM_LAYOUT.size:
            return f"{len(state)} bytes behind the queues, expected {RANDOM_LAYOUT.size}"
        found = RANDOM_LAYOUT.unpack(state)
        is_host = found["source"] == _HOST
        if not (is_host or found["source"] == _SEEDED) or (is_host and any(found.values())):
            return f"no source of random numbers is {state.hex()}"
        return ""

    def load(self, state: bytes) -> None:
        """Continue the stream, if this machine has one and the state, too."""
        found = RANDOM_LAYOUT.unpack(state)
        if self._seed is not None and found["source"] == _SEEDED:
            self._seed, self._block = found["seed"], found["block"]


def describe_entropy() -> VirtioConfig:
    """Return the description's own part."""
    return VirtioConfig(1, _QUEUE_SIZE, 0, b"")
