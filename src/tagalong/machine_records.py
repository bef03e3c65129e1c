"""Translates machine values to records of the stream and back, to send or to store them."""

from tagalong import wire
from tagalong.machine import (
    DeviceDescription,
    GicDescription,
    GicState,
    MachineDescription,
    MachineState,
    PowerState,
    RegionDescription,
    RegisterId,
    VcpuState,
)
from tagalong.memory import Gpa

_POWER = {PowerState.ON: wire.Power.ON, PowerState.OFF: wire.Power.OFF}
_POWER_BACK = {power: state for state, power in _POWER.items()}


def record_of_description(description: MachineDescription) -> wire.MachineRecord:
    """Return the MACHINE record of a machine."""
    return wire.MachineRecord(
        page_size_bytes=description.page_size_bytes,
        vcpu_count=description.vcpu_count,
        mte_version=description.mte_version,
        regions=tuple(
            wire.RegionEntry(region.gpa, region.size_bytes)
            for region in sorted(description.regions, key=lambda region: region.gpa)
        ),
        devices=tuple(wire.DeviceEntry(**vars(device)) for device in description.devices),
        gic=None if description.gic is None else wire.GicEntry(**vars(description.gic)),
    )


def description_of_record(record: wire.MachineRecord) -> MachineDescription:
    """Return what a MACHINE record describes."""
    return MachineDescription(
        page_size_bytes=record.page_size_bytes,
        vcpu_count=record.vcpu_count,
        mte_version=record.mte_version,
        regions=tuple(
            RegionDescription(Gpa(region.gpa), region.size_bytes) for region in record.regions
        ),
        devices=tuple(
            DeviceDescription(
                device.name,
                device.kind,
                Gpa(device.gpa),
                device.size_bytes,
                device.interrupt,
                device.config,
            )
            for device in record.devices
        ),
        gic=None if record.gic is None else GicDescription(**vars(record.gic)),
    )


def record_of_state(state: MachineState) -> wire.StateRecord:
    """Return the STATE record of a machine's state."""
    return wire.StateRecord(
        vcpus=tuple(
            wire.VcpuEntry(_POWER[vcpu.power], dict(vcpu.registers.items())) for vcpu in state.vcpus
        ),
        devices=state.devices,
        gic=None if state.gic is None else wire.GicStateEntry(**vars(state.gic)),
    )


def state_of_record(record: wire.StateRecord) -> MachineState:
    """Return the machine state that a STATE record holds."""
    return MachineState(
        vcpus=tuple(
            VcpuState(
                registers={RegisterId(name): value for name, value in vcpu.registers.items()},
                power=_POWER_BACK[vcpu.power],
            )
            for vcpu in record.vcpus
        ),
        devices=dict(record.devices),
        gic=None if record.gic is None else GicState(**vars(record.gic)),
    )
