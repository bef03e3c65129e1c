"""Cells and regions count what the core's tags say, whatever holes and edges there are."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tagalong.core import Core, open_core, pack
from tagalong.errors import MalformedCoreError, UsageError
from tagalong.views.survey import (
    cell_size,
    count_cells,
    drawn_regions,
    require_disjoint_tags,
    survey_regions,
)
from tests.support.core_builder import CoreBuilder, load, tag_segment
from tests.support.cores import PAGE, RAM, notes, write_core

AT = 0x5000_0000_0000


def naive_counts(core: Core, start: int, end: int) -> list[int]:
    counts = [0] * 16
    for at in range(start, end, 16):
        if any(r.has_tags and r.address <= at and at + 16 <= r.end for r in core.regions):
            counts[int(core.granule_tags(at, 16)[0])] += 1
    return counts


def foreign_core(path: Path, *segments: tuple[int, bytes]) -> Path:
    path.write_bytes(CoreBuilder([tag_segment(at, tags) for at, tags in segments]).build())
    return path


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=4),
    st.integers(0, 20), st.integers(1, 60), st.sampled_from([16, 32, 48, 128, 1024]),
)  # fmt: skip
def test_cells_of_any_range_count_every_granule(
    tmp_path: Path, planes: list[bytes], first: int, count: int, cell_bytes: int
) -> None:
    segments = [(AT + number * 0x210, tags) for number, tags in enumerate(planes)]
    start, end = AT + 16 * first, AT + 16 * (first + count)

    with open_core(foreign_core(tmp_path / "core", *segments)) as core:
        cells = count_cells(core, start, end, cell_bytes)

        assert cells.counts.tolist() == [
            naive_counts(core, *cells.bounds(number)) for number in range(len(cells))
        ]
        assert cells.bounds(len(cells) - 1)[1] == end


@pytest.mark.parametrize("compressed", [False, True])
def test_large_cells_count_holes_without_reading_them(tmp_path: Path, *, compressed: bool) -> None:
    size = 16 << 20
    tags = np.zeros(size // 32, np.uint8)
    tags[:64] = 0x21
    tags[300_000:300_100] = 0xFF
    path = tmp_path / "vm.core"
    write_core(path, notes(size), [np.zeros(PAGE, np.uint8)], [tags])
    if compressed:
        path = pack(path, tmp_path / "vm.core.zst").path

    with open_core(path) as core:
        cells = count_cells(core, RAM, RAM + size, 1 << 20)
        (whole,) = survey_regions(core)

    expected = np.zeros((16, 16), np.int64)
    expected[:, 0] = 65536
    expected[0, [0, 1, 2]] += (-128, 64, 64)
    expected[9, [0, 15]] += (-200, 200)
    assert cells.counts.tolist() == expected.tolist()
    assert whole.counts is not None
    assert whole.counts.tolist() == expected.sum(axis=0).tolist()
    assert whole.tagged_granules == 328


def test_holes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 64 << 20
    tags = np.zeros(size // 32, np.uint8)
    tags[-1] = 0x30
    write_core(tmp_path / "vm.core", notes(size), [np.zeros(PAGE, np.uint8)], [tags])
    read = 0

    with open_core(tmp_path / "vm.core") as core:
        tags_of = core.tags

        def counting(address: int, length: int) -> object:
            nonlocal read
            read += length
            return tags_of(address, length)

        monkeypatch.setattr(core, "tags", counting)
        cells = count_cells(core, RAM, RAM + size, size)

    assert cells.counts[0, 3] == 1
    assert 0 < read <= 32 * PAGE


def test_regions_without_tags_have_no_counts(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(
        CoreBuilder([load(AT, bytes(PAGE)), tag_segment(AT + PAGE, b"\x11" * 8)]).build()
    )

    with open_core(path) as core:
        plain, tagged = survey_regions(core)

    assert plain.counts is None
    assert tagged.counts is not None
    assert tagged.counts.tolist() == [0, 16, *[0] * 14]


def test_drawn_regions_are_those_with_most_tags_in_order(tmp_path: Path) -> None:
    segments = [(AT + n * PAGE, bytes([0x11]) * n + bytes(8 - n)) for n in range(1, 6)]

    with open_core(foreign_core(tmp_path / "core", *segments)) as core:
        drawn, left_out = drawn_regions(survey_regions(core), 2)

    assert [each.region.address for each in drawn] == [AT + 4 * PAGE, AT + 5 * PAGE]
    assert left_out == 3


def test_segments_that_share_bytes_of_the_file_are_refused(tmp_path: Path) -> None:
    plane = tag_segment(AT, b"\x11" * PAGE)
    plane.offset = 0
    many = [
        tag_segment(AT + n * 32 * PAGE, b"", size_bytes=32 * PAGE, file_bytes=PAGE, offset=0)
        for n in range(200)
    ]
    (tmp_path / "core").write_bytes(CoreBuilder(many).build())

    with (
        open_core(tmp_path / "core") as core,
        pytest.raises(MalformedCoreError, match="name 0xc8000 bytes of tags, but the file has"),
    ):
        require_disjoint_tags(core)


def test_cells_that_are_none_are_refused(tmp_path: Path) -> None:
    with open_core(foreign_core(tmp_path / "core", (AT, b"\x11"))) as core:
        with pytest.raises(UsageError, match="cannot be cut into cells of 0x8"):
            count_cells(core, AT, AT + 32, 8)
        with pytest.raises(UsageError, match="131072 cells are too many"):
            count_cells(core, AT, AT + (2 << 20), 16)


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [(16, 1, 16), (17, 1, 32), (4 << 30, 1024, 4 << 20), ((4 << 30) + 16, 1024, 8 << 20)],
)
def test_cell_size_is_the_smallest_power_of_two(size: int, most: int, expected: int) -> None:
    assert cell_size(size, most) == expected
