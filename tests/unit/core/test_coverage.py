"""Who answers for an address, compared with asking every segment for every address."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tagalong.binary.elf import ProgramHeader
from tagalong.core.coverage import Coverage
from tagalong.core.regions import overlay

END = 40


def header(at: int, start: int, size: int) -> ProgramHeader:
    return ProgramHeader(at, 1, 7, 0, start, 0, size, size, 0, size)


@st.composite
def segment_lists(draw: st.DrawFn) -> list[tuple[ProgramHeader, int]]:
    ranges = draw(st.lists(st.tuples(st.integers(0, END - 8), st.integers(0, 8)), max_size=8))
    return [(header(n, start, size), start + size) for n, (start, size) in enumerate(ranges)]


def owner(segments: list[tuple[ProgramHeader, int]], address: int) -> ProgramHeader | None:
    return next((h for h, stop in segments if h.address <= address < stop), None)


@given(segment_lists())
def test_pieces_say_for_every_address_the_first_segment_that_has_it(
    segments: list[tuple[ProgramHeader, int]],
) -> None:
    coverage = Coverage(segments)

    for address in range(END):
        found = [p.owner for p in coverage.pieces if p.start <= address < p.stop]
        expected = owner(segments, address)
        assert found == ([expected] if expected else [])
    starts = [piece.start for piece in coverage.pieces]
    assert starts == sorted(starts)


@given(segment_lists(), st.integers(0, END), st.integers(0, END))
def test_cover_gives_the_pieces_cut_to_the_range(
    segments: list[tuple[ProgramHeader, int]], start: int, stop: int
) -> None:
    pieces = list(Coverage(segments).cover(start, stop))

    covered = [address for piece in pieces for address in range(piece.start, piece.stop)]
    assert covered == [a for a in range(start, stop) if owner(segments, a)]
    assert all(piece.start < piece.stop for piece in pieces)


@given(segment_lists(), segment_lists())
def test_overlay_says_for_every_address_what_there_is(
    data: list[tuple[ProgramHeader, int]], tags: list[tuple[ProgramHeader, int]]
) -> None:
    regions = list(overlay(Coverage(data).pieces, Coverage(tags).pieces))

    for address in range(END):
        expected = (bool(owner(data, address)), bool(owner(tags, address)))
        found = [(r.has_data, r.has_tags) for r in regions if r.address <= address < r.end]
        assert found == ([expected] if any(expected) else [])
    for before, after in pairwise(regions):
        same = (before.has_data, before.has_tags) == (after.has_data, after.has_tags)
        assert before.end < after.address or not same
