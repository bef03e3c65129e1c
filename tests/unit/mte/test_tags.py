"""Arrays of allocation tags: worked examples, inverse operations, twins, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from tagalong.errors import UsageError
from tagalong.mte import PACKED_RATIO, PAGE_SIZES_BYTES, numpy_kernels, tags

modest = settings(max_examples=60, deadline=None)

# Few different bytes, so that runs of every length and odd boundaries are common.
planes = st.one_of(
    npst.arrays(np.uint8, st.integers(0, 200)),
    npst.arrays(np.uint8, st.integers(0, 200), elements=st.sampled_from([0x00, 0x11, 0x10, 0xFF])),
)
byte_tags = st.integers(0, 150).flatmap(
    lambda pairs: npst.arrays(np.uint8, 2 * pairs, elements=st.integers(0, 15))
)


def strided(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return equal bytes in an array that is not contiguous."""
    wide = np.full(array.size * 3, 0xEE, np.uint8)
    wide[::3] = array
    return wide[::3]


def backwards(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return array[::-1].copy()[::-1]


class TestPackAndUnpack:
    def test_pack_two_tags_puts_the_lower_granule_in_the_low_nibble(self) -> None:
        packed = tags.pack(np.array([0xA, 0x3], np.uint8))

        assert packed.tolist() == [0x3A]

    @modest
    @given(byte_tags)
    def test_unpack_of_pack_any_tags_gives_them_back(self, one_a_byte: NDArray[np.uint8]) -> None:
        assert np.array_equal(tags.unpack(tags.pack(one_a_byte)), one_a_byte)

    @modest
    @given(planes)
    def test_pack_of_unpack_any_plane_gives_it_back(self, plane: NDArray[np.uint8]) -> None:
        assert np.array_equal(tags.pack(tags.unpack(plane)), plane)

    @modest
    @given(byte_tags)
    def test_pack_native_and_numpy_are_equal(self, one_a_byte: NDArray[np.uint8]) -> None:
        expected = numpy_kernels.pack(one_a_byte)

        for layout in (one_a_byte, strided(one_a_byte), backwards(one_a_byte)):
            assert np.array_equal(tags.pack(layout), expected)

    @modest
    @given(planes)
    def test_unpack_native_and_numpy_are_equal(self, plane: NDArray[np.uint8]) -> None:
        expected = numpy_kernels.unpack(plane)

        for layout in (plane, strided(plane), backwards(plane)):
            assert np.array_equal(tags.unpack(layout), expected)

    @modest
    @given(planes)
    def test_count_tagged_native_and_numpy_are_equal(self, plane: NDArray[np.uint8]) -> None:
        expected = np.count_nonzero(tags.unpack(plane))

        for layout in (plane, strided(plane), backwards(plane)):
            assert tags.count_tagged(layout) == expected

    def test_count_tagged_of_more_than_a_byte_counts_is_exact(self) -> None:
        # 64 lanes of counters of a byte are emptied after 127 times 64 bytes.
        for size in (127 * 64 - 1, 127 * 64, 127 * 64 + 65, 1 << 20):
            assert tags.count_tagged(np.full(size, 0xFF, np.uint8)) == 2 * size
            assert tags.count_tagged(np.full(size, 0x01, np.uint8)) == size

    def test_pack_odd_number_of_tags_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^0x3 tags cannot be packed two a byte"):
            tags.pack(np.zeros(3, np.uint8))

    def test_pack_value_above_fifteen_is_refused_with_its_granule(self) -> None:
        with pytest.raises(UsageError, match=r"^granule 0x2: 0x1f is no tag, 0xf is the last$"):
            tags.pack(np.array([1, 15, 0x1F, 0x20], np.uint8))

    def test_pack_other_element_type_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"one row of uint8, not int64 of shape \(2,\)"):
            tags.pack(np.zeros(2, np.int64))

    def test_unpack_two_dimensions_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"one row of uint8, not uint8 of shape \(2, 2\)"):
            tags.unpack(np.zeros((2, 2), np.uint8))


class TestRuns:
    def test_runs_of_run_across_a_byte_boundary_is_one_run(self) -> None:
        found = tags.runs(np.array([0x10, 0x11, 0x01], np.uint8))

        assert found.tolist() == [(0, 1, 0), (1, 4, 1), (5, 1, 0)]

    def test_runs_of_empty_plane_is_empty(self) -> None:
        assert tags.runs(np.zeros(0, np.uint8)).size == 0

    @modest
    @given(planes)
    def test_from_runs_of_runs_any_plane_gives_it_back(self, plane: NDArray[np.uint8]) -> None:
        assert np.array_equal(tags.from_runs(tags.runs(plane)), plane)

    @modest
    @given(st.lists(st.tuples(st.integers(1, 70), st.integers(0, 15)), max_size=20))
    def test_runs_of_from_runs_any_runs_gives_them_back(
        self, wanted: list[tuple[int, int]]
    ) -> None:
        tag_runs = as_runs(wanted)

        assert np.array_equal(tags.runs(tags.from_runs(tag_runs)), tag_runs)

    @modest
    @given(planes)
    def test_runs_native_and_numpy_are_equal(self, plane: NDArray[np.uint8]) -> None:
        expected = numpy_kernels.runs(plane)

        for layout in (plane, strided(plane), backwards(plane)):
            assert np.array_equal(tags.runs(layout), expected)

    @modest
    @given(planes, st.integers(1, 40))
    def test_numpy_runs_with_a_limit_are_split_and_still_give_the_plane(
        self, plane: NDArray[np.uint8], longest: int
    ) -> None:
        found = numpy_kernels.runs(plane, longest)

        assert np.array_equal(tags.from_runs(found), plane)
        assert not found.size or found["length"].max() <= longest

    def test_runs_more_than_expected_are_all_found(self) -> None:
        plane = np.full(5000, 0x10, np.uint8)

        found = tags.runs(plane)

        assert found.size == 10_000
        assert np.array_equal(tags.from_runs(found), plane)

    def test_runs_of_more_than_64_gib_of_memory_are_split(self) -> None:
        # 2 GiB of zero pages, which the kernel does not have to back with memory.
        plane = np.zeros(2**31 + 8, np.uint8)

        found = tags.runs(plane)

        assert found.tolist() == [(0, 2**32 - 1, 0), (2**32 - 1, 17, 0)]

    def test_from_runs_with_a_gap_is_refused(self) -> None:
        gap = np.array([(0, 2, 1), (3, 1, 2)], tags.TAG_RUN)

        with pytest.raises(UsageError, match=r"^run 0x1 starts at granule 0x3, .* end at 0x2$"):
            tags.from_runs(gap)

    def test_from_runs_with_a_tag_above_fifteen_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^run tag 0x100 is above 0xf$"):
            tags.from_runs(np.array([(0, 2, 0x100)], tags.TAG_RUN))

    def test_from_runs_with_half_a_byte_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^0x3 tags cannot be packed"):
            tags.from_runs(np.array([(0, 3, 1)], tags.TAG_RUN))

    def test_from_runs_of_other_records_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^runs must be a row of .* not float64"):
            tags.from_runs(np.zeros(2))  # type: ignore[arg-type]


def as_runs(wanted: list[tuple[int, int]]) -> NDArray[np.void]:
    """Return (length, tag) pairs as TAG_RUN records: neighbours differ, the end is even."""
    records: list[tuple[int, int, int]] = []
    granule = 0
    for length, tag in wanted:
        other = (tag + 1) % 16 if records and records[-1][2] == tag else tag
        records.append((granule, length, other))
        granule += length
    if granule % 2:
        start, length, tag = records[-1]
        records[-1] = (start, length + 1, tag)
    return np.array(records, tags.TAG_RUN)


class TestSingleGranules:
    @modest
    @given(planes.filter(len), st.data())
    def test_get_tag_after_set_tag_gives_it_and_leaves_all_others(
        self, plane: NDArray[np.uint8], data: st.DataObject
    ) -> None:
        granule = data.draw(st.integers(0, 2 * plane.size - 1))
        tag = data.draw(st.integers(0, 15))
        expected = tags.unpack(plane)
        expected[granule] = tag

        tags.set_tag(plane, granule, tag)

        assert tags.get_tag(plane, granule) == tag
        assert np.array_equal(tags.unpack(plane), expected)

    @pytest.mark.parametrize("granule", [-1, 4])
    def test_get_tag_outside_the_plane_is_refused(self, granule: int) -> None:
        with pytest.raises(UsageError, match=r"are not in a plane of 0x4$"):
            tags.get_tag(np.zeros(2, np.uint8), granule)

    @pytest.mark.parametrize("tag", [-1, 16])
    def test_set_tag_to_no_tag_is_refused_and_changes_nothing(self, tag: int) -> None:
        plane = np.array([0x21], np.uint8)

        with pytest.raises(UsageError, match=r"is no tag: a tag is 0x0 to 0xf$"):
            tags.set_tag(plane, 0, tag)

        assert plane.tolist() == [0x21]


class TestFill:
    @modest
    @given(planes, st.data())
    def test_fill_any_range_changes_exactly_its_granules(
        self, plane: NDArray[np.uint8], data: st.DataObject
    ) -> None:
        first = data.draw(st.integers(0, 2 * plane.size))
        count = data.draw(st.integers(0, 2 * plane.size - first))
        tag = data.draw(st.integers(0, 15))
        expected = tags.unpack(plane)
        expected[first : first + count] = tag

        tags.fill(plane, first, count, tag)

        assert np.array_equal(tags.unpack(plane), expected)

    def test_fill_one_odd_granule_keeps_both_neighbours(self) -> None:
        plane = np.array([0x21, 0x43], np.uint8)

        tags.fill(plane, 1, 1, 0xF)

        assert plane.tolist() == [0xF1, 0x43]

    @pytest.mark.parametrize(("first", "count"), [(0, 5), (4, 1), (-1, 1), (2, -1)])
    def test_fill_beyond_the_plane_is_refused_and_changes_nothing(
        self, first: int, count: int
    ) -> None:
        plane = np.array([0x21, 0x43], np.uint8)

        with pytest.raises(UsageError, match=r"^granules \[.*\) are not in a plane of 0x4$"):
            tags.fill(plane, first, count, 1)

        assert plane.tolist() == [0x21, 0x43]


class TestDifferingRuns:
    @modest
    @given(planes, st.data())
    def test_differing_runs_of_any_two_planes_are_exactly_the_differing_granules(
        self, left: NDArray[np.uint8], data: st.DataObject
    ) -> None:
        right = left.copy()
        if left.size:
            first = data.draw(st.integers(0, 2 * left.size - 1))
            count = data.draw(st.integers(0, 2 * left.size - first))
            tags.fill(right, first, count, data.draw(st.integers(0, 15)))
        expected = np.flatnonzero(tags.unpack(left) != tags.unpack(right))

        ranges = tags.differing_runs(left, right)

        covered = [g for first, count in ranges.tolist() for g in range(first, first + count)]
        assert covered == expected.tolist()
        assert (ranges[1:, 0] > ranges[:-1].sum(axis=1)).all()
        assert ranges.shape == (len(ranges), 2)

    def test_differing_runs_of_equal_planes_is_empty(self) -> None:
        plane = np.arange(64, dtype=np.uint8)

        assert tags.differing_runs(plane, plane.copy()).shape == (0, 2)

    def test_differing_runs_of_planes_of_two_sizes_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^planes of 0x2 and 0x3 bytes cannot be compared"):
            tags.differing_runs(np.zeros(2, np.uint8), np.zeros(3, np.uint8))


@pytest.mark.parametrize("page_size", PAGE_SIZES_BYTES)
class TestPages:
    def test_zero_pages_with_one_tag_anywhere_finds_its_page(self, page_size: int) -> None:
        row = page_size // PACKED_RATIO
        for place in (0, 1, 63, 64, row - 9, row - 1):
            plane = np.zeros(3 * row, np.uint8)
            plane[row + place] = 0x10

            assert tags.zero_pages(plane, page_size).tolist() == [True, False, True]

    def test_uniform_pages_with_one_other_tag_anywhere_finds_its_page(self, page_size: int) -> None:
        row = page_size // PACKED_RATIO
        for granule in (0, 1, 15, 16, 2 * row - 1):
            plane = np.full(3 * row, 0x77, np.uint8)
            plane[:row] = 0
            tags.set_tag(plane, 4 * row + granule, 0x6)

            assert tags.uniform_pages(plane, page_size).tolist() == [True, True, False]

    def test_uniform_pages_of_strided_plane_is_the_same(self, page_size: int) -> None:
        row = page_size // PACKED_RATIO
        plane = np.repeat(np.array([0x77, 0x76], np.uint8), row)

        assert tags.uniform_pages(strided(plane), page_size).tolist() == [True, False]

    def test_page_tests_of_no_page_are_empty(self, page_size: int) -> None:
        nothing = np.zeros(0, np.uint8)

        assert tags.zero_pages(nothing, page_size).size == 0
        assert tags.uniform_pages(nothing, page_size).size == 0

    def test_page_tests_of_part_of_a_page_are_refused(self, page_size: int) -> None:
        part = np.zeros(page_size // PACKED_RATIO + 8, np.uint8)

        with pytest.raises(UsageError, match=r"bytes cannot be cut into rows of"):
            tags.zero_pages(part, page_size)
        with pytest.raises(UsageError, match=r"bytes are not the tags of pages of"):
            tags.uniform_pages(part, page_size)


class TestZeroRows:
    @modest
    @given(
        st.integers(1, 20).map(lambda words: 8 * words),
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 159), st.integers(1, 255))),
    )
    def test_zero_rows_native_and_numpy_are_equal(
        self, row_bytes: int, marks: list[tuple[int, int, int]]
    ) -> None:
        plane = np.zeros(5 * row_bytes, np.uint8)
        for row, place, value in marks:
            plane[row * row_bytes + place % row_bytes] = value
        expected = numpy_kernels.zero_rows(plane, row_bytes)

        for layout in (plane, strided(plane), backwards(plane)):
            assert np.array_equal(tags.zero_rows(layout, row_bytes), expected)
        assert expected.sum() == 5 - len({row for row, _, _ in marks})

    @pytest.mark.parametrize("row_bytes", [0, -8, 12, 24])
    def test_zero_rows_that_do_not_fit_are_refused(self, row_bytes: int) -> None:
        with pytest.raises(UsageError, match=r"^0x40 bytes cannot be cut into rows of"):
            tags.zero_rows(np.zeros(64, np.uint8), row_bytes)
