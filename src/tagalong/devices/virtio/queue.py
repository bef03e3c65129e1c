"""Split virtqueues (section 2.7): what a driver makes available, and what the device has used.

The device's place in both rings is all the state that a queue has besides what its driver wrote to
the registers; the rings themselves are guest RAM.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from tagalong.binary.layout import Layout
from tagalong.devices.virtio.abi import (
    AVAIL_NO_INTERRUPT,
    DESCRIPTOR,
    MAX_QUEUE_SIZE,
    RING_HEAD_BYTES,
    USED_ELEMENT,
    USED_NO_NOTIFY,
    VirtioFeature,
)
from tagalong.devices.virtio.chain import Chain, ChainReader
from tagalong.devices.virtio.ram import RamArea, RingError, memory_barrier
from tagalong.memory import GuestMemory

_INDEX: Final = 0xFFFF
_FLAGS_AT: Final = 0
_IDX_AT: Final = 2
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
        self.registers = QueueRegisters()
        self._rings: _Rings | None = None

    def reset(self) -> None:
        """Become what the queue is at power-on."""
        self.registers = QueueRegisters(size=self.max_size)
        self._rings = None

    @property
    def is_ready(self) -> bool:
        """Return whether the driver has set it up."""
        return self._rings is not None

    def set_up(self, memory: GuestMemory, features: int) -> None:
        """Use the rings that the registers name. Raises RingError if they cannot be."""
        self._rings = None
        self._rings = _Rings(memory, self.registers, self.max_size, features)
        self.registers.is_ready = True

    def try_set_up(self, memory: GuestMemory, registers: QueueRegisters, features: int) -> None:
        """Raise RingError if the rings that `registers` name cannot be used; change nothing."""
        _Rings(memory, registers, self.max_size, features)

    def take_down(self) -> None:
        """Use the rings no more."""
        self._rings = None
        self.registers.is_ready = False

    def take(self) -> Chain | None:
        """Return the driver's next request, None if there is none or the queue is not ready."""
        rings, registers = self._rings, self.registers
        if rings is None or rings.count_available(registers.next_avail) == 0:
            return None
        chain = rings.read_chain(registers.next_avail)
        registers.next_avail = registers.next_avail + 1 & _INDEX
        return chain

    def suppress_notifications(self) -> None:
        """Ask the driver not to notify: the device looks at the queue by itself."""
        if self._rings is not None:
            self._rings.suppress_notifications()

    def enable_notifications(self) -> bool:
        """Ask the driver to notify of the next request; return whether there is one already."""
        rings = self._rings
        if rings is None:
            return False
        rings.enable_notifications(self.registers.next_avail)
        memory_barrier()
        return rings.count_available(self.registers.next_avail) > 0

    def put_back(self, count: int) -> None:
        """Undo the last `count` calls of `take`, whose buffers nobody has touched."""
        self.registers.next_avail = self.registers.next_avail - count & _INDEX

    def give_back(self, chains: Sequence[Chain], written_bytes: Sequence[int]) -> None:
        """Put requests that `take` returned into the used ring, for the driver all at once."""
        registers = self.registers
        if self._rings is None:
            return
        for chain, written in zip(chains, written_bytes, strict=True):
            self._rings.put_used(registers.next_used, chain.head, written)
            registers.next_used = registers.next_used + 1 & _INDEX
        self._rings.publish_used(registers.next_used)

    def must_interrupt(self) -> bool:
        """Return whether the driver wants an interrupt for what was given back since the last."""
        rings, registers = self._rings, self.registers
        if rings is None:
            return False
        memory_barrier()
        since = registers.signalled_used if registers.has_signalled else None
        wanted = rings.wants_interrupt(since, registers.next_used)
        registers.signalled_used, registers.has_signalled = registers.next_used, True
        return wanted


class _Rings:
    """The three areas of a queue in guest RAM."""

    def __init__(
        self, memory: GuestMemory, registers: QueueRegisters, max_size: int, features: int
    ) -> None:
        size = registers.size
        if not 1 <= size <= min(max_size, MAX_QUEUE_SIZE) or size & size - 1:
            raise RingError(f"queue size {size}: it is a power of two of at most {max_size}")
        self._size = size
        self._has_event_idx = bool(features & VirtioFeature.EVENT_IDX)
        table = RamArea(
            memory, "the descriptor table", registers.desc_gpa, size * DESCRIPTOR.size, 16
        )
        # One more field behind the entries, whether or not event indexes were negotiated.
        avail_bytes = RING_HEAD_BYTES + size * 2 + 2
        used_bytes = RING_HEAD_BYTES + size * USED_ELEMENT.size + 2
        self._avail = RamArea(memory, "the driver area", registers.driver_gpa, avail_bytes, 2)
        self._used = RamArea(memory, "the device area", registers.device_gpa, used_bytes, 4)
        self._used_event_at = avail_bytes - 2
        self._avail_event_at = used_bytes - 2
        indirect = bool(features & VirtioFeature.INDIRECT_DESC)
        self._chains = ChainReader(memory, table.bytes, size, indirect=indirect)

    def count_available(self, next_avail: int) -> int:
        """Return how many requests there are; what a driver stored before is visible after."""
        count = self._avail.load16(_IDX_AT) - next_avail & _INDEX
        if count > self._size:
            raise RingError(f"{count} requests in a queue of {self._size}")
        if count:
            memory_barrier()
        return count

    def read_chain(self, index: int) -> Chain:
        head = self._avail.load16(RING_HEAD_BYTES + index % self._size * 2)
        return self._chains.read(head)

    def suppress_notifications(self) -> None:
        # With event indexes, one that is not moved on asks for nothing (section 2.7.10).
        if not self._has_event_idx:
            self._used.store16(_FLAGS_AT, USED_NO_NOTIFY)

    def enable_notifications(self, next_avail: int) -> None:
        if self._has_event_idx:
            self._used.store16(self._avail_event_at, next_avail)
        else:
            self._used.store16(_FLAGS_AT, 0)

    def put_used(self, index: int, head: int, written_bytes: int) -> None:
        at = RING_HEAD_BYTES + index % self._size * USED_ELEMENT.size
        self._used.store(at, USED_ELEMENT.pack(head, written_bytes))

    def publish_used(self, next_used: int) -> None:
        memory_barrier()
        self._used.store16(_IDX_AT, next_used)

    def wants_interrupt(self, since: int | None, now: int) -> bool:
        if not self._has_event_idx:
            return not self._avail.load16(_FLAGS_AT) & AVAIL_NO_INTERRUPT
        if since is None:
            return True
        event = self._avail.load16(self._used_event_at)
        return now - event - 1 & _INDEX < now - since & _INDEX
