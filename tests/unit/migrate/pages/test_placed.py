"""Which pages are held: flags to records and back."""

from hypothesis import given
from hypothesis import strategies as st

from tagalong.memory import PageBitmap
from tagalong.migrate.pages.placed import add_held, records_of_held
from tagalong.wire.limits import MAX_HELD_PAGES
from tests.support.fake_machine import FakeMachine, describe

PAGE = 4096
SIZES = (0x60 * PAGE, 9 * PAGE)


@given(st.sets(st.integers(0, 0x5F)), st.sets(st.integers(0, 8)))
def test_held_pages_come_back_as_they_were(first: set[int], second: set[int]) -> None:
    machine = FakeMachine(describe(*SIZES))
    regions = machine.memory.regions
    bitmaps = [
        PageBitmap.from_pages(region.page_count, sorted(pages))
        for region, pages in zip(regions, (first, second), strict=True)
    ]

    found = [PageBitmap(region.page_count) for region in regions]
    for held in records_of_held(regions, [bitmap.flags() for bitmap in bitmaps]):
        add_held(found, regions, held)
    machine.close()

    assert found == bitmaps


def test_held_of_a_large_region_is_cut_into_records() -> None:
    machine = FakeMachine(describe((2 * MAX_HELD_PAGES + 5) * PAGE))
    (region,) = machine.memory.regions
    last = PageBitmap.from_pages(region.page_count, [0, region.page_count - 1])

    records = list(records_of_held([region], [last.flags()]))
    machine.close()

    assert [held.page_count for held in records] == [MAX_HELD_PAGES, 5]
    assert records[1].bits == b"\x10"
