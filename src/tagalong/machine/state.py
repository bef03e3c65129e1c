"""What a machine is, as values: its description, its state, and what it is doing.

Register ids are KVM's own (KVM_GET_ONE_REG, Linux Documentation/virt/kvm/api.rst 4.68), so that
a state saved by one machine means the same to the other.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NewType

from tagalong.errors import UsageError
from tagalong.machine.gic import FIRST_SPI, GicDescription, GicState
from tagalong.memory import Gpa

RegisterId = NewType("RegisterId", int)
"""A KVM ONE_REG id; its bits 55:52 hold log2 of the register's size in bytes."""


MAX_THROTTLE_PERCENT: Final = 99
"""A throttled guest runs for at least a hundredth of the time (Machine.throttle)."""


class RunState(Enum):
    """What a machine is doing; the values are the words shown to people.

    RESET: the guest asked for a reset and waits for it (Machine.reset).
    """

    PAUSED = "paused"
    RUNNING = "running"
    RESET = "reset"
    SHUTDOWN = "shutdown"
    FAILED = "internal-error"


class Clock(Enum):
    """What a guest's time follows; it stands while the machine is paused.

    `INSTRUCTIONS`: each instruction of any vCPU is a tick, and the time for which all vCPUs wait
    for a timer passes at once: the same seed gives the same run, on any host. `HOST`: a second is
    a second of the host.
    """

    INSTRUCTIONS = "instructions"
    HOST = "host"


class PowerState(Enum):
    """A vCPU's state as PSCI sees it (KVM_MP_STATE_RUNNABLE and KVM_MP_STATE_STOPPED)."""

    ON = 0
    OFF = 5


@dataclass(frozen=True)
class RegionDescription:
    """One range of guest RAM: first gpa and size, both in bytes and page aligned."""

    gpa: int
    size_bytes: int


DISK_KIND: Final = "virtio-blk"
"""The kind of device that has an image, and data on their way to it."""


@dataclass(frozen=True)
class DeviceDescription:
    """What a guest sees of one device; what backs it on the host is not part of this.

    `name`: unique in the machine; its state and its host side are given under it.
    `kind`: which model it is, such as "pl011".
    `gpa`, `size_bytes`: its window of registers.
    `interrupt`: the architectural INTID of its line (32 and up: SPIs), None without a line.
    `config`: what else the guest can see and the state does not say, in the device's own
    versioned form; empty for a kind that has no choices.
    """

    name: str
    kind: str
    gpa: int
    size_bytes: int
    interrupt: int | None = None
    config: bytes = b""


DEFAULT_CONSOLE: Final = DeviceDescription("pl011", "pl011", Gpa(0x0900_0000), 0x1000)
"""The console of a machine whose description names no devices: no line, no choices."""


GUEST_ID_BYTES: Final = 8


@dataclass(frozen=True)
class MachineDescription:
    """What a destination must know before it can hold a machine.

    `mte_version` is ID_AA64PFR1_EL1.MTE: 0 no tags, 2 MTE2, 3 with asymmetric checking.
    `devices`: in the order of the guest's view of them; without it, one PL011 as the console.
    `has_data`: False for a VM of another VMM, which moves its data itself: only its tags are ours.
    `tags_in_place`: another VMM on this host takes its memory over as it is, so its tags are
    there already, and a migration only compares them.
    `guest_id`: `GUEST_ID_BYTES` that name a guest of another VMM, the same at both ends; none if
    it has no name there.
    `gic`: its interrupt controller; without one, lines of devices share an input of vCPU 0.
    Raises UsageError if two devices have one name, if a frame of the GIC overlaps RAM, a device or
    another frame, or if the GIC lacks the interrupt of a device.
    """

    page_size_bytes: int
    vcpu_count: int
    mte_version: int
    regions: tuple[RegionDescription, ...]
    devices: tuple[DeviceDescription, ...] = (DEFAULT_CONSOLE,)
    gic: GicDescription | None = None
    has_data: bool = True
    tags_in_place: bool = False
    guest_id: bytes = b""

    def __post_init__(self) -> None:
        counts = Counter(device.name for device in self.devices)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise UsageError(f"devices of a machine have the same name: {', '.join(twice)}")
        if self.gic is not None:
            self._check_gic(self.gic)

    def _check_gic(self, gic: GicDescription) -> None:
        for device in self.devices:
            if device.interrupt is not None and not gic.has_spi(device.interrupt):
                raise UsageError(
                    f"device {device.name!r} has the interrupt {device.interrupt}: the machine's "
                    f"GIC has {FIRST_SPI} to {FIRST_SPI + gic.spi_count - 1}"
                )
        frames = {f"the GIC's {name}": at for name, at in gic.windows(self.vcpu_count).items()}
        ranges = {
            **{f"device {each.name!r}": _range(each) for each in self.devices},
            **{f"guest RAM at {each.gpa:#x}": _range(each) for each in self.regions},
        }
        for frame, at in frames.items():
            for other, taken in (frames | ranges).items():
                if other != frame and at.start < taken.stop and taken.start < at.stop:
                    raise UsageError(f"{frame}, at {at.start:#x}, and {other} overlap")

    @property
    def has_disks(self) -> bool:
        """Return whether a device has data to bring to an image that only one process may use."""
        return any(device.kind == DISK_KIND for device in self.devices)

    @property
    def ram_bytes(self) -> int:
        """Return the sum of all regions in bytes."""
        return sum(region.size_bytes for region in self.regions)


def _range(window: DeviceDescription | RegionDescription) -> range:
    return range(window.gpa, window.gpa + window.size_bytes)


@dataclass(frozen=True)
class VcpuState:
    """Everything a vCPU is, between two instructions."""

    registers: Mapping[RegisterId, int]
    power: PowerState


@dataclass(frozen=True)
class MachineState:
    """Everything a machine is besides its memory and tags.

    `devices` maps a device's name to its state in that device's own versioned form. `gic` is the
    state of the interrupt controller of a machine that has one.
    """

    vcpus: tuple[VcpuState, ...]
    devices: Mapping[str, bytes] = field(default_factory=dict)
    gic: GicState | None = None


@dataclass(frozen=True)
class AccessChoice:
    """The access strategy by which a machine's RAM is touched, and why it and no other."""

    name: str
    reason: str
