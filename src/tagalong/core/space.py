"""What the addresses of a core mean."""

from enum import IntEnum


class Space(IntEnum):
    """What the addresses of a core are."""

    PHYSICAL = 0
    """Guest physical addresses: the whole machine, which can be restored."""
    KERNEL = 1
    """Virtual addresses that TTBR1_EL1 of one vCPU translates."""
    USER = 2
    """Virtual addresses that TTBR0_EL1 of one vCPU translates."""
