"""The guest's time: it does not pass while the machine is paused.

KVM's counters run while no vCPU does, so a guest that was paused, or migrated, would find that
time has leapt. Both counters are therefore read when all vCPUs are stopped and put back before
they run; they belong to the VM, and any vCPU's registers access them. Timers have absolute
deadlines, so they stop with the counters.

A physical counter that was put back is one that the guest's reads trap for, on CPUs without
FEAT_ECV. Guests that care for speed read the virtual one, as Linux does; those that read the other
one must not see it leap. It is left alone until there is something to put back: a VM that is never
paused keeps the host's.

ONE_REG does this, not KVM_ARM_SET_COUNTER_OFFSET, which has one offset for both counters: those of
a VM that came from elsewhere differ, and kernels before 6.3 lack it.
"""

from collections.abc import Mapping
from typing import Final

from tagalong.kvm.abi import KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_TIMER_CNT
from tagalong.kvm.vcpu_fd import VcpuDescriptor
from tagalong.machine import RegisterId, register_ids

_VIRTUAL = RegisterId(KVM_REG_ARM_TIMER_CNT)
_PHYSICAL = RegisterId(KVM_REG_ARM_PTIMER_CNT)

_STATUS: Final = 4
_TIMERS: Final[Mapping[RegisterId, tuple[RegisterId, RegisterId]]] = {
    register_ids.TIMER_CONTROL: (register_ids.TIMER_COMPARE, _VIRTUAL),
    register_ids.PTIMER_CONTROL: (register_ids.PTIMER_COMPARE, _PHYSICAL),
}
"""For the control register of each timer, whose status says that it is due: deadline, counter."""


class VirtualTime:
    """The counters of one VM, through `descriptor`, a vCPU of it; they begin stopped.

    Implements machine.lifecycle.GuestClock.
    """

    def __init__(self, descriptor: VcpuDescriptor) -> None:
        self._descriptor = descriptor
        known = descriptor.register_ids()
        self._registers = [r for r in (_VIRTUAL, _PHYSICAL) if r in known]
        self._stopped: dict[RegisterId, int] = {}
        self._keeps_physical = False
        self.stop()

    def stop(self) -> None:
        """Note the time, now that all vCPUs are stopped. Does nothing if it is stopped."""
        if not self._stopped:
            self._stopped = {r: self._descriptor.get_register(r) for r in self._registers}

    def start(self) -> None:
        """Continue from where the time stopped. Does nothing if it runs."""
        if self._stopped:
            self._descriptor.set_register(_VIRTUAL, self._stopped[_VIRTUAL])
            if self._keeps_physical and _PHYSICAL in self._stopped:
                self._descriptor.set_register(_PHYSICAL, self._stopped[_PHYSICAL])
            self._stopped = {}
            self._keeps_physical = True

    def read(self, descriptor: VcpuDescriptor, register: RegisterId) -> int:
        """Return a register of a vCPU; if the time is stopped, as it was then. Raises IoctlError.

        That concerns the counters, and whether a timer's deadline is reached: KVM computes the
        latter from counters that run on.
        """
        return self.shown(descriptor, register, descriptor.get_register(register))

    def shown(self, descriptor: VcpuDescriptor, register: RegisterId, value: int) -> int:
        """Return a register as `read` does; `value` was read of it just now."""
        if register in self._stopped:
            return self._stopped[register]
        compare, counter = _TIMERS.get(register, (None, None))
        if compare is None or counter not in self._stopped:
            return value
        is_due = self._stopped[counter] >= descriptor.get_register(compare)
        return value | _STATUS if is_due else value & ~_STATUS

    def set(self, register: RegisterId, value: int) -> bool:
        """Set a counter; return whether `register` is one and the time is stopped."""
        if register not in self._stopped:
            return False
        if register == _PHYSICAL:
            # At once, because KVM may refuse; and again when the time continues.
            self._descriptor.set_register(register, value)
            self._keeps_physical = True
        self._stopped[register] = value
        return True
