"""Strategy `match`: read each granule's tag and access it through a pointer that carries it.

Checking stays on, and that is the trouble: between LDG and the access a running guest may
change the tag.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, ClassVar

from tagalong._lazy import module_when_used
from tagalong.access.host import Need, View
from tagalong.access.routines import Routine
from tagalong.access.strategy import Hazard, Mapped, storing
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO, TAG_MASK

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from tagalong.memory import Gpa
    from tagalong.mte import pointers
else:
    pointers = module_when_used("tagalong.mte.pointers")
    np = module_when_used("numpy")


class Match(Mapped):
    """See the module."""

    name: ClassVar[str] = "match"
    summary: ClassVar[str] = "each granule through a pointer with the tag that LDG just read"
    needs: ClassVar = frozenset({Need.ARM64, Need.MTE, Need.PROT_MTE})
    hazards: ClassVar = frozenset(
        {Hazard.RACES_WITH_GUEST, Hazard.NOT_FOR_SYSCALLS, Hazard.POPULATES_MEMORY}
    )
    load = Routine.MATCH_LOAD
    store = Routine.MATCH_STORE

    def lend(self, gpa: Gpa, length_bytes: int) -> AbstractContextManager[int]:
        """Yield the address with the first granule's tag: a pointer has one tag only."""
        return self._with_tag(gpa, length_bytes)

    @contextmanager
    def _with_tag(self, gpa: Gpa, length_bytes: int) -> Iterator[int]:
        address = self.host.address(View.TAGGED, gpa, length_bytes)
        pair = np.empty(1, np.uint8)
        with self.host.borrow(pair) as buffer:
            self.host.call(Routine.READ_TAGS, buffer, address - gpa % PACKED_RATIO, 1)
        odd = gpa % PACKED_RATIO >= GRANULE_BYTES
        with storing(self.host, gpa, length_bytes):
            yield pointers.with_logical_tag(address, int(pair[0]) >> 4 * odd & TAG_MASK)
