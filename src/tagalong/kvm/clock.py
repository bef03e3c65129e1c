"""The guest's time: it does not pass while the machine is paused.

KVM's counters run while no vCPU does, so a guest that was paused, or migrated, would find that
time has leapt. The virtual counter is therefore read when all vCPUs are stopped and put back
before they run; it belongs to the VM, and any vCPU's register accesses it. The physical
counter is read for the saved state alone: putting it back would make KVM trap every read of
it on CPUs without FEAT_ECV.
"""

from tagalong.kvm.abi import KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_TIMER_CNT
from tagalong.kvm.vcpu_fd import VcpuDescriptor
from tagalong.machine import RegisterId

_VIRTUAL = RegisterId(KVM_REG_ARM_TIMER_CNT)
_PHYSICAL = RegisterId(KVM_REG_ARM_PTIMER_CNT)


class VirtualTime:
    """The counters of one VM, through `descriptor`, a vCPU of it; they begin stopped.

    Implements machine.lifecycle.GuestClock.
    """

    def __init__(self, descriptor: VcpuDescriptor) -> None:
        self._descriptor = descriptor
        known = descriptor.register_ids()
        self._registers = [r for r in (_VIRTUAL, _PHYSICAL) if r in known]
        self._stopped: dict[RegisterId, int] = {}
        self.stop()

    def stop(self) -> None:
        """Note the time, now that all vCPUs are stopped. Does nothing if it is stopped."""
        if not self._stopped:
            self._stopped = {r: self._descriptor.get_register(r) for r in self._registers}

    def start(self) -> None:
        """Continue from where the time stopped. Does nothing if it runs."""
        if self._stopped:
            self._descriptor.set_register(_VIRTUAL, self._stopped[_VIRTUAL])
            self._stopped = {}

    def get(self, register: RegisterId) -> int | None:
        """Return a counter's value if `register` is one and the time is stopped."""
        return self._stopped.get(register)

    def set(self, register: RegisterId, value: int) -> bool:
        """Set a counter; return whether `register` is one and the time is stopped."""
        if register not in self._stopped:
            return False
        if register == _PHYSICAL:
            self._descriptor.set_register(register, value)
        self._stopped[register] = value
        return True
