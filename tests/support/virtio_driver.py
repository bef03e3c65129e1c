"""The guest's side of a virtio device: a driver that sets rings up in RAM and makes requests.

It follows the specification where a test does not tell it otherwise; `memory` is the guest's, and
stores of a guest mark no page (that is the interpreter's work), so they go by `poke`.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tagalong.devices import DeviceBus
from tagalong.devices.virtio.abi import (
    CONFIG_OFFSET,
    DESCRIPTOR,
    DescriptorFlag,
    MmioRegister,
    Status,
    VirtioFeature,
)
from tagalong.machine import DeviceDescription
from tagalong.memory import Gpa, GuestMemory, Region

RAM = Gpa(0x4000_0000)
PAGE = 4096
ALL_BASE = int(VirtioFeature.INDIRECT_DESC | VirtioFeature.EVENT_IDX | VirtioFeature.VERSION_1)


def new_memory(pages: int = 256) -> GuestMemory:
    """Return RAM of so many pages."""
    return GuestMemory([Region.create(RAM, pages * PAGE)])


@dataclass(frozen=True)
class Buffer:
    """One descriptor's worth: a range, and whether the device writes to it."""

    gpa: int
    length: int
    is_writable: bool = False


class DriverQueue:
    """One queue that the driver has set up."""

    def __init__(self, driver: "VirtioDriver", number: int, size: int, features: int) -> None:
        self.driver, self.number, self.size = driver, number, size
        self.has_event_idx = bool(features & VirtioFeature.EVENT_IDX)
        self.desc = driver.allocate(size * DESCRIPTOR.size, 16)
        self.avail = driver.allocate(6 + 2 * size, 2)
        self.used = driver.allocate(6 + 8 * size, 4)
        self.next_avail = self.next_used = 0
        self._next_descriptor = 0

    def describe(self, *buffers: Buffer, at: int | None = None) -> int:
        """Write a chain of descriptors, and return the number of the first."""
        head = self._next_descriptor if at is None else at
        for place, buffer in enumerate(buffers):
            index = (head + place) % self.size
            is_last = place == len(buffers) - 1
            flags = DescriptorFlag.WRITE * buffer.is_writable | DescriptorFlag.NEXT * (not is_last)
            self.set_descriptor(
                index, buffer.gpa, buffer.length, flags, 0 if is_last else (index + 1) % self.size
            )
        self._next_descriptor = (head + len(buffers)) % self.size
        return head

    def describe_indirect(self, *buffers: Buffer) -> int:
        """Write a chain into a table of its own, and return the descriptor that refers to it."""
        table = self.driver.allocate(len(buffers) * DESCRIPTOR.size, 16)
        for place, buffer in enumerate(buffers):
            is_last = place == len(buffers) - 1
            flags = DescriptorFlag.WRITE * buffer.is_writable | DescriptorFlag.NEXT * (not is_last)
            entry = DESCRIPTOR.pack(buffer.gpa, buffer.length, flags, 0 if is_last else place + 1)
            self.driver.poke(table + place * DESCRIPTOR.size, entry)
        head = self._next_descriptor
        self.set_descriptor(head, table, len(buffers) * DESCRIPTOR.size, DescriptorFlag.INDIRECT, 0)
        self._next_descriptor = (head + 1) % self.size
        return head

    def set_descriptor(self, index: int, gpa: int, length: int, flags: int, following: int) -> None:
        """Write one descriptor, right or wrong."""
        entry = DESCRIPTOR.pack(gpa, length, flags, following)
        self.driver.poke(self.desc + index * DESCRIPTOR.size, entry)

    def make_available(self, *heads: int, notify: bool = True) -> None:
        """Put requests into the ring; notify the device if it wants that, or never."""
        before = self.next_avail
        for head in heads:
            self.driver.poke16(self.avail + 4 + 2 * (self.next_avail % self.size), head)
            self.next_avail = self.next_avail + 1 & 0xFFFF
        self.set_available(self.next_avail)
        if notify and self._wants_notification(before):
            self.driver.notify(self.number)

    def set_available(self, index: int) -> None:
        """Write the index of the ring, right or wrong."""
        self.driver.poke16(self.avail + 2, index)

    def request_interrupt(self, index: int) -> None:
        """Ask to be interrupted when the used index passes `index`."""
        self.driver.poke16(self.avail + 4 + 2 * self.size, index)

    def _wants_notification(self, before: int) -> bool:
        if not self.has_event_idx:
            return not self.driver.peek16(self.used) & 1
        event = self.driver.peek16(self.used + 4 + 8 * self.size)
        return (self.next_avail - event - 1 & 0xFFFF) < (self.next_avail - before & 0xFFFF)

    @property
    def used_index(self) -> int:
        """Return the device's index."""
        return self.driver.peek16(self.used + 2)

    def take_used(self) -> list[tuple[int, int]]:
        """Return head and written bytes of each request that came back since the last call."""
        found = []
        while self.next_used != self.used_index:
            entry = self.used + 4 + 8 * (self.next_used % self.size)
            head, length = struct.unpack("<II", self.driver.peek(entry, 8))
            found.append((head, length))
            self.next_used = self.next_used + 1 & 0xFFFF
        return found


class VirtioDriver:
    """Drives the device that `description` says, through `bus`, in `memory`.

    Its memory begins `start` bytes into RAM.
    """

    def __init__(
        self, bus: DeviceBus, memory: GuestMemory, description: DeviceDescription, start: int = 0
    ) -> None:
        self.bus, self.memory = bus, memory
        self.base = description.gpa
        self._free = RAM + start
        self.queues: list[DriverQueue] = []

    # --- RAM ---

    def allocate(self, length: int, alignment: int = 16) -> int:
        """Return the gpa of memory that nothing else uses."""
        gpa = -(-self._free // alignment) * alignment
        self._free = gpa + length
        return gpa

    def poke(self, gpa: int, data: bytes) -> None:
        """Store as the guest does: in no log of the host."""
        region, offset = self.memory.locate(gpa, len(data))
        region.raw_data[offset : offset + len(data)] = memoryview(data)

    def poke16(self, gpa: int, value: int) -> None:
        self.poke(gpa, struct.pack("<H", value & 0xFFFF))

    def peek(self, gpa: int, length: int) -> bytes:
        return self.memory.read(gpa, length)

    def peek16(self, gpa: int) -> int:
        return int(struct.unpack("<H", self.peek(gpa, 2))[0])

    # --- registers ---

    def read(self, register: int, size: int = 4) -> int:
        found = self.bus.read(self.base + register, size)
        assert found is not None
        return found

    def write(self, register: int, value: int, size: int = 4) -> None:
        assert self.bus.write(self.base + register, size, value)

    def read_config(self, length: int) -> bytes:
        """Return the beginning of the configuration, a byte at a time."""
        return bytes(self.read(CONFIG_OFFSET + at, 1) for at in range(length))

    @property
    def status(self) -> Status:
        return Status(self.read(MmioRegister.STATUS))

    def offered(self) -> int:
        """Return the features that the device offers."""
        found = 0
        for half in range(2):
            self.write(MmioRegister.DEVICE_FEATURES_SEL, half)
            found |= self.read(MmioRegister.DEVICE_FEATURES) << 32 * half
        return found

    # --- the life of a driver ---

    def negotiate(self, features: int | None = None) -> int:
        """Reset the device and accept `features`, all by default; return them."""
        accepted = self.offered() if features is None else features
        self.write(MmioRegister.STATUS, 0)
        self.write(MmioRegister.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
        for half in range(2):
            self.write(MmioRegister.DRIVER_FEATURES_SEL, half)
            self.write(MmioRegister.DRIVER_FEATURES, accepted >> 32 * half & 0xFFFF_FFFF)
        self.write(MmioRegister.STATUS, self.status | Status.FEATURES_OK)
        return accepted

    def set_up_queue(self, number: int, features: int, size: int | None = None) -> DriverQueue:
        """Set up one queue, of its largest size by default."""
        self.write(MmioRegister.QUEUE_SEL, number)
        size = size or self.read(MmioRegister.QUEUE_NUM_MAX)
        queue = DriverQueue(self, number, size, features)
        self.write(MmioRegister.QUEUE_NUM, size)
        for low, gpa in (
            (MmioRegister.QUEUE_DESC_LOW, queue.desc),
            (MmioRegister.QUEUE_DRIVER_LOW, queue.avail),
            (MmioRegister.QUEUE_DEVICE_LOW, queue.used),
        ):
            self.write(low, gpa & 0xFFFF_FFFF)
            self.write(low + 4, gpa >> 32)
        self.write(MmioRegister.QUEUE_READY, 1)
        return queue

    def start(self, queues: int, features: int | None = None, size: int | None = None) -> None:
        """Do all that a driver does before it uses its device."""
        accepted = self.negotiate(features)
        self.queues = [self.set_up_queue(number, accepted, size) for number in range(queues)]
        self.write(MmioRegister.STATUS, self.status | Status.DRIVER_OK)

    def notify(self, queue: int) -> None:
        self.write(MmioRegister.QUEUE_NOTIFY, queue)

    def acknowledge(self) -> int:
        """Return why the device interrupted, and acknowledge that."""
        reason = self.read(MmioRegister.INTERRUPT_STATUS)
        self.write(MmioRegister.INTERRUPT_ACK, reason)
        return reason

    # --- requests ---

    def readable(self, *parts: bytes) -> list[Buffer]:
        """Return buffers with these bytes."""
        buffers = []
        for part in parts:
            gpa = self.allocate(len(part))
            self.poke(gpa, part)
            buffers.append(Buffer(gpa, len(part)))
        return buffers

    def writable(self, *lengths: int) -> list[Buffer]:
        """Return buffers of these lengths for the device to write to."""
        return [Buffer(self.allocate(length), length, is_writable=True) for length in lengths]

    def contents(self, buffers: Sequence[Buffer]) -> bytes:
        """Return what is in buffers."""
        return b"".join(self.peek(buffer.gpa, buffer.length) for buffer in buffers)
