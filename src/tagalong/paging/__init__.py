"""The guest's own stage-1 translation: which virtual addresses it maps to which guest RAM.

`Regime.of` reads the registers of one vCPU, `walk` follows the tables from there and lists all
that they map, `translate` looks up one address. Nothing that the tables say is trusted: the depth
is bounded by the architecture's levels, the work and the result by budgets.

Source: Arm Architecture Reference Manual (DDI 0487) D8, "The AArch64 Virtual Memory System
Architecture".
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.paging.regime import Half, Regime
    from tagalong.paging.walker import Budget, Mapping, ReadMemory, Walk, translate, walk
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.paging.regime": ("Half", "Regime"),
            "tagalong.paging.walker": (
                "Budget",
                "Mapping",
                "ReadMemory",
                "Walk",
                "translate",
                "walk",
            ),
        },
    )

__all__ = ["Budget", "Half", "Mapping", "ReadMemory", "Regime", "Walk", "translate", "walk"]
