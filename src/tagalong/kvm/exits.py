"""What a vCPU's exits ask of the VMM: device accesses, power, and what went wrong."""

from collections.abc import Callable, Mapping
from typing import Final

from tagalong.devices import DeviceBus
from tagalong.errors import MachineError
from tagalong.kvm.abi import KvmExitReason, SystemEvent
from tagalong.kvm.descriptor import IoctlError
from tagalong.kvm.vcpu_fd import VcpuDescriptor
from tagalong.machine import RunState, register_ids

_ENDS: Final[Mapping[int, RunState]] = {
    SystemEvent.KVM_SYSTEM_EVENT_SHUTDOWN: RunState.SHUTDOWN,
    SystemEvent.KVM_SYSTEM_EVENT_RESET: RunState.RESET,
}
"""What a guest asks for by PSCI; SYSTEM_RESET2 comes as a reset, too."""

End = Callable[[RunState, Exception | None], None]


class KvmExits:
    """Handles the exits of all vCPUs of a machine; `end` is called when the machine has ended."""

    def __init__(self, bus: DeviceBus, end: End) -> None:
        self._bus = bus
        self._end = end

    def handle(self, index: int, vcpu: VcpuDescriptor, reason: int) -> None:
        """Do what the exit asks; the instruction is completed when the vCPU runs again."""
        match reason:
            case KvmExitReason.KVM_EXIT_MMIO:
                self._access(vcpu)
            case KvmExitReason.KVM_EXIT_ARM_NISV:
                abort_access(vcpu)
            case KvmExitReason.KVM_EXIT_SYSTEM_EVENT:
                self._system_event(index, vcpu)
            case _:
                self._end(RunState.FAILED, MachineError(_unexpected(index, vcpu, reason)))

    def _access(self, vcpu: VcpuDescriptor) -> None:
        access = vcpu.exit
        gpa, size = access.gpa, access.bytes
        if access.is_write:
            if not self._bus.write(gpa, size, access.data):
                abort_access(vcpu)
            return
        found = self._bus.read(gpa, size)
        if found is None:
            abort_access(vcpu)
        else:
            vcpu.run.mmio.data = found

    def _system_event(self, index: int, vcpu: VcpuDescriptor) -> None:
        kind = vcpu.run.system_event.type
        if kind in _ENDS:
            self._end(_ENDS[kind], None)
            return
        error = MachineError(f"vCPU {index} stopped the machine with system event {kind:#x}")
        self._end(RunState.FAILED, error)


def abort_access(vcpu: VcpuDescriptor) -> None:
    """Answer an access that no device takes: the guest takes an external abort."""
    events = vcpu.get_events()
    events.exception.ext_dabt_pending = 1
    vcpu.set_events(events)


def _unexpected(index: int, vcpu: VcpuDescriptor, reason: int) -> str:
    is_known = reason in tuple(KvmExitReason)
    name = KvmExitReason(reason).name if is_known else f"exit reason {reason:#x}"
    details = {
        KvmExitReason.KVM_EXIT_FAIL_ENTRY: vcpu.run.fail_entry.hardware_entry_failure_reason,
        KvmExitReason.KVM_EXIT_INTERNAL_ERROR: vcpu.run.internal.suberror,
    }
    try:
        where = f"{vcpu.get_register(register_ids.PC):#018x}"
    except IoctlError:
        where = "an unknown pc"
    detail = details.get(KvmExitReason(reason)) if reason in details else None
    return f"vCPU {index} at {where}: KVM stopped it with {name}" + (
        f" ({detail:#x})" if detail is not None else ""
    )
