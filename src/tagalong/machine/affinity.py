"""The affinity of a machine's vCPUs: what MPIDR_EL1, PSCI, the GIC and a device tree call them.

KVM numbers them like this (Linux, arch/arm64/kvm/sys_regs.c, reset_mpidr), and the embedded machine
does as well: 16 vCPUs share an Aff1, because the target list of an SGI can name as many.
"""

from typing import Final

_AFF0_BITS: Final = 4
_AFF0_MASK: Final = (1 << _AFF0_BITS) - 1
_AFF_BITS: Final = 8
_AFF_MASK: Final = (1 << _AFF_BITS) - 1


def vcpu_affinity(index: int) -> int:
    """Return Aff2 to Aff0, a byte each, of vCPU number `index`, from 0."""
    rest = index >> _AFF0_BITS
    aff1, aff2 = rest & _AFF_MASK, rest >> _AFF_BITS & _AFF_MASK
    return index & _AFF0_MASK | aff1 << _AFF_BITS | aff2 << 2 * _AFF_BITS


def vcpu_of_affinity(affinity: int, vcpu_count: int) -> int | None:
    """Return the number of the vCPU with this affinity, None if none of `vcpu_count` has it."""
    aff0, rest = affinity & _AFF_MASK, affinity >> _AFF_BITS
    index = rest << _AFF0_BITS | aff0
    return index if index < vcpu_count and vcpu_affinity(index) == affinity else None
