"""PSCI over HVC, as much as a guest without power management needs.

Source: Arm Power State Coordination Interface, DEN 0022D (PSCI 1.1); SMCCC, DEN 0028.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final

from tagalong.machine import PowerState, RunState, register_ids
from tagalong.machine.affinity import vcpu_of_affinity
from tagalong.soft.vcpu import SoftVcpu

_AARCH64: Final = 0x4000_0000
_PSTATE_EL1H_MASKED: Final = 0x3C5


class PsciFunction(IntEnum):
    """PsciFunction ids, without the SMC64 bit for those that exist in both forms."""

    SMCCC_VERSION = 0x8000_0000
    PSCI_VERSION = 0x8400_0000
    CPU_SUSPEND = 0x8400_0001
    CPU_OFF = 0x8400_0002
    CPU_ON = 0x8400_0003
    AFFINITY_INFO = 0x8400_0004
    MIGRATE_INFO_TYPE = 0x8400_0006
    SYSTEM_OFF = 0x8400_0008
    SYSTEM_RESET = 0x8400_0009
    PSCI_FEATURES = 0x8400_000A
    SYSTEM_RESET2 = 0x8400_0012


class PsciResult(IntEnum):
    """Return values (DEN 0022D, table 5)."""

    SUCCESS = 0
    NOT_SUPPORTED = -1
    INVALID_PARAMETERS = -2
    ALREADY_ON = -4
    INVALID_ADDRESS = -9


_SMC64: Final = {
    PsciFunction.CPU_SUSPEND,
    PsciFunction.CPU_ON,
    PsciFunction.AFFINITY_INFO,
    PsciFunction.SYSTEM_RESET2,
}
_WARM_RESET: Final = 0
_FIRST_VENDOR_RESET: Final = 0x8000_0000
_VERSION_1_1: Final = 0x0001_0001
_TRUSTED_OS_ABSENT: Final = 2
_FIXED: Final = {
    PsciFunction.SMCCC_VERSION: _VERSION_1_1,
    PsciFunction.PSCI_VERSION: _VERSION_1_1,
    PsciFunction.MIGRATE_INFO_TYPE: _TRUSTED_OS_ABSENT,
}


class Psci:
    """Answers the calls of one machine's guest."""

    def __init__(
        self,
        vcpus: Sequence[SoftVcpu],
        is_ram: Callable[[int], bool],
        end: Callable[[RunState], None],
    ) -> None:
        self._vcpus = vcpus
        self._is_ram = is_ram
        self._end = end

    def call(self, vcpu: SoftVcpu) -> None:
        """Carry out the call in x0..x3 of `vcpu` and leave the result in its x0."""
        function = self._function(vcpu.x(0) & 0xFFFF_FFFF)
        result = PsciResult.NOT_SUPPORTED if function is None else self._dispatch(vcpu, function)
        if vcpu.power is PowerState.ON:
            vcpu.set_x(0, result)
        if function is PsciFunction.CPU_SUSPEND:
            vcpu.wait_for_interrupt()  # a standby, whatever state was asked for (DEN 0022D 5.4)

    def _function(self, number: int) -> PsciFunction | None:
        plain = number & ~_AARCH64
        if number != plain and plain not in _SMC64:
            return None
        return PsciFunction(plain) if plain in PsciFunction.__members__.values() else None

    def _dispatch(self, vcpu: SoftVcpu, function: PsciFunction) -> int:
        if function in _FIXED:
            return _FIXED[function]
        match function:
            case PsciFunction.CPU_OFF:
                vcpu.set_power(PowerState.OFF)
            case PsciFunction.CPU_ON:
                return self._cpu_on(vcpu.x(1), vcpu.x(2), vcpu.x(3))
            case PsciFunction.AFFINITY_INFO:
                return self._affinity_info(vcpu.x(1), vcpu.x(2))
            case PsciFunction.SYSTEM_OFF:
                self._end(RunState.SHUTDOWN)
            case PsciFunction.SYSTEM_RESET:
                self._end(RunState.RESET)
            case PsciFunction.SYSTEM_RESET2:
                return self._reset_2(vcpu.x(1) & 0xFFFF_FFFF)
            case PsciFunction.PSCI_FEATURES if self._function(vcpu.x(1) & 0xFFFF_FFFF) is None:
                return PsciResult.NOT_SUPPORTED
        return PsciResult.SUCCESS

    def _reset_2(self, kind: int) -> int:
        """Reset, in one way for all kinds: a vendor's own have no other meaning here, as in KVM."""
        if _WARM_RESET < kind < _FIRST_VENDOR_RESET:
            return PsciResult.INVALID_PARAMETERS
        self._end(RunState.RESET)
        return PsciResult.SUCCESS

    def _cpu_on(self, target: int, entry: int, context: int) -> int:
        index = vcpu_of_affinity(target, len(self._vcpus))
        if index is None:
            return PsciResult.INVALID_PARAMETERS
        if not self._is_ram(entry):
            return PsciResult.INVALID_ADDRESS
        vcpu = self._vcpus[index]
        if vcpu.power is PowerState.ON:
            return PsciResult.ALREADY_ON
        vcpu.reset_to({
            register_ids.PC: entry,
            register_ids.x(0): context,
            register_ids.PSTATE: _PSTATE_EL1H_MASKED,
        })  # fmt: skip
        vcpu.set_power(PowerState.ON)
        return PsciResult.SUCCESS

    def _affinity_info(self, target: int, level: int) -> int:
        index = vcpu_of_affinity(target, len(self._vcpus))
        if level or index is None:
            return PsciResult.INVALID_PARAMETERS
        return 0 if self._vcpus[index].power is PowerState.ON else 1
