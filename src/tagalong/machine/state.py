"""What a machine is, as values: its description, its state, and what it is doing.

Register ids are KVM's own (KVM_GET_ONE_REG, Linux Documentation/virt/kvm/api.rst 4.68), so that
a state saved by one machine means the same to the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

from tagalong.memory import Gpa

RegisterId = NewType("RegisterId", int)
"""A KVM ONE_REG id; its bits 55:52 hold log2 of the register's size in bytes."""


class RunState(Enum):
    """What a machine is doing; the values are the words shown to people."""

    PAUSED = "paused"
    RUNNING = "running"
    SHUTDOWN = "shutdown"
    FAILED = "internal-error"


class PowerState(Enum):
    """A vCPU's state as PSCI sees it (KVM_MP_STATE_RUNNABLE and KVM_MP_STATE_STOPPED)."""

    ON = 0
    OFF = 5


@dataclass(frozen=True)
class RegionDescription:
    """One range of guest RAM: first gpa and size, both in bytes and page aligned."""

    gpa: Gpa
    size_bytes: int


@dataclass(frozen=True)
class MachineDescription:
    """What a destination must know before it can hold a machine.

    `mte_version` is ID_AA64PFR1_EL1.MTE: 0 no tags, 2 MTE2, 3 with asymmetric checking.
    """

    page_size_bytes: int
    vcpu_count: int
    mte_version: int
    regions: tuple[RegionDescription, ...]

    @property
    def ram_bytes(self) -> int:
        """Return the sum of all regions in bytes."""
        return sum(region.size_bytes for region in self.regions)


@dataclass(frozen=True)
class VcpuState:
    """Everything a vCPU is, between two instructions."""

    registers: Mapping[RegisterId, int]
    power: PowerState


@dataclass(frozen=True)
class MachineState:
    """Everything a machine is besides its memory and tags.

    `devices` maps a device's name to its state in that device's own versioned form.
    """

    vcpus: tuple[VcpuState, ...]
    devices: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class AccessChoice:
    """The access strategy by which a machine's RAM is touched, and why it and no other."""

    name: str
    reason: str
