"""What the interpreter leaves to Python: accesses to devices, and hypervisor calls."""

from collections.abc import Sequence

from tagalong._native import InterpreterExit
from tagalong.devices import DeviceBus
from tagalong.soft.native import NativeMachine
from tagalong.soft.psci import Psci
from tagalong.soft.vcpu import SoftVcpu


class SoftExits:
    """Answers MMIO and HVC exits of one machine, between two of its instructions."""

    def __init__(
        self, native: NativeMachine, bus: DeviceBus, vcpus: Sequence[SoftVcpu], psci: Psci
    ) -> None:
        self._native = native
        self._bus = bus
        self._vcpus = vcpus
        self._psci = psci

    def mmio(self, leave: InterpreterExit) -> None:
        """Do the access; the instruction is carried out, or aborted, before this returns."""
        value: int | None = 0
        if leave.mmio_is_write:
            is_taken = self._bus.write(leave.mmio_gpa, leave.mmio_size, leave.mmio_data)
            value = 0 if is_taken else None
        else:
            value = self._bus.read(leave.mmio_gpa, leave.mmio_size)
        if value is None:
            self._native.abort_mmio(leave.vcpu)
        else:
            self._native.complete_mmio(leave.vcpu, value)

    def hvc(self, leave: InterpreterExit) -> None:
        """Carry out the call and leave its result in x0."""
        vcpu = self._vcpus[leave.vcpu]
        immediate = leave.insn >> 5 & 0xFFFF
        if immediate:
            vcpu.set_x(0, -1)  # SMCCC uses HVC #0 alone; the others are "not supported"
        else:
            self._psci.call(vcpu)
