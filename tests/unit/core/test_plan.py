"""What goes where: alignment, and what is refused before a file is made."""

import pytest

from tagalong.core.plan import CorePlan, CoreSegment
from tagalong.errors import UsageError
from tagalong.memory import Gpa

PAGE = 4096
RAM = 0x4000_0000


def segment(address: int = RAM, size: int = PAGE, *, physical: int = RAM) -> CoreSegment:
    return CoreSegment(address, Gpa(physical), size, has_tags=True)


@pytest.mark.parametrize("page", [4096, 16384, 65536])
def test_plan_places_every_plane_at_a_page(page: int) -> None:
    segments = [segment(RAM + number * 0x100_0000, 3 * page) for number in range(100)]

    plan = CorePlan(segments, page)

    taken = [(place.data, 3 * page) for place in plan.places]
    taken += [(place.tags, 3 * page // 32) for place in plan.places if place.tags is not None]
    assert len(taken) == 200
    assert all(start % page == 0 for start, _ in taken)
    ends = [start + size for start, size in taken]
    starts = [start for start, _ in taken[1:]] + [plan.notes_offset(100)]
    assert all(end <= start for end, start in zip(ends, starts, strict=True))
    assert taken[0][0] >= len(plan.headers(0))


def test_plan_without_tags_has_no_tag_segment() -> None:
    plan = CorePlan([CoreSegment(RAM, Gpa(RAM), PAGE, has_tags=False)], PAGE)

    assert plan.places[0].tags is None
    assert plan.header_count == 2
    assert plan.notes_offset(100) == 2 * PAGE


def test_notes_that_fit_go_in_front_of_memory_and_others_behind_it() -> None:
    plan = CorePlan([segment()], PAGE, notes_room_bytes=1000)

    headers = 64 + 3 * 56
    assert plan.places[0].data == PAGE
    assert plan.notes_offset(1000) == plan.notes_offset(PAGE - headers) == headers
    assert plan.notes_offset(PAGE - headers + 1) == 3 * PAGE
    assert len(plan.headers(1000)) == headers


@pytest.mark.parametrize(
    ("segments", "page", "message"),
    [
        ([], PAGE, "a core needs at least one segment"),
        ([segment()], 8192, "page size 0x2000 is not one of 0x1000, 0x4000, 0x10000"),
        ([segment(RAM + 1)], PAGE, "a segment's address 0x40000001 is not a multiple of the page"),
        ([segment(physical=RAM + 16)], PAGE, "physical address 0x40000010 is not a multiple"),
        ([segment(size=PAGE - 32)], PAGE, "a segment's size 0xfe0 is not a multiple"),
        ([segment(-PAGE)], PAGE, "a segment's address -0x1000 is not"),
        (
            [segment(size=0)],
            PAGE,
            r"a segment \[0x40000000, 0x40000000\) is empty or leaves memory",
        ),
        (
            [segment((1 << 64) - PAGE, 2 * PAGE)],
            PAGE,
            r"0x10000000000001000\) is empty or leaves memory",
        ),
        (
            [segment(RAM + PAGE), segment(RAM, 2 * PAGE)],
            PAGE,
            r"\[0x40000000, 0x40002000\) and \[0x40001000, 0x40002000\) overlap",
        ),
    ],
)
def test_plan_of_what_cannot_be_is_refused(
    segments: list[CoreSegment], page: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        CorePlan(segments, page)


def test_plan_takes_two_views_of_the_same_physical_memory() -> None:
    plan = CorePlan([segment(0x1000), segment(0x2000)], PAGE)

    assert plan.places[0].data != plan.places[1].data


def test_plan_takes_the_last_page_of_the_address_space() -> None:
    assert CorePlan([segment((1 << 64) - PAGE)], PAGE).segments[0].end == 1 << 64
