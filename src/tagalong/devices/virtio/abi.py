"""Numbers and structs of virtio 1.2 (OASIS, committee specification 01), by their names there."""

import struct
from enum import IntEnum, IntFlag
from typing import Final

MAGIC: Final = 0x74726976
VERSION: Final = 2
VENDOR_ID: Final = 0x4741_4154
"""Which VMM made the device (section 4.2.2): "TAAG"; no driver looks at it."""

WINDOW_BYTES: Final = 0x200
CONFIG_OFFSET: Final = 0x100
"""Where a device's configuration begins in its window (section 4.2.2)."""


class DeviceId(IntEnum):
    """Which device is behind a transport (section 5)."""

    NETWORK = 1
    BLOCK = 2
    CONSOLE = 3
    ENTROPY = 4


class MmioRegister(IntEnum):
    """Registers of the MMIO transport by their offsets (section 4.2.2)."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_NUM_MAX = 0x034
    QUEUE_NUM = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    SHM_BASE_LOW = 0x0B8
    SHM_BASE_HIGH = 0x0BC
    CONFIG_GENERATION = 0x0FC


class Status(IntFlag):
    """The device status (section 2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


class Interrupt(IntFlag):
    """What a device asks for (section 4.2.2, InterruptStatus)."""

    USED_BUFFER = 1
    CONFIG_CHANGE = 2


class VirtioFeature(IntFlag):
    """Features of every device (section 6)."""

    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32


class DescriptorFlag(IntFlag):
    """Flags of a descriptor (section 2.7.5)."""

    NEXT = 1
    WRITE = 2
    INDIRECT = 4


DESCRIPTOR: Final = struct.Struct("<QIHH")
"""addr, len, flags, next (section 2.7.5)."""
USED_ELEMENT: Final = struct.Struct("<II")
"""id, len (section 2.7.8)."""
RING_HEAD_BYTES: Final = 4
"""flags and idx, before the entries of both rings."""
MAX_QUEUE_SIZE: Final = 32768
