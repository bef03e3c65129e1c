"""Huge pages for memory that is about to be written."""

import errno
import mmap
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from tagalong.errors import RunStateError
from tagalong.memory import Gpa, Region
from tagalong.memory import huge_pages as module
from tagalong.memory.huge_pages import HUGE_BYTES
from tagalong.mte import PAGE_SIZES_BYTES

BASE = Gpa(0x4000_0000)
SIZE = 4 * HUGE_BYTES
BLOCK_PAGES = HUGE_BYTES // mmap.PAGESIZE


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the kernel is asked to make huge: address and size."""
    found: list[tuple[int, int]] = []

    def madvise(address: int, size_bytes: int, advice: int) -> int:
        assert advice == 25
        found.append((address, size_bytes))
        return -1  # as a kernel that has no huge page

    monkeypatch.setattr(module, "_libc", SimpleNamespace(madvise=madvise))
    return found


@pytest.mark.parametrize("size_bytes", [HUGE_BYTES, SIZE, 65 * mmap.PAGESIZE + SIZE])
def test_region_lies_where_a_huge_page_can_be_mapped(size_bytes: int) -> None:
    with Region.create(BASE, size_bytes, page_size_bytes=mmap.PAGESIZE) as region:
        assert region.data_address % HUGE_BYTES == 0
        region.raw_data[size_bytes - 1] = 7
        assert region.read_data(size_bytes - 1, 1)[0] == 7


def test_region_counts_against_no_limit_on_data() -> None:
    words = Path("/proc/self/status").read_text().split()
    data_bytes = int(words[words.index("VmData:") + 1]) << 10
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    size_bytes = 1 << 40
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes + (1 << 30), limit[1]))
        with Region.create(BASE, size_bytes, page_size_bytes=mmap.PAGESIZE) as region:
            assert region.size_bytes == size_bytes
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limit)


def test_region_is_unmapped_when_the_last_view_of_it_goes() -> None:
    region = Region.create(BASE, SIZE, page_size_bytes=mmap.PAGESIZE, name="last-view")
    part = region.data[HUGE_BYTES : 2 * HUGE_BYTES]
    maps = Path("/proc/self/maps")

    region.close()
    before = maps.read_text().count("memfd:tagalong-last-view ")
    assert not part.any()
    del part, region

    assert before == 1
    assert "memfd:tagalong-last-view " not in maps.read_text()


def test_expect_data_asks_for_the_huge_pages_that_are_wholly_in_the_range(
    asked: list[tuple[int, int]],
) -> None:
    with Region.create(BASE, SIZE, page_size_bytes=mmap.PAGESIZE) as region:
        region.expect_data(mmap.PAGESIZE, 3 * HUGE_BYTES)

        assert asked == [(region.data_address + HUGE_BYTES, 2 * HUGE_BYTES)]


def test_expect_data_without_a_huge_page_leaves_holes(asked: list[tuple[int, int]]) -> None:
    with Region.create(BASE, SIZE, page_size_bytes=mmap.PAGESIZE) as region:
        region.expect_data(0, 2 * HUGE_BYTES)

        assert asked
        assert region.data_pages().pages().tolist() == [0, BLOCK_PAGES]
        assert not region.data.any()


def test_expect_data_under_a_limit_on_files_leaves_holes(
    asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.EFBIG, f"{descriptor} {len(data)} {offset}")

    with Region.create(BASE, SIZE, page_size_bytes=mmap.PAGESIZE) as region:
        with monkeypatch.context() as limited:
            limited.setattr(os, "pwrite", pwrite)
            region.expect_data(0, SIZE)

        assert not asked
        assert not region.data_pages().count()


@pytest.mark.parametrize(("start", "size_bytes"), [(0, HUGE_BYTES - 1), (1, HUGE_BYTES), (5, 0)])
def test_expect_data_of_less_than_a_huge_page_does_nothing(
    start: int, size_bytes: int, asked: list[tuple[int, int]]
) -> None:
    with Region.create(BASE, SIZE, page_size_bytes=mmap.PAGESIZE) as region:
        region.expect_data(start, size_bytes)

        assert not asked
        assert not region.data_pages().count()


def test_expect_data_of_a_range_in_use_leaves_it_alone(asked: list[tuple[int, int]]) -> None:
    with Region.create(BASE, SIZE, page_size_bytes=mmap.PAGESIZE) as region:
        region.raw_data[HUGE_BYTES] = 3

        region.expect_data(0, SIZE)

        assert not asked
        assert region.read_data(HUGE_BYTES, 1)[0] == 3


def test_expect_data_touches_nothing_but_whole_huge_pages_and_leaves_them_zero() -> None:
    with Region.create(BASE, SIZE, page_size_bytes=mmap.PAGESIZE) as region:
        region.expect_data(mmap.PAGESIZE, 3 * HUGE_BYTES)

        used = region.data_pages().flags()
        assert used[[BLOCK_PAGES, 2 * BLOCK_PAGES]].all()
        assert not used[:BLOCK_PAGES].any()
        assert not used[3 * BLOCK_PAGES :].any()
        assert not region.data.any()


def test_expect_data_of_a_closed_region_is_refused() -> None:
    region = Region.create(BASE, SIZE, page_size_bytes=mmap.PAGESIZE)
    region.close()

    with pytest.raises(RunStateError, match="closed"):
        region.expect_data(0, HUGE_BYTES)


@pytest.mark.lab
def test_expect_data_in_the_lab_allocates_huge_pages() -> None:
    with Region.create(BASE, SIZE, page_size_bytes=mmap.PAGESIZE) as region:
        region.expect_data(mmap.PAGESIZE, 3 * HUGE_BYTES)

        used = region.data_pages().flags()
        assert used[BLOCK_PAGES]
        assert not region.data.any()
        # Those of larger pages are so large that there may be none.
        assert used.sum() == 2 * BLOCK_PAGES or PAGE_SIZES_BYTES[0] < mmap.PAGESIZE
