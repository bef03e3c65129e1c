"""PageBitmap against Python sets, and KVM's layout bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from tagalong.errors import UsageError
from tagalong.memory import PageBitmap, page_runs, run_pages

modest = settings(max_examples=60, deadline=None)

page_counts = st.one_of(st.sampled_from([0, 1, 63, 64, 65, 128]), st.integers(0, 300))


@st.composite
def bitmaps(draw: st.DrawFn, count: st.SearchStrategy[int] = page_counts) -> PageBitmap:
    page_count = draw(count)
    bitmap = PageBitmap(page_count)
    for _ in range(draw(st.integers(0, 4))):
        first = draw(st.integers(0, page_count))
        bitmap.set_range(first, draw(st.integers(0, page_count - first)))
    return bitmap


@st.composite
def pairs(draw: st.DrawFn) -> tuple[PageBitmap, PageBitmap]:
    count = st.just(draw(page_counts))
    return draw(bitmaps(count)), draw(bitmaps(count))


def pages_of(bitmap: PageBitmap) -> set[int]:
    return {page for page in range(bitmap.page_count) if page in bitmap}


class TestLayout:
    @pytest.mark.parametrize("page", [0, 1, 7, 8, 63, 64, 99])
    def test_set_page_n_is_bit_n_of_the_little_endian_array(self, page: int) -> None:
        bitmap = PageBitmap.from_pages(100, [page])

        assert int.from_bytes(bitmap.words.tobytes(), "little") == 1 << page
        assert bitmap.words.shape == (2,)

    def test_words_given_are_used_and_not_copied(self) -> None:
        words = np.zeros(2, np.uint64)
        bitmap = PageBitmap(128, words)

        words[1] = 1 << 63

        assert bitmap.words is words
        assert 127 in bitmap

    def test_words_of_wrong_length_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"must be 2 contiguous uint64, not uint64 of shape"):
            PageBitmap(65, np.zeros(1, np.uint64))

    def test_words_of_wrong_type_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"must be 1 contiguous uint64, not int64 of shape"):
            PageBitmap(64, np.zeros(1, np.int64))

    def test_words_that_are_not_contiguous_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"must be 2 contiguous uint64"):
            PageBitmap(128, np.zeros(4, np.uint64)[::2])

    def test_words_with_a_bit_beyond_the_last_page_are_refused(self) -> None:
        words = np.array([0, 1 << 36], np.uint64)

        with pytest.raises(
            UsageError, match=r"^bitmap word 0x0000001000000000 has bits set beyond page 0x63$"
        ):
            PageBitmap(100, words)

    def test_negative_page_count_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^a bitmap of -1 pages is not possible$"):
            PageBitmap(-1)


class TestInverses:
    @modest
    @given(bitmaps())
    def test_from_pages_of_pages_any_bitmap_gives_it_back(self, bitmap: PageBitmap) -> None:
        assert PageBitmap.from_pages(bitmap.page_count, bitmap.pages()) == bitmap

    @modest
    @given(npst.arrays(np.bool_, page_counts))
    def test_from_flags_any_flags_are_the_pages(self, flags: NDArray[np.bool_]) -> None:
        bitmap = PageBitmap.from_flags(flags)

        assert bitmap.page_count == flags.size
        assert bitmap.pages().tolist() == np.flatnonzero(flags).tolist()

    @modest
    @given(bitmaps())
    def test_set_range_of_each_run_any_bitmap_gives_it_back(self, bitmap: PageBitmap) -> None:
        copy = PageBitmap(bitmap.page_count)
        for first, count in bitmap.runs().tolist():
            copy.set_range(first, count)

        assert copy == bitmap

    @modest
    @given(bitmaps(), st.data())
    def test_has_range_any_range_is_whether_all_its_pages_are_set(
        self, bitmap: PageBitmap, data: st.DataObject
    ) -> None:
        first = data.draw(st.integers(0, bitmap.page_count))
        count = data.draw(st.integers(0, bitmap.page_count - first))

        assert bitmap.has_range(first, count) == bool(bitmap.flags()[first : first + count].all())
        assert all(bitmap.has_range(*run) for run in bitmap.runs().tolist())

    def test_has_range_behind_the_last_page_raises(self) -> None:
        with pytest.raises(
            UsageError, match=r"^pages \[0x8, 0xb\) are not in a bitmap of 0xa pages"
        ):
            PageBitmap(10).has_range(8, 3)

    @modest
    @given(bitmaps())
    def test_bitmap_of_its_words_copied_is_equal(self, bitmap: PageBitmap) -> None:
        words = np.frombuffer(bytearray(bitmap.words.tobytes()), np.uint64)

        assert PageBitmap(bitmap.page_count, words) == bitmap


class TestQueries:
    @modest
    @given(bitmaps())
    def test_pages_and_count_any_bitmap_agree_with_membership(self, bitmap: PageBitmap) -> None:
        expected = sorted(pages_of(bitmap))

        assert bitmap.pages().tolist() == expected
        assert bitmap.pages().dtype == np.int64
        assert bitmap.count() == len(expected)

    @modest
    @given(bitmaps())
    def test_runs_any_bitmap_cover_its_pages_with_gaps_between(self, bitmap: PageBitmap) -> None:
        runs = bitmap.runs()

        covered = [p for first, count in runs.tolist() for p in range(first, first + count)]
        assert covered == sorted(pages_of(bitmap))
        assert (runs[1:, 0] > runs[:-1].sum(axis=1)).all()
        assert runs.shape == (len(runs), 2)

    def test_runs_across_a_word_and_up_to_the_end_are_whole(self) -> None:
        bitmap = PageBitmap(128)
        bitmap.set_range(60, 10)
        bitmap.set_range(100, 28)

        assert bitmap.runs().tolist() == [[60, 10], [100, 28]]

    @pytest.mark.parametrize("page", [-1, 100, 127, 10**9])
    def test_contains_page_outside_is_false(self, page: int) -> None:
        bitmap = PageBitmap(100)
        bitmap.set_range(0, 100)

        assert page not in bitmap

    def test_repr_tells_how_many_pages(self) -> None:
        assert repr(PageBitmap.from_pages(100, [4, 4, 5])) == "<PageBitmap 2 of 100 pages>"


class TestChanges:
    @modest
    @given(bitmaps(), st.data())
    def test_set_range_any_range_adds_exactly_its_pages(
        self, bitmap: PageBitmap, data: st.DataObject
    ) -> None:
        first = data.draw(st.integers(0, bitmap.page_count))
        count = data.draw(st.integers(0, bitmap.page_count - first))
        expected = pages_of(bitmap) | set(range(first, first + count))

        bitmap.set_range(first, count)

        assert pages_of(bitmap) == expected

    @modest
    @given(bitmaps(), st.data())
    def test_add_flags_at_any_page_adds_exactly_the_flagged(
        self, bitmap: PageBitmap, data: st.DataObject
    ) -> None:
        first = data.draw(st.integers(0, bitmap.page_count))
        flags = data.draw(npst.arrays(np.bool_, st.integers(0, bitmap.page_count - first)))
        expected = pages_of(bitmap) | {first + n for n in range(flags.size) if flags[n]}

        bitmap.add_flags(first, flags)

        assert pages_of(bitmap) == expected

    @pytest.mark.parametrize(("first", "count"), [(100, 1), (0, 101), (-1, 2), (4, -1)])
    def test_set_range_outside_is_refused_and_changes_nothing(self, first: int, count: int) -> None:
        bitmap = PageBitmap(100)

        with pytest.raises(UsageError, match=r"^pages \[.*\) are not in a bitmap of 0x64 pages$"):
            bitmap.set_range(first, count)

        assert bitmap.count() == 0

    @pytest.mark.parametrize("page", [-1, 100])
    def test_from_pages_with_a_page_outside_is_refused(self, page: int) -> None:
        with pytest.raises(UsageError, match=r"are not in a bitmap of 0x64 pages$"):
            PageBitmap.from_pages(100, [5, page])

    def test_add_flags_beyond_the_end_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^pages \[0x63, 0x65\) are not in a bitmap of 0x64"):
            PageBitmap(100).add_flags(99, np.ones(2, np.bool_))

    def test_clear_keeps_the_words_array(self) -> None:
        bitmap = PageBitmap.from_pages(100, [1, 99])
        words = bitmap.words

        bitmap.clear()

        assert bitmap.words is words
        assert not words.any()

    def test_copy_changed_leaves_the_original(self) -> None:
        bitmap = PageBitmap.from_pages(100, [1])

        bitmap.copy().set_range(0, 100)

        assert bitmap.pages().tolist() == [1]


class TestAlgebra:
    @modest
    @given(pairs())
    def test_or_and_and_any_two_are_union_and_intersection(
        self, pair: tuple[PageBitmap, PageBitmap]
    ) -> None:
        left, right = pair
        before = pages_of(left)

        assert pages_of(left | right) == pages_of(left) | pages_of(right)
        assert pages_of(left & right) == pages_of(left) & pages_of(right)
        assert pages_of(left) == before

    @modest
    @given(pairs())
    def test_eq_any_two_is_equality_of_their_pages(
        self, pair: tuple[PageBitmap, PageBitmap]
    ) -> None:
        left, right = pair

        assert (left == right) == (pages_of(left) == pages_of(right))

    def test_eq_with_another_page_count_or_type_is_false(self) -> None:
        assert PageBitmap(100) != PageBitmap(101)
        assert PageBitmap(100) != "bitmap"

    def test_or_of_two_page_counts_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^bitmaps of 0x64 and 0x65 pages cannot be combined"):
            PageBitmap(100) | PageBitmap(101)

    def test_hash_is_refused_because_bitmaps_change(self) -> None:
        with pytest.raises(TypeError, match="unhashable"):
            hash(PageBitmap(1))


@modest
@given(bitmaps())
def test_flags_and_runs_of_pages_agree_with_the_bitmap(bitmap: PageBitmap) -> None:
    assert np.flatnonzero(bitmap.flags()).tolist() == bitmap.pages().tolist()
    assert bitmap.flags().size == bitmap.page_count
    assert page_runs(bitmap.pages()).tolist() == bitmap.runs().tolist()
    assert run_pages(bitmap.runs()).tolist() == bitmap.pages().tolist()


@modest
@given(bitmaps(), st.data())
def test_set_runs_is_set_range_for_each(bitmap: PageBitmap, data: st.DataObject) -> None:
    count = bitmap.page_count
    firsts = data.draw(st.lists(st.integers(0, count), max_size=8))
    runs = [(first, data.draw(st.integers(0, count - first))) for first in firsts]
    expected = bitmap.copy()
    for first, length in runs:
        expected.set_range(first, length)

    bitmap.set_runs(np.array(runs, np.int64).reshape(-1, 2))

    assert bitmap == expected


@pytest.mark.parametrize("run", [[-1, 1], [99, 2], [101, 0]])
def test_set_runs_outside_is_refused_and_changes_nothing(run: list[int]) -> None:
    bitmap = PageBitmap(100)

    with pytest.raises(UsageError):
        bitmap.set_runs(np.array([[5, 1], run], np.int64))

    assert bitmap.count() == 0


@modest
@given(
    bounds=st.lists(st.integers(0, 300 * 8), max_size=12, unique=True).map(sorted),
    unit=st.sampled_from([1, 3, 8]),
)
def test_from_extents_has_the_pages_that_they_touch(bounds: list[int], unit: int) -> None:
    extents = list(zip(bounds[::2], bounds[1::2], strict=False))

    bitmap = PageBitmap.from_extents(300 * 8, iter(extents), unit)

    touched = {byte // unit for start, stop in extents for byte in range(start, stop)}
    assert pages_of(bitmap) == touched


def test_from_extents_beyond_the_last_page_is_refused() -> None:
    with pytest.raises(UsageError, match=r"pages \[0x0, 0x3\) are not in a bitmap of 0x2 pages"):
        PageBitmap.from_extents(2, [(0x1000, 0x2001)], 0x1000)


def test_difference_has_what_only_the_first_has() -> None:
    first = PageBitmap.from_pages(100, [1, 2, 70])

    assert (first - PageBitmap.from_pages(100, [2, 3])).pages().tolist() == [1, 70]
    with pytest.raises(UsageError):
        first - PageBitmap(101)


@modest
@given(bitmaps(), st.sampled_from([1, 4, 16]), st.sampled_from([1, 4, 16]))
def test_in_pages_of_has_the_pages_that_share_a_byte(
    bitmap: PageBitmap, own: int, other: int
) -> None:
    found = bitmap.in_pages_of(other * 4096, own * 4096)

    units = {page * own + part for page in pages_of(bitmap) for part in range(own)}
    assert found.page_count == -(-bitmap.page_count * own // other)
    assert pages_of(found) == {
        page for page in range(found.page_count)
        if units & set(range(page * other, page * other + other))
    }  # fmt: skip
