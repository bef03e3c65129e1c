"""The seam between machines and what is built on them: Protocols, and values.

protocols     Machine and Vcpu, which `soft` and `kvm` implement
state         descriptions and states, as values
gic           the interrupt controller's description and state: which registers, in which order
affinity      what MPIDR_EL1, PSCI and the GIC call a vCPU
register_ids  names for registers: KVM's ONE_REG ids
cpu_match     whether a vCPU can take the registers of another CPU
freezer       stops a guest for a migration or a snapshot, and lets it run again
page_source   where pages and tags come from: the narrow seam for all who read memory
lifecycle     runs, pauses and ends a machine: what every kind of it shares
holds         holds the vCPUs of a machine between two instructions
throttle      slows a guest down
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.machine.freezer import Freezer, MachineFreezer, require_paused
    from tagalong.machine.gic import GicDescription, GicState
    from tagalong.machine.page_source import (
        MachinePages,
        MemoryMap,
        MemoryRange,
        PageSource,
        granule_tags,
    )
    from tagalong.machine.protocols import Machine, Vcpu
    from tagalong.machine.state import (
        DEFAULT_CONSOLE,
        MAX_THROTTLE_PERCENT,
        AccessChoice,
        Clock,
        DeviceDescription,
        MachineDescription,
        MachineState,
        PowerState,
        RegionDescription,
        RegisterId,
        RunState,
        VcpuState,
    )
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.machine.freezer": ("Freezer", "MachineFreezer", "require_paused"),
            "tagalong.machine.gic": ("GicDescription", "GicState"),
            "tagalong.machine.page_source": (
                "MachinePages",
                "MemoryMap",
                "MemoryRange",
                "PageSource",
                "granule_tags",
            ),
            "tagalong.machine.protocols": ("Machine", "Vcpu"),
            "tagalong.machine.state": (
                "DEFAULT_CONSOLE",
                "MAX_THROTTLE_PERCENT",
                "AccessChoice",
                "Clock",
                "DeviceDescription",
                "MachineDescription",
                "MachineState",
                "PowerState",
                "RegionDescription",
                "RegisterId",
                "RunState",
                "VcpuState",
            ),
        },
    )

__all__ = [
    "DEFAULT_CONSOLE",
    "MAX_THROTTLE_PERCENT",
    "AccessChoice",
    "Clock",
    "DeviceDescription",
    "Freezer",
    "GicDescription",
    "GicState",
    "Machine",
    "MachineDescription",
    "MachineFreezer",
    "MachinePages",
    "MachineState",
    "MemoryMap",
    "MemoryRange",
    "PageSource",
    "PowerState",
    "RegionDescription",
    "RegisterId",
    "RunState",
    "Vcpu",
    "VcpuState",
    "granule_tags",
    "require_paused",
]
