"""What a vCPU's exits ask of the VMM: device accesses, power, and what went wrong."""

import threading
from collections.abc import Callable
from typing import Final

from tagalong.devices import PL011_BYTES, PL011_GPA, Pl011
from tagalong.errors import MachineError
from tagalong.kvm.abi import ExitReason, SystemEvent
from tagalong.kvm.descriptor import IoctlError
from tagalong.kvm.vcpu_fd import VcpuDescriptor
from tagalong.machine import RunState, register_ids

End = Callable[[RunState, Exception | None], None]


class ExitHandler:
    """Handles the exits of all vCPUs of a machine; `end` is told when it is over."""

    def __init__(self, uart: Pl011, end: End) -> None:
        self._uart = uart
        self._end = end
        self._devices: Final = threading.Lock()

    def handle(self, index: int, vcpu: VcpuDescriptor, reason: int) -> None:
        """Do what the exit asks; the instruction is completed when the vCPU goes on."""
        match reason:
            case ExitReason.KVM_EXIT_MMIO:
                self._access(vcpu)
            case ExitReason.KVM_EXIT_ARM_NISV:
                abort_access(vcpu)
            case ExitReason.KVM_EXIT_SYSTEM_EVENT:
                self._system_event(index, vcpu)
            case _:
                self._end(RunState.FAILED, MachineError(_unexpected(index, vcpu, reason)))

    def _access(self, vcpu: VcpuDescriptor) -> None:
        mmio = vcpu.run.mmio
        offset = mmio.phys_addr - PL011_GPA
        if not 0 <= offset < PL011_BYTES:
            abort_access(vcpu)
            return
        size = mmio.len
        with self._devices:
            if mmio.is_write:
                self._uart.write(offset, int.from_bytes(bytes(mmio.data)[:size], "little"))
            else:
                value = self._uart.read(offset) & (1 << 8 * size) - 1
                mmio.data[:size] = value.to_bytes(size, "little")

    def _system_event(self, index: int, vcpu: VcpuDescriptor) -> None:
        kind = vcpu.run.system_event.type
        if kind in (SystemEvent.KVM_SYSTEM_EVENT_SHUTDOWN, SystemEvent.KVM_SYSTEM_EVENT_RESET):
            self._end(RunState.SHUTDOWN, None)
            return
        error = MachineError(f"vCPU {index} stopped the machine with system event {kind:#x}")
        self._end(RunState.FAILED, error)


def abort_access(vcpu: VcpuDescriptor) -> None:
    """Answer an access to where nothing is: the guest takes an external abort."""
    events = vcpu.get_events()
    events.exception.ext_dabt_pending = 1
    vcpu.set_events(events)


def _unexpected(index: int, vcpu: VcpuDescriptor, reason: int) -> str:
    name = ExitReason(reason).name if reason in tuple(ExitReason) else f"exit reason {reason:#x}"
    details = {
        ExitReason.KVM_EXIT_FAIL_ENTRY: vcpu.run.fail_entry.hardware_entry_failure_reason,
        ExitReason.KVM_EXIT_INTERNAL_ERROR: vcpu.run.internal.suberror,
    }
    try:
        where = f"{vcpu.get_register(register_ids.PC):#018x}"
    except IoctlError:
        where = "an unknown pc"
    detail = details.get(ExitReason(reason)) if reason in details else None
    return f"vCPU {index} at {where}: KVM gave {name}" + (
        f" ({detail:#x})" if detail is not None else ""
    )
