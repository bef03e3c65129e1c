"""Strategy `prctl`: the calling thread's tag checking off around the access, then on again.

PR_SET_TAGGED_ADDR_CTRL is per thread (Documentation/arch/arm64/memory-tagging-extension.rst),
so nothing that the thread touches meanwhile is checked.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from tagalong.access.host import PR_MTE_TCF_MASK, CallFlags, Need, View
from tagalong.access.strategy import Hazard, Mapped, storing
from tagalong.memory import Gpa


class Prctl(Mapped):
    """See the module."""

    name: ClassVar[str] = "prctl"
    summary: ClassVar[str] = "the thread's tag checking off around the access, by prctl"
    needs: ClassVar = frozenset({Need.ARM64, Need.MTE, Need.PROT_MTE})
    hazards: ClassVar = frozenset(
        {Hazard.LOSES_CHECKING, Hazard.THREAD_AFFINE, Hazard.POPULATES_MEMORY}
    )
    flags = CallFlags.CHECKS_OFF

    def lend(self, gpa: Gpa, length_bytes: int) -> AbstractContextManager[int]:
        """Yield the address, with checking off in this thread within the block."""
        return self._unchecked(gpa, length_bytes)

    @contextmanager
    def _unchecked(self, gpa: Gpa, length_bytes: int) -> Iterator[int]:
        address = self.host.address(View.TAGGED, gpa, length_bytes)
        before = self.host.get_tagged_addr_ctrl()
        try:
            self.host.set_tagged_addr_ctrl(before & ~PR_MTE_TCF_MASK)
            with storing(self.host, gpa, length_bytes):
                yield address
        finally:
            self.host.set_tagged_addr_ctrl(before)
