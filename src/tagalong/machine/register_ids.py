"""Names for registers: KVM's ONE_REG ids, on every kind of machine.

Source: Linux, arch/arm64/include/uapi/asm/kvm.h (KVM_REG_ARM_CORE_REG, ARM64_SYS_REG).
"""

from typing import Final

from tagalong.machine import RegisterId

_ARM64_U64: Final = 0x6030_0000_0000_0000
_SIZE_SHIFT: Final = 52
_SIZE_MASK: Final = 0xF
_CORE: Final = _ARM64_U64 | 0x10 << 16
_SYSREG: Final = _ARM64_U64 | 0x13 << 16


def core(index: int) -> RegisterId:
    """Return the id of the 64-bit register `index` of struct kvm_regs (x0 is 0, pc is 32)."""
    return RegisterId(_CORE | 2 * index)


def sysreg(op0: int, op1: int, crn: int, crm: int, op2: int) -> RegisterId:
    """Return the id of the system register with this MRS encoding."""
    return RegisterId(_SYSREG | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)


GENERAL_REGISTERS: Final = 31
VECTOR_REGISTERS: Final = 32


def x(number: int) -> RegisterId:
    """Return the id of general-purpose register `number`, 0 to 30."""
    return core(number)


_VECTORS: Final = range(0x6040_0000_0010_0054, 0x6040_0000_0010_00D4, 4)


def v(number: int) -> RegisterId:
    """Return the id of the 128-bit SIMD register `number`, 0 to 31."""
    return RegisterId(_VECTORS[number])


SP_EL0: Final = core(31)
PC: Final = core(32)
PSTATE: Final = core(33)
SP_EL1: Final = core(34)
ELR_EL1: Final = core(35)
SPSR_EL1: Final = core(36)
SP_EL2: Final = sysreg(3, 6, 4, 1, 0)
FPSR: Final = RegisterId(0x6020_0000_0010_00D4)
FPCR: Final = RegisterId(0x6020_0000_0010_00D5)

MIDR_EL1: Final = sysreg(3, 0, 0, 0, 0)
MPIDR_EL1: Final = sysreg(3, 0, 0, 0, 5)
REVIDR_EL1: Final = sysreg(3, 0, 0, 0, 6)
ID_AA64PFR0_EL1: Final = sysreg(3, 0, 0, 4, 0)
ID_AA64PFR1_EL1: Final = sysreg(3, 0, 0, 4, 1)
ID_AA64DFR0_EL1: Final = sysreg(3, 0, 0, 5, 0)
ID_AA64ISAR0_EL1: Final = sysreg(3, 0, 0, 6, 0)
ID_AA64ISAR1_EL1: Final = sysreg(3, 0, 0, 6, 1)
ID_AA64ISAR2_EL1: Final = sysreg(3, 0, 0, 6, 2)
ID_AA64MMFR0_EL1: Final = sysreg(3, 0, 0, 7, 0)
ID_AA64MMFR1_EL1: Final = sysreg(3, 0, 0, 7, 1)
ID_AA64MMFR2_EL1: Final = sysreg(3, 0, 0, 7, 2)
CLIDR_EL1: Final = sysreg(3, 1, 0, 0, 1)
GMID_EL1: Final = sysreg(3, 1, 0, 0, 4)
CTR_EL0: Final = sysreg(3, 3, 0, 0, 1)
DCZID_EL0: Final = sysreg(3, 3, 0, 0, 7)
CNTFRQ_EL0: Final = sysreg(3, 3, 14, 0, 0)
SCTLR_EL1: Final = sysreg(3, 0, 1, 0, 0)
CPACR_EL1: Final = sysreg(3, 0, 1, 0, 2)
RGSR_EL1: Final = sysreg(3, 0, 1, 0, 5)
GCR_EL1: Final = sysreg(3, 0, 1, 0, 6)
TTBR0_EL1: Final = sysreg(3, 0, 2, 0, 0)
TTBR1_EL1: Final = sysreg(3, 0, 2, 0, 1)
TCR_EL1: Final = sysreg(3, 0, 2, 0, 2)
ESR_EL1: Final = sysreg(3, 0, 5, 2, 0)
TFSR_EL1: Final = sysreg(3, 0, 5, 6, 0)
TFSRE0_EL1: Final = sysreg(3, 0, 5, 6, 1)
FAR_EL1: Final = sysreg(3, 0, 6, 0, 0)
MAIR_EL1: Final = sysreg(3, 0, 10, 2, 0)
VBAR_EL1: Final = sysreg(3, 0, 12, 0, 0)

# The timers. KVM exchanged the encodings of CNTVCT_EL0 and CNTV_CVAL_EL0, and has to keep that.
TIMER_CONTROL: Final = sysreg(3, 3, 14, 3, 1)
TIMER_COMPARE: Final = sysreg(3, 3, 14, 0, 2)
TIMER_COUNT: Final = sysreg(3, 3, 14, 3, 2)
PTIMER_CONTROL: Final = sysreg(3, 3, 14, 2, 1)
PTIMER_COMPARE: Final = sysreg(3, 3, 14, 2, 2)
PTIMER_COUNT: Final = sysreg(3, 3, 14, 0, 1)

_NAMES: Final = {
    value: name
    for name, value in list(globals().items())
    if name.isupper() and not name.startswith("_") and isinstance(value, int)
}


def register_bytes(register: int) -> int:
    """Return a register's size in bytes, which its id holds (bits 55:52, log2).

    >>> register_bytes(v(0))
    16
    """
    return 1 << (register >> _SIZE_SHIFT & _SIZE_MASK)


_OTHER_KINDS: Final = {
    0x6020_0000_0011_0000: "cache size",
    0x6030_0000_0014_0000: "firmware register",
    0x6030_0000_0016_0000: "firmware features",
}


def register_name(register: RegisterId) -> str:
    """Return a name for messages: the architecture's, or the encoding as MRS writes it."""
    if register in _NAMES:
        return _NAMES[register]
    if x(0) <= register <= x(30):
        return f"x{(register - x(0)) // 2}"
    if register in _VECTORS:
        return f"v{_VECTORS.index(register)}"
    if register >> 16 == _SYSREG >> 16:
        return (
            f"S{register >> 14 & 3}_{register >> 11 & 7}_C{register >> 7 & 15}"
            f"_C{register >> 3 & 15}_{register & 7}"
        )
    for kind, name in _OTHER_KINDS.items():
        if register >> 16 == kind >> 16:
            return f"{name} {register & 0xFFFF:#x}"
    return f"register {register:#018x}"
