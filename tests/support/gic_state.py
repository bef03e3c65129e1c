"""A GIC's description, and a state of it in which every word is another one."""

from itertools import count

from tagalong.machine import GicDescription, GicState
from tagalong.machine.gic import (
    FIRST_PPI,
    REDISTRIBUTOR,
    Icc,
    RegisterGroup,
    cpu_interface_registers,
    distributor_registers,
)

GIC = GicDescription(distributor=0x0800_0000, redistributors=0x080A_0000, spi_count=96)
ICC_CTLR = 0x8400  # 5 bits of priority, affinity 3


def gic_state(*, vcpus: int = 1, gic: GicDescription = GIC) -> GicState:
    """Return a state of the form of `gic`, with values that tell registers apart."""
    values = count(1)

    def filled(groups: tuple[RegisterGroup, ...]) -> dict[int, int]:
        return {offset: next(values) for group in groups for offset in group.offsets}

    return GicState(
        distributor=filled(distributor_registers(gic.spi_count)),
        redistributors=tuple(filled(REDISTRIBUTOR) for _ in range(vcpus)),
        cpu_interfaces=tuple(
            {int(each): next(values) for each in cpu_interface_registers(ICC_CTLR)}
            | {int(Icc.ICC_CTLR_EL1): ICC_CTLR}
            for _ in range(vcpus)
        ),
        spi_levels=tuple(next(values) for _ in range(gic.spi_count // 32)),
        ppi_levels=tuple(next(values) << FIRST_PPI for _ in range(vcpus)),
    )
