"""What the interpreter leaves to Python: accesses to devices, and hypervisor calls.

An access is finished at once: the answer completes the instruction before anything else happens,
so a paused vCPU is never between an access and its effect, and no state needs to say that it is.
Accesses to the GIC do not come here (soft/gic.py).
"""

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
        """Do all accesses of the instruction, which is carried out, or aborted, on return."""
        pending: InterpreterExit | None = leave
        while pending is not None:
            value = self._access(pending)
            if value is None:
                self._native.abort_mmio(pending.vcpu)
                return
            pending = self._native.complete_mmio(pending.vcpu, value)

    def _access(self, leave: InterpreterExit) -> int | None:
        """Do one access; return what a read returns, 0 for a write, None to abort it."""
        if not leave.mmio_is_write:
            return self._bus.read(leave.mmio_gpa, leave.mmio_size)
        is_taken = self._bus.write(leave.mmio_gpa, leave.mmio_size, leave.mmio_data)
        return 0 if is_taken else None

    def hvc(self, leave: InterpreterExit) -> None:
        """Carry out the call and leave its result in x0."""
        vcpu = self._vcpus[leave.vcpu]
        immediate = leave.insn >> 5 & 0xFFFF
        if immediate:
            vcpu.set_x(0, -1)  # SMCCC uses HVC #0 alone; the others are "not supported"
        else:
            self._psci.call(vcpu)
