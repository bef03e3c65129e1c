"""Every limit of the stream (docs/formats/stream.md, section 5), checked before allocating.

A batch is as large as it can be received in place. Between two batches Python runs with caches that
hold guest RAM, which makes everything that it does several times dearer. So there are few batches:
one run of pages may have 64 MiB, which go where they belong. What a receiver may have to buffer
first, compressed or in several runs, is at most a quarter of that.

They are generous for real machines and small for a host: a KVM arm64 guest has at most
512 vCPUs, with fewer than 1,000 registers each.
"""

from tagalong.mte import PACKED_RATIO

MAX_REGIONS = 1024
MAX_GPA = 1 << 52
MAX_VCPUS = 512
MAX_RUNS = 1024
MAX_BATCH_BYTES = 64 << 20
MAX_COPIED_BYTES = 16 << 20
MAX_STATE_BYTES = 32 << 20
MAX_REGISTERS = 4096
MAX_REGISTER_BYTES = 256
MAX_DEVICES = 256
MAX_DEVICE_NAME_BYTES = 64
MAX_DEVICE_STATE_BYTES = 1 << 20
MAX_DEVICE_CONFIG_BYTES = 64 << 10
MAX_DEVICES_BYTES = 1 << 20
MIN_INTERRUPT = 32
MAX_INTERRUPT = 1019
MAX_SPIS = 960
MAX_GIC_REGISTERS = 4096
MAX_GIC_VCPU_REGISTERS = 64
MAX_ABORT_TEXT_BYTES = 4096
MAX_CHANNELS = 16
MAX_HELD_PAGES = 1 << 19
MAX_RECONNECT_S = 3600

MAX_BATCH_TAG_BYTES = MAX_BATCH_BYTES // PACKED_RATIO
