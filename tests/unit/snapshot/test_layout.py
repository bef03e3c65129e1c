"""Layouts: which mappings are one segment, and where their pages come from."""

import numpy as np

from tagalong.core import CoreSegment
from tagalong.memory import Gpa
from tagalong.paging import Mapping
from tagalong.snapshot.layout import RamPiece, _join, physical_layout
from tagalong.snapshot.pages import _batches
from tests.support.fake_machine import RAM, describe

PAGE = 0x1000
VA = 0xFFFF_8000_0000_0000


def mapping(page: int, frame: int, pages: int = 1, *, tagged: bool = True) -> Mapping:
    return Mapping(VA + page * PAGE, Gpa(RAM + frame * PAGE), pages * PAGE, is_tagged=tagged)


def test_physical_layout_has_a_segment_for_each_region() -> None:
    layout = physical_layout(describe(0x1000, 0x4000))

    assert [(s.address, s.physical, s.size_bytes, s.has_tags) for s in layout.segments] == [
        (RAM, RAM, 0x1000, True),
        (RAM + 0x4000_0000, RAM + 0x4000_0000, 0x4000, True),
    ]
    assert [piece.segment for piece in layout.pieces] == [0, 1]


def test_physical_layout_of_machine_without_mte_has_no_tags() -> None:
    layout = physical_layout(describe(0x1000, mte_version=0))

    assert not layout.segments[0].has_tags


def test_join_of_scattered_neighbours_is_one_segment_without_a_physical_address() -> None:
    segments, pieces = _join([mapping(0, 9), mapping(1, 4, 2)], can_have_tags=True)

    assert segments == (CoreSegment(VA, Gpa(0), 3 * PAGE, has_tags=True),)
    assert pieces == (
        RamPiece(0, 0, Gpa(RAM + 9 * PAGE), PAGE, has_tags=True),
        RamPiece(0, PAGE, Gpa(RAM + 4 * PAGE), 2 * PAGE, has_tags=True),
    )


def test_join_of_gap_or_another_type_begins_a_segment() -> None:
    mappings = [mapping(0, 0), mapping(2, 1), mapping(3, 2, tagged=False)]
    segments, _ = _join(mappings, can_have_tags=True)

    assert [(s.address - VA, s.physical - RAM, s.has_tags) for s in segments] == [
        (0, 0, True),
        (2 * PAGE, PAGE, True),
        (3 * PAGE, 2 * PAGE, False),
    ]


def test_join_for_machine_without_mte_has_no_tags() -> None:
    segments, _ = _join([mapping(0, 0)], can_have_tags=False)

    assert not segments[0].has_tags


def test_batches_keep_to_their_size_and_window() -> None:
    ranges = np.array([(0, 1), (3, 5), (90, 91), (200, 207)], np.int64)

    assert [batch.tolist() for batch in _batches(ranges, 3, 64)] == [
        [[0, 1], [3, 5]],
        [[90, 91]],
        [[200, 203]],
        [[203, 206]],
        [[206, 207]],
    ]
    assert list(_batches(ranges[:0], 3, 64)) == []
