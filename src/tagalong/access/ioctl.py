"""Strategy `ioctl`: a mapping without PROT_MTE, tags through KVM_ARM_MTE_COPY_TAGS.

What KVM got in the end (Linux 5.13, Documentation/virt/kvm/api.rst 4.130): no access of the
VMM's is ever tag checked, and the kernel copies the tags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tagalong._lazy import module_when_used
from tagalong.access.host import Direction, Fault, Need, View
from tagalong.access.strategy import Hazard, Mapped, check_pages, pieces, storing
from tagalong.memory import Gpa
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO, TAGS_PER_BYTE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    import tagalong.mte.tags as mte_tags
else:
    mte_tags = module_when_used("tagalong.mte.tags")
    np = module_when_used("numpy")

# Packed bytes at a time: the kernel's form, a tag a byte, takes twice that.
_AT_ONCE = 128 << 10


class Ioctl(Mapped):
    """See the module."""

    name: ClassVar[str] = "ioctl"
    summary: ClassVar[str] = "a mapping without PROT_MTE, tags through KVM_ARM_MTE_COPY_TAGS"
    needs: ClassVar = frozenset({Need.ARM64, Need.COPY_TAGS})
    hazards: ClassVar = frozenset({Hazard.POPULATES_MEMORY, Hazard.NOT_WHILE_LOGGED})
    view = View.PLAIN

    def read_tags(self, gpa: Gpa, packed: NDArray[np.uint8]) -> Fault | None:
        """Have KVM copy the tags."""
        check_pages(self.host, gpa, packed)
        for at, part in pieces(packed, _AT_ONCE):
            tags = np.empty(part.size * TAGS_PER_BYTE, np.uint8)
            self.host.copy_tags(Gpa(gpa + at * PACKED_RATIO), tags, Direction.FROM_GUEST)
            part[:] = mte_tags.pack(tags)
        return None

    def write_tags(self, gpa: Gpa, packed: NDArray[np.uint8]) -> Fault | None:
        """Have KVM set the tags."""
        check_pages(self.host, gpa, packed)
        for at, part in pieces(packed, _AT_ONCE):
            first = Gpa(gpa + at * PACKED_RATIO)
            with storing(self.host, first, part.size * PACKED_RATIO):
                self.host.copy_tags(first, mte_tags.unpack(part), Direction.TO_GUEST)
        return None

    def write_zeros(self, gpa: Gpa, packed: NDArray[np.uint8]) -> Fault | None:
        """Write zeros, then have KVM set the tags."""
        zeros = np.zeros(packed.size * TAGS_PER_BYTE * GRANULE_BYTES, np.uint8)
        return self.write(gpa, zeros) or self.write_tags(gpa, packed)
