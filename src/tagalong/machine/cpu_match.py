"""Moves a vCPU's registers to a machine that has other registers.

Machines differ in the features of their CPU and in the registers that their kernel knows. A state
moves from one to another by these rules. None of them loses, without naming it, what a guest
could miss:

- A register that both machines have moves with its value.
- A register that the destination lacks is rejected by name, unless its value is that of a CPU
  on which no guest ever used it.
- A register that only the destination has gets its reset value, unless a state without it is
  incomplete.
- Identification (what the CPU and its firmware report about themselves) must be equal.
  Otherwise the guest may use features that do not exist: that is accepted only if the operator
  allows it, and each difference is reported.

Sources: Arm ARM D17.1.1 (the ID scheme); Linux arch/arm64/kvm/sys_regs.c (reset_unknown),
Documentation/virt/kvm/arm/fw-pseudo-registers.rst.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from tagalong.errors import StateError
from tagalong.machine import RegisterId, register_ids
from tagalong.machine.register_ids import register_name

# KVM's value for a register that the architecture leaves UNKNOWN at reset.
_NEVER_WRITTEN: Final = 0x1DE7_EC7E_DBAD_C0DE

_KIND_MASK: Final = 0x0FFF_0000
_CACHE_SIZES: Final = 0x0011_0000
_SYSREG: Final = 0x0013_0000
_FIRMWARE: Final = frozenset({0x0014_0000, 0x0016_0000})

_CONTROL_ENABLE: Final = 1
_TIMER_CONTROLS: Final = frozenset({register_ids.TIMER_CONTROL, register_ids.PTIMER_CONTROL})
_COUNTERS: Final = frozenset({register_ids.TIMER_COUNT, register_ids.PTIMER_COUNT})
# Reset values, other than zero, of registers that only some machines have.
_RESET: Final[Mapping[int, int]] = {
    register_ids.sysreg(2, 0, 1, 1, 4): 0x8,  # OSLSR_EL1: the lock is there and open
    register_ids.sysreg(3, 4, 5, 3, 0): 0x700,  # FPEXC32_EL2
}
_IDENTIFICATION: Final = frozenset(
    {
        register_ids.CNTFRQ_EL0,
        register_ids.CTR_EL0,
        register_ids.DCZID_EL0,
        register_ids.sysreg(3, 0, 10, 4, 7),  # LORID_EL1
    }
)
_OWN_IDENTITY: Final = register_ids.MPIDR_EL1

_MOST_KNOWN: Final = 4096


@dataclass(frozen=True)
class CpuPolicy:
    """Whether a CPU that identifies itself differently is accepted.

    `tell` is called with a line per difference that was accepted.
    """

    allow_mismatch: bool = False
    tell: Callable[[str], None] = lambda _: None

    def quietly(self) -> "CpuPolicy":
        """Return the same policy without `tell`, for a check before the load."""
        return CpuPolicy(self.allow_mismatch)


STRICT: Final = CpuPolicy()


# A state has hundreds of registers, which are asked about several times while a guest is paused.
@lru_cache(_MOST_KNOWN)
def is_identification(register: RegisterId) -> bool:
    """Return whether a register identifies the CPU or its firmware, and has no state."""
    kind = register & _KIND_MASK
    if kind in _FIRMWARE or kind == _CACHE_SIZES or register in _IDENTIFICATION:
        return True
    # CRn = 0 of op1 0 and 1 is the identification space; op1 2 has CSSELR_EL1 and op1 4
    # VPIDR_EL2 and its kin, which are state.
    is_sysreg_id = kind == _SYSREG and register >> 14 & 3 == 3 and not register >> 7 & 15
    return is_sysreg_id and register >> 11 & 7 in (0, 1) and register != _OWN_IDENTITY


def is_unused(register: RegisterId, value: int) -> bool:
    """Return whether `value` is that of a register that no guest ever used."""
    if value in (0, _NEVER_WRITTEN, _RESET.get(register)):
        return True
    if register in _TIMER_CONTROLS:
        return not value & _CONTROL_ENABLE
    return register in _COUNTERS


def match_registers(
    given: Mapping[RegisterId, int], own: Mapping[RegisterId, int], *, who: str
) -> dict[RegisterId, int]:
    """Return the registers to write so that the vCPU called `who` has the state `given`.

    `own`: all registers of the vCPU with their reset values. The result has no identification
    registers. Raises StateError that names every register that cannot move.
    """
    lost = [
        f"{register_name(r)} = {value:#x}"
        for r, value in given.items()
        if r not in own and not is_identification(r) and not is_unused(r, value)
    ]
    absent = [register_name(r) for r in own if r not in given and _is_essential(r)]
    if lost or absent:
        parts = [f"lacks {', '.join(lost)}"] if lost else []
        parts += [f"needs {', '.join(absent)}, which the state lacks"] if absent else []
        raise StateError(f"{who} {' and '.join(parts)}")
    return wanted_registers(given, own)


def wanted_registers(
    given: Mapping[RegisterId, int], own: Mapping[RegisterId, int]
) -> dict[RegisterId, int]:
    """Return the values, of `given` or at reset, for the registers `own` of a vCPU."""
    return {
        r: reset if given.get(r, _NEVER_WRITTEN) == _NEVER_WRITTEN else given[r]
        for r, reset in own.items()
        if not is_identification(r)
    }


def differing_identification(
    given: Mapping[RegisterId, int], own: Mapping[RegisterId, int]
) -> list[RegisterId]:
    """Return the registers in which two CPUs identify themselves differently.

    A CPU without the register counts as one where it is zero, but for CNTFRQ_EL0: a state that
    does not have it comes from a version that could not read it on KVM.
    """
    registers = sorted(r for r in {*given, *own} if is_identification(r))
    if register_ids.CNTFRQ_EL0 not in given and register_ids.CNTFRQ_EL0 in own:
        registers.remove(register_ids.CNTFRQ_EL0)
    return [r for r in registers if (given.get(r) or 0) != (own.get(r) or 0)]


def accept_differences(
    registers: Sequence[RegisterId],
    given: Mapping[RegisterId, int],
    own: Mapping[RegisterId, int],
    policy: CpuPolicy,
    *,
    who: str,
) -> None:
    """Accept that the vCPU called `who` identifies itself differently, and report it.

    Raises StateError that names all `registers` if the policy does not allow it.
    """
    texts = [
        f"{register_name(r)} is {_said(given.get(r))} there and {_said(own.get(r))} here"
        for r in registers
    ]
    if texts and not policy.allow_mismatch:
        raise StateError(
            f"{who} is another CPU: {', '.join(texts)}; accept it with --allow-cpu-mismatch"
        )
    for text in texts:
        policy.tell(f"{who}: {text}")


def objections(checks: Sequence[Callable[[], object]]) -> str:
    """Make all checks of one state; return their objections in one line, "" without any."""
    found = []
    for check in checks:
        try:
            check()
        except StateError as error:
            found.append(str(error))
    return "; ".join(found)


def _said(value: int | None) -> str:
    return "absent" if value is None else f"{value:#x}"


def _is_essential(register: RegisterId) -> bool:
    """Return whether a state without this register is incomplete."""
    is_general = register_ids.x(0) <= register <= register_ids.SPSR_EL1
    return is_general or register in _ESSENTIAL


_ESSENTIAL: Final = frozenset(
    {
        register_ids.SCTLR_EL1,
        register_ids.TTBR0_EL1,
        register_ids.TTBR1_EL1,
        register_ids.TCR_EL1,
        register_ids.MAIR_EL1,
        register_ids.VBAR_EL1,
        register_ids.GCR_EL1,
        register_ids.RGSR_EL1,
        register_ids.TFSR_EL1,
        register_ids.TFSRE0_EL1,
    }
)
