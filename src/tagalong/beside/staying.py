"""A guest whose VMM is replaced on its host: another VMM takes its memory over, tags and all.

QEMU's `cpr-transfer` does that: the new QEMU maps the same file, so KVM finds each tag where
it was. Nothing needs to be sent, and nothing may be written: both ends have the same pages. What is
left is to compare, once no vCPU runs.
"""

from dataclasses import replace

from tagalong.beside.guest import DepartingGuest, VmmDeparture
from tagalong.beside.link import LibraryLink
from tagalong.beside.link_format import Harvest
from tagalong.memory import PageBitmap


class StayingGuest(DepartingGuest):
    """A guest whose memory another VMM on this host takes over as it is: its tags stay in place.

    None of them is sent; both ends compare a digest of all of them once the guest has stopped.
    """

    def __init__(
        self, link: LibraryLink, departure: VmmDeparture, *, guest_id: bytes = b""
    ) -> None:
        super().__init__(link, departure, guest_id=guest_id)
        self.description = replace(self.description, tags_in_place=True)

    def _harvest(self, kind: Harvest) -> list[PageBitmap]:
        state = self.link.state()
        self._require_same_slots(state)
        if kind is Harvest.FINAL:
            self._note_final(state)
        return [PageBitmap(region.page_count) for region in self.memory.regions]
