"""Split virtqueues (section 2.7): what a driver makes available, and what the device has used.

The device's place in both rings is all the state that a queue has besides what its driver wrote to
the registers; the rings themselves are guest RAM. The work on them is native/virtio/queue.c's.
"""

import ctypes
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from tagalong._native import Virtq, library
from tagalong.binary.layout import Layout
from tagalong.devices.virtio.abi import (
    DESCRIPTOR,
    MAX_QUEUE_SIZE,
    RING_HEAD_BYTES,
    USED_ELEMENT,
    VirtioFeature,
)
from tagalong.devices.virtio.chain import RequestBatch
from tagalong.devices.virtio.ram import GuestRam, RamArea, RingError

_INDEX: Final = 0xFFFF
QUEUE_LAYOUT: Final = Layout(
    ("size", "u32"),
    ("is_ready", "u32"),
    ("desc_gpa", "u64"),
    ("driver_gpa", "u64"),
    ("device_gpa", "u64"),
    ("next_avail", "u16"),
    ("next_used", "u16"),
    ("signalled_used", "u16"),
    ("has_signalled", "u16"),
)
_PROGRESS: Final = ("next_avail", "next_used", "signalled_used", "has_signalled")


@dataclass
class QueueRegisters:
    """What a driver says of a queue, and how far the device is in it.

    `signalled_used`: next_used when the driver was last interrupted, if `has_signalled`.
    """

    size: int = 0
    is_ready: bool = False
    desc_gpa: int = 0
    driver_gpa: int = 0
    device_gpa: int = 0
    next_avail: int = 0
    next_used: int = 0
    signalled_used: int = 0
    has_signalled: bool = False

    def to_bytes(self) -> bytes:
        """Return its saved form (docs/formats/virtio.md)."""
        return QUEUE_LAYOUT.pack(**asdict(self))

    @classmethod
    def from_bytes(cls, state: bytes) -> "QueueRegisters":
        """Return what `to_bytes` returned. Raises ValueError for flags that are none."""
        found = QUEUE_LAYOUT.unpack(state)
        for name in ("is_ready", "has_signalled"):
            if found[name] > 1:
                raise ValueError(f"{name} is {found[name]:#x}: it is 0 or 1")
            found[name] = bool(found[name])
        return cls(**found)


class Virtqueue:
    """One queue of a device that its driver may hold up to `max_size` requests in.

    Its device calls it from one thread at a time. Everything that uses the rings raises RingError
    if the driver broke a rule.
    """

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self._registers = QueueRegisters()
        self._rings: _Rings | None = None

    @property
    def registers(self) -> QueueRegisters:
        """Return what the driver said, and how far the device is; to be changed while not ready."""
        if self._rings is not None:
            for name in _PROGRESS:
                setattr(self._registers, name, getattr(self._rings.native, name))
            self._registers.has_signalled = bool(self._registers.has_signalled)
        return self._registers

    @registers.setter
    def registers(self, registers: QueueRegisters) -> None:
        self._rings = None
        self._registers = registers

    def reset(self) -> None:
        """Become what the queue is at power-on."""
        self.registers = QueueRegisters(size=self.max_size)

    @property
    def is_ready(self) -> bool:
        """Return whether the driver has set it up."""
        return self._rings is not None

    def set_up(self, ram: GuestRam, features: int) -> None:
        """Use the rings that the registers name. Raises RingError if they cannot be."""
        self.take_down()
        self._rings = _Rings(ram, self._registers, self.max_size, features)
        self._registers.is_ready = True

    def try_set_up(self, ram: GuestRam, registers: QueueRegisters, features: int) -> None:
        """Raise RingError if the rings that `registers` name cannot be used; change nothing."""
        _Rings(ram, registers, self.max_size, features)

    def take_down(self) -> None:
        """Use the rings no more."""
        registers = self.registers
        self._rings = None
        registers.is_ready = False

    def take(self, most: int) -> RequestBatch | None:
        """Return at most `most` requests, None if there is none or the queue is not ready.

        The driver is asked not to notify of more; if there is none, to notify of the next.
        """
        return None if self._rings is None else self._rings.take(most)

    def await_more(self) -> bool:
        """Ask the driver to notify of what comes now; return whether there is some already."""
        return self._rings is not None and self._rings.await_more()

    def put_back(self, count: int) -> None:
        """Undo the last `count` requests of `take`, whose buffers nobody has touched."""
        if self._rings is not None:
            self._rings.native.next_avail = self._rings.native.next_avail - count & _INDEX

    def give_back(self, batch: RequestBatch, count: int) -> bool:
        """Put the first `count` of a batch into the used ring, for the driver all at once.

        `batch.written` says how much was stored to each. Return whether the driver wants an
        interrupt for what was given back since the last.
        """
        return self._rings is not None and self._rings.give(batch, count)


class _Rings:
    """The three areas of a queue in guest RAM, and `native`, what native code knows of them."""

    def __init__(
        self, ram: GuestRam, registers: QueueRegisters, max_size: int, features: int
    ) -> None:
        size = registers.size
        if not 1 <= size <= min(max_size, MAX_QUEUE_SIZE) or size & size - 1:
            raise RingError(f"queue size {size}: it is a power of two of at most {max_size}")
        # One more field behind the entries, whether or not event indexes were negotiated.
        avail_bytes = RING_HEAD_BYTES + size * 2 + 2
        used_bytes = RING_HEAD_BYTES + size * USED_ELEMENT.size + 2
        table = ram.area("the descriptor table", registers.desc_gpa, size * DESCRIPTOR.size, 16)
        avail = ram.area("the driver area", registers.driver_gpa, avail_bytes, 2)
        self._used: RamArea = ram.area("the device area", registers.device_gpa, used_bytes, 4)
        self._ram = ram
        self._room = (size + 1) * ram.range_count
        self.native = Virtq(
            desc=table.address,
            avail=avail.address,
            used=self._used.address,
            ram=ram.ranges_address,
            ram_count=ram.range_count,
            size=size,
            has_event_idx=bool(features & VirtioFeature.EVENT_IDX),
            has_indirect=bool(features & VirtioFeature.INDIRECT_DESC),
            **{name: getattr(registers, name) for name in _PROGRESS},
        )
        self._address = ctypes.addressof(self.native)

    def take(self, most: int) -> RequestBatch | None:
        batch = RequestBatch(self._ram, most, max(self._room, most))
        batch.count = self._call(
            library().ta_virtq_take, batch.chains, most, batch.buffers, len(batch.buffers)
        )
        batch.is_all = self.native.left == 0
        return batch if batch.count else None

    def await_more(self) -> bool:
        return self._call(library().ta_virtq_await) > 0

    def give(self, batch: RequestBatch, count: int) -> bool:
        return self._call(library().ta_virtq_give, batch.chains, batch.written, count) > 0

    def _call(self, function: Callable[..., int], *arguments: object) -> int:
        """Do something that stores to the device area. Raises RingError."""
        stores, pages = self._used.region.stores, self._used.pages
        stores.mark(*pages)
        result = function(self._address, *arguments)
        stores.mark(*pages)
        if result < 0:
            native = self.native
            raise RingError(_broken_rule(native.rule, native.head, native.found, native.limit))
        return result


_RULES: Final = {
    1: "{found} requests in a queue of {limit}",
    2: "descriptor {found} of a queue of {limit}",
    3: "chain {head}: descriptor {found} of {limit}",
    4: "chain {head}: more than {found} descriptors, or a loop",
    5: "chain {head}: {limit:#x} bytes from gpa {found:#x} on are not in guest RAM",
    6: "chain {head}: more than {found:#x} bytes",
    7: "chain {head}: a readable buffer behind a writable one",
    8: "chain {head}: an indirect table, which was not negotiated",
    9: "chain {head}: an indirect table inside an indirect table",
    10: "chain {head}: a descriptor behind an indirect table",
    11: "chain {head}: an indirect table of {found} bytes; a queue of {limit} takes 1 to {limit} "
    f"descriptors of {DESCRIPTOR.size}",
    12: "chain {head}: an indirect table across two regions of RAM",
}
"""What was broken, by enum ta_virtq_rule."""


def _broken_rule(rule: int, head: int, found: int, limit: int) -> str:
    return _RULES[rule].format(head=head, found=found, limit=limit)
