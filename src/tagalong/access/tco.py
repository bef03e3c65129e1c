"""Strategy `tco`: PSTATE.TCO set around the copy, so that no access of it is checked.

It is an MSR only, so the cheapest switch of all. The kernel clears TCO in signal handlers and
restores it after them; it ignores TCO when a system call reads the memory.
"""

from typing import ClassVar

from tagalong.access.host import Need
from tagalong.access.routines import Routine
from tagalong.access.strategy import Hazard, Mapped


class Tco(Mapped):
    """See the module."""

    name: ClassVar[str] = "tco"
    summary: ClassVar[str] = "PSTATE.TCO set around the copy"
    needs: ClassVar = frozenset({Need.ARM64, Need.MTE, Need.PROT_MTE})
    hazards: ClassVar = frozenset(
        {Hazard.LOSES_CHECKING, Hazard.NOT_FOR_SYSCALLS, Hazard.POPULATES_MEMORY}
    )
    load = Routine.COPY_TCO
    store = Routine.COPY_TCO
