"""Regions: planes in shared memory, holes, lifetime, and what a sparse 64 GiB costs."""

import errno
import fcntl
import gc
import mmap
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong.errors import AddressError, HostError, RunStateError, UsageError
from tagalong.memory import Gpa, PageBitmap, Region
from tagalong.mte import PACKED_RATIO, PAGE_SIZES_BYTES
from tests.support.descriptors import memory_files

GPA = Gpa(0x4000_0000)
MIB = 1 << 20
HOST_PAGE = mmap.PAGESIZE


@pytest.fixture
def region() -> Iterator[Region]:
    with Region.create(GPA, 4 * MIB) as region:
        yield region


def allocated_bytes(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * HOST_PAGE


class TestCreate:
    @pytest.mark.parametrize("page_size", PAGE_SIZES_BYTES)
    def test_create_any_page_size_has_planes_of_the_right_size(self, page_size: int) -> None:
        with Region.create(GPA, 3 * page_size, page_size_bytes=page_size) as region:
            assert region.data.shape == (3 * page_size,)
            assert region.tags.shape == (3 * page_size // 32,)
            assert region.page_count == 3
            assert region.end == GPA + 3 * page_size
            assert not region.data.any()
            assert not region.tags.any()

    def test_create_page_size_unknown_is_refused(self) -> None:
        with pytest.raises(
            UsageError, match=r"^page size 0x2000 is not one of 0x1000, 0x4000, 0x10000$"
        ):
            Region.create(GPA, MIB, page_size_bytes=0x2000)

    @pytest.mark.parametrize(
        ("gpa", "size", "message"),
        [
            (0x4000_1000, MIB, r"^gpa 0x40001000 is not a multiple of 0x4000$"),
            (0x4000_0000, 0x5000, r"^length 0x5000 is not a multiple of 0x4000$"),
            (0x4000_0000, 0, r"^a region at gpa 0x40000000 must have at least one page$"),
            ((1 << 52) - 0x4000, 0x8000, r"ends above the largest gpa, 0xfffffffffffff$"),
        ],
    )
    def test_create_range_impossible_is_refused(self, gpa: int, size: int, message: str) -> None:
        with pytest.raises(AddressError, match=message):
            Region.create(Gpa(gpa), size, page_size_bytes=0x4000)

    def test_create_more_than_the_host_can_map_is_a_host_error(self) -> None:
        before = memory_files()

        with pytest.raises(
            HostError, match=r"^cannot create 0x8000000000000 bytes of shared memory for tagalong-"
        ) as caught:
            Region.create(Gpa(0), 1 << 51)

        assert isinstance(caught.value.__cause__, OSError)
        del caught
        gc.collect()
        assert memory_files() <= before

    def test_create_descriptors_are_close_on_exec_sealed_and_named(self) -> None:
        with Region.create(GPA, MIB, name="low") as region:
            maps = Path("/proc/self/maps").read_text()

            assert "/memfd:tagalong-low (deleted)" in maps
            assert "/memfd:tagalong-low-tags (deleted)" in maps
            for fd in (region.data_fd, region.tags_fd):
                assert not os.get_inheritable(fd)
                assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK

    def test_data_fd_truncated_by_its_holder_is_refused_by_the_host(self, region: Region) -> None:
        with pytest.raises(PermissionError):
            os.ftruncate(region.data_fd, 0)

    def test_planes_are_shared_with_whoever_maps_the_descriptors(self, region: Region) -> None:
        other = mmap.mmap(region.data_fd, region.size_bytes)
        region.raw_data[0x1234] = 0x5A

        assert other[0x1234] == 0x5A
        other.close()

    def test_repr_shows_the_gpa_range(self, region: Region) -> None:
        assert repr(region) == "<Region [0x40000000, 0x40400000)>"


class TestPopulatedPages:
    def test_new_region_has_none_and_asking_touches_nothing(self, region: Region) -> None:
        assert region.populated_pages() == PageBitmap(region.page_count)
        assert allocated_bytes(region.data_fd) == 0
        assert allocated_bytes(region.tags_fd) == 0

    @pytest.mark.parametrize("page_size", PAGE_SIZES_BYTES)
    def test_pages_with_data_are_found_at_any_page_size(self, page_size: int) -> None:
        with Region.create(GPA, 9 * page_size, page_size_bytes=page_size) as region:
            region.raw_data[0] = 1
            region.raw_data[4 * page_size - 1] = 1
            region.raw_data[-1] = 1
            # A smaller guest page shares the host's page with its neighbours.
            units = max(1, HOST_PAGE // page_size)
            expected = {p // units * units + n for p in (0, 3, 8) for n in range(units)}

            assert set(region.populated_pages().pages().tolist()) == expected & set(range(9))

    def test_data_of_zeros_written_counts_because_it_is_not_read(self, region: Region) -> None:
        region.raw_data[5 * HOST_PAGE] = 0

        assert 5 * HOST_PAGE // region.page_size_bytes in region.populated_pages()

    @pytest.mark.parametrize("page_size", PAGE_SIZES_BYTES)
    def test_pages_with_a_tag_only_are_found_at_any_page_size(self, page_size: int) -> None:
        with Region.create(GPA, 200 * page_size, page_size_bytes=page_size) as region:
            row = page_size // PACKED_RATIO
            region.raw_tags[1 * row + row - 1] = 0x10
            region.raw_tags[70 * row] = 0x01
            region.raw_tags[199 * row + 5] = 0xFF

            assert region.populated_pages().pages().tolist() == [1, 70, 199]

    def test_tags_of_zero_written_do_not_count(self, region: Region) -> None:
        region.raw_tags[:] = 0

        assert region.populated_pages().count() == 0

    def test_data_and_tags_together_are_one_set(self, region: Region) -> None:
        region.raw_data[0] = 1
        region.raw_tags[0] = 1
        region.raw_tags[-1] = 1

        expected = {*range(max(1, HOST_PAGE // 4096)), region.page_count - 1}
        assert set(region.populated_pages().pages().tolist()) == expected

    def test_asking_leaves_holes_between_extents_untouched(self, region: Region) -> None:
        region.raw_data[0] = region.raw_data[2 * MIB] = 1
        region.raw_tags[0] = region.raw_tags[2 * MIB // PACKED_RATIO] = 1
        data, tags = allocated_bytes(region.data_fd), allocated_bytes(region.tags_fd)

        region.populated_pages()

        assert allocated_bytes(region.data_fd) == data
        assert allocated_bytes(region.tags_fd) == tags


class TestRead:
    def test_read_data_of_a_hole_is_zero_and_leaves_it_a_hole(self, region: Region) -> None:
        data = region.read_data(MIB, MIB)

        assert data.shape == (MIB,)
        assert not data.any()
        assert allocated_bytes(region.data_fd) == 0

    def test_read_packed_tags_is_a_copy_of_what_the_plane_holds(self, region: Region) -> None:
        region.raw_tags[2:4] = (0x21, 0x43)

        packed = region.read_packed_tags(64, 64)
        region.raw_tags[2] = 0

        assert packed.tolist() == [0x21, 0x43]

    def test_read_data_sees_writes_through_the_mapping(self, region: Region) -> None:
        region.raw_data[:] = np.arange(region.size_bytes, dtype=np.uint32).astype(np.uint8)

        assert np.array_equal(region.read_data(3, 70_000), region.data[3:70_003])


class TestHostFailures:
    def test_read_data_failing_on_the_host_names_the_call_and_the_offset(
        self, region: Region, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "preadv", failing)

        with pytest.raises(HostError, match=r"^preadv of tagalong-ram at 0x1230 failed: .*error$"):
            region.read_data(0x1230, 1)

    def test_populated_pages_failing_on_the_host_names_the_call_and_the_offset(
        self, region: Region
    ) -> None:
        reader, writer = os.pipe()
        os.dup2(reader, region.data_fd)  # a pipe cannot be sought in
        os.close(reader)
        os.close(writer)

        with pytest.raises(HostError, match=r"^lseek of tagalong-ram from 0x0 on failed: Illegal"):
            region.populated_pages()


def failing(*_: object) -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


class TestClose:
    def test_close_with_a_view_alive_keeps_the_view_valid(self) -> None:
        region = Region.create(GPA, MIB)
        view = region.raw_data[100:200]
        view[:] = 7

        region.close()

        view[0] = 8
        assert view.sum() == 8 + 99 * 7

    def test_close_without_views_unmaps_and_closes_the_descriptors(self) -> None:
        before = memory_files()
        region = Region.create(GPA, MIB, name="short-lived")

        region.close()

        assert memory_files() <= before
        assert "short-lived" not in Path("/proc/self/maps").read_text()

    def test_close_twice_is_harmless(self, region: Region) -> None:
        numbers = (region.data_fd, region.tags_fd)
        region.close()
        bystander, bystanders_end = os.pipe()
        for number in numbers:  # whoever opens files next gets the numbers that are free
            if number not in (bystander, bystanders_end):
                os.dup2(bystander, number)

        region.close()

        for number in {*numbers, bystander, bystanders_end}:
            os.fstat(number)
            os.close(number)

    def test_region_dropped_without_close_leaks_no_descriptor(self) -> None:
        before = memory_files()

        region = Region.create(GPA, MIB)
        del region
        gc.collect()

        assert memory_files() <= before

    def test_use_after_close_is_refused_by_name(self, region: Region) -> None:
        region.close()

        for use in (
            lambda: region.data,
            lambda: region.data_fd,
            lambda: region.read_data(0, 1),
            region.populated_pages,
        ):
            with pytest.raises(RunStateError, match=r"^guest memory tagalong-ram is closed$"):
                use()
        with pytest.raises(RunStateError, match=r"^guest memory tagalong-ram-tags is closed$"):
            _ = region.tags

    def test_close_keeps_the_plain_facts(self, region: Region) -> None:
        region.close()

        assert (region.gpa, region.size_bytes, region.end) == (GPA, 4 * MIB, GPA + 4 * MIB)


def test_sparse_64_gib_region_costs_next_to_nothing() -> None:
    size = 64 << 30
    before = resident_bytes()
    with Region.create(Gpa(0), size) as region:
        region.raw_data[0] = region.raw_data[size // 2] = region.raw_data[-1] = 1
        region.raw_tags[size // 4 // PACKED_RATIO] = 0x20

        pages = region.populated_pages()

        last = region.page_count - 1
        assert {0, size // 2 // 4096, last, size // 4 // 4096} <= set(pages.pages().tolist())
        assert pages.count() <= 3 * max(1, HOST_PAGE // 4096) + 1
        assert pages.words.nbytes == 2 * MIB
        assert allocated_bytes(region.data_fd) + allocated_bytes(region.tags_fd) <= 4 * 64 * 1024
        assert resident_bytes() - before < 16 * MIB


class TestDataPages:
    def test_data_pages_of_a_full_region_are_all(self, region: Region) -> None:
        region.raw_data.reshape(-1, HOST_PAGE)[:, 0] = 1

        assert region.data_pages().count() == region.page_count

    def test_data_pages_with_one_hole_are_the_others(self, region: Region) -> None:
        region.raw_data.reshape(-1, HOST_PAGE)[:-1, 0] = 1

        pages = region.data_pages()

        assert pages.runs().tolist() == [[0, region.page_count - HOST_PAGE // 4096]]

    def test_known_data_are_those_that_were_found_last(self, region: Region) -> None:
        region.raw_data[0] = 1
        assert not region.has_known_data(0, 1)

        region.data_pages()

        assert region.has_known_data(0, 1)
        assert not region.has_known_data(region.page_count - 2, 2)
        with pytest.raises(UsageError, match="are not in a bitmap"):
            region.has_known_data(region.page_count, 1)

    def test_known_data_do_not_follow_what_others_add_to_the_answer(self, region: Region) -> None:
        region.data_pages().set_range(0, region.page_count)

        assert not region.has_known_data(0, 1)


class TestScatteredPages:
    PAGES = np.array([1, 2, 3, 70, 500, 1023], np.int64)

    def test_read_pages_gives_each_page_and_fills_no_hole(self, region: Region) -> None:
        rows = region.raw_data.reshape(-1, 4096)
        for page in (2, 70, 1023):
            rows[page] = page % 251
        before = allocated_bytes(region.data_fd)
        target = np.full((self.PAGES.size, 4096), 0xEE, np.uint8)

        region.read_pages_into(target, self.PAGES)

        assert (target == (np.array([0, 2, 0, 70, 0, 1023]) % 251).reshape(-1, 1)).all()
        assert allocated_bytes(region.data_fd) == before

    def test_read_page_tags_gives_a_row_a_page_and_fills_no_hole(self, region: Region) -> None:
        region.raw_tags.reshape(-1, 128)[[2, 500]] = [[0x21], [0x43]]
        before = allocated_bytes(region.tags_fd)

        rows = region.read_page_tags(self.PAGES)

        assert rows.shape == (6, 128)
        assert rows[:, 0].tolist() == [0, 0x21, 0, 0, 0x43, 0]
        assert (rows == rows[:, :1]).all()
        assert allocated_bytes(region.tags_fd) == before

    def test_read_page_tags_into_given_memory_overwrites_all_of_it(self, region: Region) -> None:
        region.raw_tags.reshape(-1, 128)[[2, 500]] = [[0x21], [0x43]]
        out = np.full((6, 128), 0xEE, np.uint8)

        rows = region.read_page_tags(self.PAGES, out)

        assert rows is out
        assert out[:, 0].tolist() == [0, 0x21, 0, 0, 0x43, 0]
        assert (out == out[:, :1]).all()

    @pytest.mark.parametrize(
        "out",
        [
            np.zeros((5, 128), np.uint8),
            np.zeros((6, 127), np.uint8),
            np.zeros(6 * 128, np.uint8),
            np.zeros((6, 128), np.uint16),
            np.zeros((6, 256), np.uint8)[:, ::2],
        ],
    )
    def test_read_page_tags_into_memory_of_another_form_raises(
        self, region: Region, out: NDArray[np.uint8]
    ) -> None:
        with pytest.raises(UsageError, match=r"tags of 6 pages need contiguous uint8 of shape"):
            region.read_page_tags(self.PAGES, out)

        assert not out.any()

    def test_read_pages_beyond_the_end_raises(self, region: Region) -> None:
        with pytest.raises(HostError, match="reading pages of tagalong-ram failed"):
            region.read_pages_into(np.zeros(4096, np.uint8), np.array([1024], np.int64))

    def test_read_pages_after_close_raises(self, region: Region) -> None:
        region.close()

        with pytest.raises(RunStateError, match="is closed"):
            region.read_page_tags(self.PAGES)


def test_write_data_of_much_reaches_the_mapping_and_fills_no_other_page(region: Region) -> None:
    data = np.frombuffer(os.urandom(MIB + 5), np.uint8)

    region.write_data(2 * HOST_PAGE + 3, data)

    first, last = 2, (2 * HOST_PAGE + 3 + data.size - 1) // HOST_PAGE
    assert region.data_pages().runs().tolist() == [[first, last - first + 1]]
    assert (region.data[2 * HOST_PAGE + 3 :][: data.size] == data).all()


def test_write_data_beyond_a_limit_on_files_is_written_all_the_same(region: Region) -> None:
    data = np.frombuffer(os.urandom(MIB), np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB // 2, before[1]))
        region.write_data(0, data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert (region.data[: data.size] == data).all()
