"""What becomes of a vCPU's registers on a machine that has other ones.

Machines differ: in what their CPU says of itself, and in which registers their kernel
knows. A state moves from one to another by these rules, none of which loses anything that
the guest could miss without naming it:

- A register that both have moves, whatever its value.
- A register that the destination does not have is refused by name, unless its value is
  what it is in a CPU on which nobody ever used it.
- A register that only the destination has keeps its reset value, unless a state without it
  is no whole state.
- Identification (what the CPU and its firmware say they are) must be equal. Where it is
  not, the guest may believe in features that are not there: that is accepted only when the
  operator said so, and then it is told what was accepted.

Sources: Arm ARM D17.1.1 (the ID scheme); Linux arch/arm64/kvm/sys_regs.c (reset_unknown),
Documentation/virt/kvm/arm/fw-pseudo-registers.rst.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tagalong.errors import StateError
from tagalong.machine import RegisterId, register_ids
from tagalong.machine.register_ids import register_name

# KVM's mark for a register that the architecture leaves UNKNOWN at reset.
_NEVER_WRITTEN: Final = 0x1DE7_EC7E_DBAD_C0DE

_KIND_MASK: Final = 0x0FFF_0000
_CACHE_SIZES: Final = 0x0011_0000
_SYSREG: Final = 0x0013_0000
_FIRMWARE: Final = frozenset({0x0014_0000, 0x0016_0000})

_CONTROL_ENABLE: Final = 1
_TIMER_CONTROLS: Final = frozenset(
    {register_ids.sysreg(3, 3, 14, 3, 1), register_ids.sysreg(3, 3, 14, 2, 1)}
)
_COUNTERS: Final = frozenset({register_ids.TIMER_COUNT, register_ids.sysreg(3, 3, 14, 0, 1)})
# Reset values other than zero, of registers that only some machines have.
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


@dataclass(frozen=True)
class CpuPolicy:
    """Whether a CPU that identifies itself differently will do.

    `tell` gets a line for each difference that was accepted.
    """

    allow_mismatch: bool = False
    tell: Callable[[str], None] = lambda _: None

    def quietly(self) -> "CpuPolicy":
        """Return the same policy that tells nobody, for a check before the real thing."""
        return CpuPolicy(self.allow_mismatch)


STRICT: Final = CpuPolicy()


def is_identification(register: RegisterId) -> bool:
    """Return whether a register says what the CPU or its firmware is, and holds no state."""
    kind = register & _KIND_MASK
    if kind in _FIRMWARE or kind == _CACHE_SIZES or register in _IDENTIFICATION:
        return True
    # CRn = 0 of op1 0 and 1 is the identification space; op1 2 has CSSELR_EL1 and op1 4
    # VPIDR_EL2 and its kin, which are state.
    is_sysreg_id = kind == _SYSREG and register >> 14 & 3 == 3 and not register >> 7 & 15
    return is_sysreg_id and register >> 11 & 7 in (0, 1) and register != _OWN_IDENTITY


def is_unused(register: RegisterId, value: int) -> bool:
    """Return whether `value` is what the register holds if no guest ever used it."""
    if value in (0, _NEVER_WRITTEN, _RESET.get(register)):
        return True
    if register in _TIMER_CONTROLS:
        return not value & _CONTROL_ENABLE
    return register in _COUNTERS


def match_registers(
    given: Mapping[RegisterId, int], own: Mapping[RegisterId, int], *, who: str
) -> dict[RegisterId, int]:
    """Return the registers to write so that `who` becomes what `given` says.

    `own`: all registers of the vCPU with their reset values. Identification is not among
    the result. Raises StateError that names every register which stands in the way.
    """
    lost = [
        f"{register_name(r)} = {value:#x}"
        for r, value in given.items()
        if r not in own and not is_identification(r) and not is_unused(r, value)
    ]
    absent = [register_name(r) for r in own if r not in given and _is_essential(r)]
    if lost or absent:
        parts = [f"does not have {', '.join(lost)}"] if lost else []
        parts += [f"was not given {', '.join(absent)}"] if absent else []
        raise StateError(f"{who} {' and '.join(parts)}")
    return wanted_registers(given, own)


def wanted_registers(
    given: Mapping[RegisterId, int], own: Mapping[RegisterId, int]
) -> dict[RegisterId, int]:
    """Return what of `given` a vCPU with the registers `own` can be asked to hold."""
    return {
        r: reset if given.get(r, _NEVER_WRITTEN) == _NEVER_WRITTEN else given[r]
        for r, reset in own.items()
        if not is_identification(r)
    }


def differing_identification(
    given: Mapping[RegisterId, int], own: Mapping[RegisterId, int]
) -> list[RegisterId]:
    """Return the registers in which two CPUs say different things of themselves.

    Zero is what a CPU without the register says.
    """
    registers = sorted(r for r in {*given, *own} if is_identification(r))
    return [r for r in registers if (given.get(r) or 0) != (own.get(r) or 0)]


def accept_differences(
    registers: Sequence[RegisterId],
    given: Mapping[RegisterId, int],
    own: Mapping[RegisterId, int],
    policy: CpuPolicy,
    *,
    who: str,
) -> None:
    """Accept that `who` identifies itself differently in `registers`, and tell so.

    Raises StateError that names them all if the policy does not allow it.
    """
    texts = [
        f"{register_name(r)} {_said(given.get(r))} there and {_said(own.get(r))} here"
        for r in registers
    ]
    if texts and not policy.allow_mismatch:
        raise StateError(
            f"{who} is another CPU: {', '.join(texts)}; --allow-cpu-mismatch accepts that"
        )
    for text in texts:
        policy.tell(f"{who}: {text}")


def objections(checks: Sequence[Callable[[], object]]) -> str:
    """Return what these checks of one state object to, "" if nothing; all of them are made."""
    found = []
    for check in checks:
        try:
            check()
        except StateError as error:
            found.append(str(error))
    return "; ".join(found)


def _said(value: int | None) -> str:
    return "not known" if value is None else f"{value:#x}"


def _is_essential(register: RegisterId) -> bool:
    """Return whether no state is whole without this register."""
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
