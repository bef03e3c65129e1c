"""One vCPU of a KVM machine: its state by the Protocol's names."""

import errno
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from tagalong.errors import StateError
from tagalong.kvm.abi import MpState
from tagalong.kvm.clock import VirtualTime
from tagalong.kvm.descriptor import IoctlError
from tagalong.kvm.vcpu_fd import VcpuDescriptor
from tagalong.machine import PowerState, RegisterId, VcpuState, register_ids
from tagalong.machine.cpu_match import (
    CpuPolicy,
    accept_differences,
    differing_identification,
    is_identification,
    match_registers,
    objections,
    wanted_registers,
)
from tagalong.machine.register_ids import register_bytes, register_name

_MP_STATES = {
    PowerState.ON: MpState.KVM_MP_STATE_RUNNABLE,
    PowerState.OFF: MpState.KVM_MP_STATE_STOPPED,
}
_COUNTERS = frozenset({register_ids.TIMER_COUNT, register_ids.PTIMER_COUNT})
_POWER = {mp_state: power for power, mp_state in _MP_STATES.items()}


class KvmVcpu:
    """Implements the Vcpu Protocol; `paused` guards every use of the vCPU's state.

    `identity` is what its identification registers say once it runs. KVM settles some of them at
    the first entry, and until then they read differently; others it does not know at all.
    """

    def __init__(
        self,
        index: int,
        descriptor: VcpuDescriptor,
        time: VirtualTime,
        policy: CpuPolicy,
        paused: Callable[[], AbstractContextManager[None]],
        identity: Mapping[RegisterId, int],
    ) -> None:
        self._index = index
        self._time = time
        self._policy = policy
        self._paused = paused
        self._identity = dict(identity)
        self.descriptor = descriptor
        self._ids = tuple(dict.fromkeys((*descriptor.register_ids(), *identity)))
        self._reset = self._registers()

    @property
    def index(self) -> int:
        """Return the vCPU's number."""
        return self._index

    def get_register(self, register: RegisterId) -> int:
        """Return one register. Raises StateError, RunStateError."""
        with self._paused():
            try:
                return self._get(register)
            except IoctlError as error:
                raise StateError(f"vCPU {self._index} has no {register_name(register)}") from error

    def set_register(self, register: RegisterId, value: int) -> None:
        """Write one register. Raises StateError, RunStateError; unchanged then."""
        with self._paused():
            refused = self._set(register, value)
        if refused is not None:
            raise StateError(
                f"vCPU {self._index} does not take {register_name(register)} = {value:#x}"
            ) from refused

    def save(self) -> VcpuState:
        """Return the whole state. Raises RunStateError while the machine runs, StateError."""
        with self._paused():
            return self.peek()

    def peek(self) -> VcpuState:
        """Return the whole state of a vCPU that is stopped. Raises StateError."""
        # The registers first: reading them carries out what a PSCI call left to do.
        registers = self._registers()
        mp_state = self.descriptor.get_mp_state()
        if mp_state not in _POWER:
            raise StateError(
                f"cannot save vCPU {self._index}: its mp_state {mp_state:#x} is not a power state"
            )
        return VcpuState(registers, _POWER[MpState(mp_state)])

    def load(self, state: VcpuState) -> None:
        """Take over a whole state. Raises StateError by name; unchanged then."""
        with self._paused():
            self._load(state.registers, self._policy)
            self.descriptor.set_mp_state(_MP_STATES[state.power])

    def reset(self) -> None:
        """Give what KVM_ARM_VCPU_INIT leaves as it was, such as SP_EL1, its first value.

        Time goes on, and the guest goes on seeing the CPU that it saw.
        """
        now = self._registers()
        for register, value in self._reset.items():
            is_kept = register in _COUNTERS or is_identification(register)
            if not is_kept and value != now[register]:
                self._set(register, value)

    @property
    def _who(self) -> str:
        return f"vCPU {self._index}"

    def objection(self, state: VcpuState) -> str:
        """Return, with all names, why load() would refuse `state`, "" if it would not."""
        given, before = state.registers, self._registers()
        wanted = wanted_registers(given, self._reset)
        # Which values a register takes, only the kernel knows: write them, and undo it.
        found = objections(
            (
                lambda: match_registers(given, self._reset, who=self._who),
                lambda: self._identify_as(given, self._policy.quietly()),
                lambda: self._write(wanted, before),
            )
        )
        self._restore(before)
        return found

    def _load(self, given: Mapping[RegisterId, int], policy: CpuPolicy) -> None:
        wanted = match_registers(given, self._reset, who=self._who)
        before = self._registers()
        try:
            self._identify_as(given, policy)
            self._write(wanted, before)
        except StateError:
            self._restore(before)
            raise

    def _restore(self, registers: Mapping[RegisterId, int]) -> None:
        for register, value in registers.items():
            self._set(register, value)

    def _identify_as(self, given: Mapping[RegisterId, int], policy: CpuPolicy) -> None:
        """Become the CPU that `given` says, as far as KVM allows that."""
        own = dict(self._identity)
        left = [
            register
            for register in differing_identification(given, own)
            if register not in given
            or register not in own
            or self._set(register, given[register]) is not None
        ]
        accept_differences(left, given, own, policy, who=self._who)

    def _write(self, wanted: Mapping[RegisterId, int], before: Mapping[RegisterId, int]) -> None:
        refused = [
            f"{register_name(register)} = {value:#x}"
            for register, value in wanted.items()
            if value != before[register] and self._set(register, value) is not None
        ]
        if refused:
            raise StateError(f"{self._who} cannot take {', '.join(refused)}")

    def _registers(self) -> dict[RegisterId, int]:
        known = self._identity
        asked = self.descriptor.get_registers([each for each in self._ids if each not in known])
        shown = self._time.shown
        return {
            each: known[each] if each in known else shown(self.descriptor, each, asked[each])
            for each in self._ids
        }

    def _get(self, register: RegisterId) -> int:
        if register in self._identity:
            return self._identity[register]
        return self._time.read(self.descriptor, register)

    def _set(self, register: RegisterId, value: int) -> Exception | None:
        """Write a register; return why that was not possible."""
        if not 0 <= value < 1 << 8 * register_bytes(register):
            return StateError(f"{value:#x} has more than {register_bytes(register)} bytes")
        if self._time.set(register, value) or self._identity.get(register) == value:
            return None
        try:
            self.descriptor.set_register(register, value)
        except IoctlError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL, errno.EBUSY, errno.EPERM):
                return error
            raise
        if register in self._identity:
            self._identity[register] = value
        return None
