"""The guest of another VMM whose tags arrive, as a Machine."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tagalong.beside.guest import BesideGuest
from tagalong.beside.link import LibraryLink
from tagalong.beside.moments import Moments
from tagalong.errors import MachineMismatchError, MigrationError
from tagalong.machine import MachineDescription
from tagalong.memory import PageBitmap, page_runs


class ArrivingGuest(BesideGuest):
    """A guest whose tags arrive. `touched`: pages that an earlier attempt wrote tags to.

    `tags_in_place`: the VMM here has the source's own memory, so the tags are compared, and none
    is written: a write would be one to the source's guest, too.
    """

    def __init__(
        self,
        link: LibraryLink,
        touched: dict[int, PageBitmap],
        *,
        tags_in_place: bool = False,
        guest_id: bytes = b"",
    ) -> None:
        super().__init__(link, guest_id=guest_id)
        self.description = replace(self.description, tags_in_place=tags_in_place)
        self._touched = touched
        self.moments = Moments()

    def require_like(self, description: MachineDescription) -> None:
        """Raise MachineMismatchError naming what differs from the source's VM."""
        name_here, name_there = self.description.guest_id, description.guest_id
        if name_here and name_there and name_here != name_there:
            raise MachineMismatchError(
                "the source's VMM has another UUID than the one here, so these tags are of another "
                "guest: give the address at which this guest's own destination awaits its tags, or "
                "both VMMs the same UUID (-uuid)"
            )
        here, there = self.description.page_size_bytes, description.page_size_bytes
        if here != there:
            raise MachineMismatchError(
                f"the source's host has pages of {there:#x} bytes, this one of {here:#x}: tags "
                "move beside a VMM between hosts with pages of one size"
            )
        ours = {(it.gpa, it.size_bytes) for it in self.description.regions}
        theirs = {(it.gpa, it.size_bytes) for it in description.regions}
        parts = [
            *(f"the source's VM has memory {_range(it)}, which is missing here"
              for it in sorted(theirs - ours)),
            *(f"the VM here has memory {_range(it)}, which the source's does not have"
              for it in sorted(ours - theirs)),
        ]  # fmt: skip
        if description.vcpu_count != self.description.vcpu_count:
            parts.append(
                f"the source's VM has {description.vcpu_count} vCPUs, the one here "
                f"{self.description.vcpu_count}"
            )
        if parts:
            raise MachineMismatchError(
                f"{'; '.join(parts)}: start both VMMs with the same machine, memory and devices"
            )

    def write_page_tags(
        self, region: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]
    ) -> None:
        """As BesideGuest; the pages count as touched from then on."""
        if self.description.tags_in_place:
            raise MigrationError("tags that are in place are compared, never written")
        self.moments.note("arrived")
        slot = self._slots[region]
        count = self.memory.regions[region].page_count
        if slot.gpa not in self._touched:
            self._touched[slot.gpa] = PageBitmap(count)
        self._touched[slot.gpa].set_runs(page_runs(pages))
        super().write_page_tags(region, pages, packed)
        self.moments.note("written")

    def populated_pages(self) -> list[PageBitmap]:
        """Return the pages that can have tags other than zero: those that were written to.

        With tags in place, all that are there.
        """
        if self.description.tags_in_place:
            return self._all_touched()
        return [
            self._touched.get(slot.gpa, PageBitmap(region.page_count)).copy()
            for slot, region in zip(self._slots, self.memory.regions, strict=True)
        ]

    def _all_touched(self) -> list[PageBitmap]:
        """Return all pages that are there.

        If their tags turn out to be others, a later attempt writes to all of them.
        """
        populated = super().populated_pages()
        for slot, pages in zip(self._slots, populated, strict=True):
            self._touched[slot.gpa] = pages.copy()
        return populated


def _range(region: tuple[int, int]) -> str:
    gpa, size_bytes = region
    return f"[{gpa:#x}, {gpa + size_bytes:#x})"
