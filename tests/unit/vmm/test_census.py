"""Counting granules that carry a tag."""

import os

import numpy as np

from tagalong.machine import MachineDescription, MachinePages, RegionDescription
from tagalong.memory import Gpa, GuestMemory, PageBitmap, Region
from tagalong.qapi.census import TagCensus
from tagalong.vmm import census
from tagalong.vmm.census import take_census
from tests.support.scripted_machine import ScriptedMachine

LOW, HIGH = Gpa(0x4000_0000), Gpa(0x1_0000_0000)
SIZE_BYTES = 0x40000


class TaggedMachine(ScriptedMachine):
    """A scripted machine with memory."""

    def __init__(self) -> None:
        regions = tuple(RegionDescription(gpa, SIZE_BYTES) for gpa in (LOW, HIGH))
        super().__init__(MachineDescription(4096, 1, 3, regions))
        self.ram = GuestMemory([Region.create(r.gpa, r.size_bytes) for r in regions])

    @property
    def memory(self) -> GuestMemory:
        return self.ram

    def read_tags(self, gpa: int, length_bytes: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        return self.ram.read_tags(gpa, length_bytes)

    def populated_pages(self) -> list[PageBitmap]:
        return [region.populated_pages() for region in self.ram.regions]


def test_take_census_untouched_machine_has_none_and_touches_nothing() -> None:
    machine = TaggedMachine()

    result = take_census(MachinePages(machine))

    assert result == TagCensus(granules=2 * SIZE_BYTES // 16, tagged_granules=0)
    assert os.fstat(machine.ram.regions[0].tags_fd).st_blocks == 0
    machine.ram.close()


def test_take_census_counts_both_nibbles_in_all_regions() -> None:
    machine = TaggedMachine()
    machine.ram.write_tags(LOW, np.array([0x10, 0x01, 0x11, 0x00, 0xFF], np.uint8))
    machine.ram.write_tags(Gpa(HIGH + SIZE_BYTES - 32), np.array([0x0A], np.uint8))
    machine.ram.write(Gpa(LOW + 0x8000), b"data without tags")

    assert take_census(MachinePages(machine)).tagged_granules == 1 + 1 + 2 + 2 + 1
    machine.ram.close()


def test_take_census_in_pieces_counts_the_same() -> None:
    machine = TaggedMachine()
    machine.ram.write_tags(LOW, np.full(SIZE_BYTES // 32, 0x77, np.uint8))
    whole = take_census(MachinePages(machine))
    pieces, census._PIECE_PAGES = census._PIECE_PAGES, 5
    try:
        assert (
            take_census(MachinePages(machine))
            == whole
            == TagCensus(2 * SIZE_BYTES // 16, SIZE_BYTES // 16)
        )
    finally:
        census._PIECE_PAGES = pieces
    machine.ram.close()
