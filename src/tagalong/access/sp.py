"""Strategy `sp`: [SP, #imm], the one addressing form that the architecture never checks.

Arm ARM, "Tag Unchecked accesses": a base register plus immediate offset with SP as the
base. So SP moves into guest memory for the copy. Whatever needs a stack meanwhile has none:
the host blocks signals and gives a fault's handler a stack of its own.
"""

from typing import ClassVar

from tagalong.access.host import CallFlags, Need
from tagalong.access.routines import Routine
from tagalong.access.strategy import Hazard, Mapped


class Sp(Mapped):
    """See the module."""

    name: ClassVar[str] = "sp"
    summary: ClassVar[str] = "[SP, #imm], which is never checked: SP moved into guest memory"
    needs: ClassVar = frozenset({Need.ARM64, Need.MTE, Need.PROT_MTE})
    hazards: ClassVar = frozenset(
        {Hazard.HOLDS_SIGNALS, Hazard.NOT_FOR_SYSCALLS, Hazard.POPULATES_MEMORY}
    )
    load = Routine.SP_LOAD
    store = Routine.SP_STORE
    flags = CallFlags.STACK_APART
