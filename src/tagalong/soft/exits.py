"""What the interpreter leaves to Python: accesses to devices, and hypervisor calls."""

from collections.abc import Sequence

from tagalong._native import InterpreterExit
from tagalong.devices import PL011_GPA, Pl011
from tagalong.soft.native import NativeMachine
from tagalong.soft.psci import Psci
from tagalong.soft.vcpu import SoftVcpu


class DeviceExits:
    """Answers MMIO and HVC exits of one machine, between two of its instructions."""

    def __init__(
        self, native: NativeMachine, uart: Pl011, vcpus: Sequence[SoftVcpu], psci: Psci
    ) -> None:
        self._native = native
        self._uart = uart
        self._vcpus = vcpus
        self._psci = psci

    def mmio(self, leave: InterpreterExit) -> None:
        """Do the access; the instruction is carried out before this returns."""
        offset = leave.mmio_gpa - PL011_GPA
        if leave.mmio_is_write:
            self._uart.write(offset, leave.mmio_data)
            self._native.complete_mmio(leave.vcpu, 0)
        else:
            self._native.complete_mmio(leave.vcpu, self._uart.read(offset))

    def hvc(self, leave: InterpreterExit) -> None:
        """Carry out the call and leave its result in x0."""
        vcpu = self._vcpus[leave.vcpu]
        immediate = leave.insn >> 5 & 0xFFFF
        if immediate:
            vcpu.set_x(0, -1)  # SMCCC uses HVC #0 alone; the others are "not supported"
        else:
            self._psci.call(vcpu)
