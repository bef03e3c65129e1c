"""Private memory that begins as the content of a file, and the file stays as it is."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tagalong.errors import AddressError, HostError, RunStateError, UsageError
from tagalong.memory import FileRange, Gpa, PrivatePlane, Region, RegionSource
from tagalong.memory.bitmap import flag_runs
from tagalong.memory.private import _joined

PAGE = mmap.PAGESIZE
PAGES = 64
SIZE = PAGES * PAGE


@pytest.fixture
def file(tmp_path: Path) -> Iterator[FileRange]:
    """Return a range of a file, one page into it, with content in its pages 2, 3 and 40."""
    path = tmp_path / "core"
    with path.open("wb+") as stream:
        stream.write(b"\xee" * PAGE)
        stream.truncate(PAGE + SIZE)
        for page in (2, 3, 40):
            stream.seek(PAGE + page * PAGE)
            stream.write(bytes([page]) * PAGE)
        stream.flush()
        yield FileRange(path, stream.fileno(), PAGE, SIZE)


def disk_bytes(file: FileRange) -> int:
    return os.fstat(file.fd).st_blocks * 512


def used(plane: PrivatePlane) -> list[int]:
    return np.flatnonzero(plane.used_pages(0, PAGE, PAGES)).tolist()


def test_file_range_extents_are_counted_from_its_offset(file: FileRange) -> None:
    assert list(file.extents()) == [(2 * PAGE, 4 * PAGE), (40 * PAGE, 41 * PAGE)]


def test_file_range_of_hole_at_the_end_has_no_extents(file: FileRange) -> None:
    tail = FileRange(file.path, file.fd, file.offset + 50 * PAGE, 14 * PAGE)

    assert list(tail.extents()) == []


def test_file_range_that_ends_inside_an_extent_is_cut(file: FileRange) -> None:
    head = FileRange(file.path, file.fd, file.offset, 3 * PAGE)

    assert list(head.extents()) == [(2 * PAGE, 3 * PAGE)]


def test_private_plane_has_the_file_s_content(file: FileRange) -> None:
    plane = PrivatePlane("ram", SIZE, file)

    expected = np.zeros(SIZE, np.uint8)
    for page in (2, 3, 40):
        expected[page * PAGE : (page + 1) * PAGE] = page
    assert np.array_equal(plane.array, expected)
    assert plane.is_of_file


def test_private_plane_written_to_leaves_file_and_its_size_on_disk(file: FileRange) -> None:
    before, disk_before = file.path.read_bytes(), disk_bytes(file)
    plane = PrivatePlane("ram", SIZE, file)

    plane.array[:] = 0xAA

    assert file.path.read_bytes() == before
    assert disk_bytes(file) == disk_before


def test_private_plane_knows_pages_of_the_file_and_its_own(file: FileRange) -> None:
    plane = PrivatePlane("ram", SIZE, file)
    before = used(plane)

    plane.array[3 * PAGE] = 1
    plane.array[50 * PAGE] = 1

    assert before == [2, 3, 40]
    assert used(plane) == [2, 3, 40, 50]
    page = PAGE
    assert list(plane.extents()) == [(2 * page, 4 * page), (40 * page, 41 * page),
                                     (50 * page, 51 * page)]  # fmt: skip


def test_private_plane_read_of_holes_keeps_them(file: FileRange) -> None:
    plane = PrivatePlane("ram", SIZE, file)
    target = np.full(3 * PAGE, 0xFF, np.uint8)

    plane.read_into(target, PAGE + 8)

    assert target[PAGE - 8] == 2
    assert not target[: PAGE - 8].any()
    assert used(plane) == [2, 3, 40]


def test_private_plane_scattered_pages_are_read_in_the_order_given(file: FileRange) -> None:
    plane = PrivatePlane("ram", SIZE, file)
    plane.array[50 * PAGE] = 7
    target = np.full(4 * PAGE, 0xFF, np.uint8)

    plane.read_pages_into(target, PAGE, np.array([50, 2, 10, 40]))

    assert target[::PAGE].tolist() == [7, 2, 0, 40]
    assert used(plane) == [2, 3, 40, 50]


def test_private_plane_scattered_rows_smaller_than_a_page_are_read(file: FileRange) -> None:
    plane = PrivatePlane("tags", SIZE, file)
    target = np.full(3 * 128, 0xFF, np.uint8)
    row = PAGE // 128

    plane.read_pages_into(target, 128, np.array([0, 2 * row, 40 * row + 1]))
    plane.read_pages_into(target[:0], 128, np.array([], np.int64))

    assert target[::128].tolist() == [0, 2, 40]


def test_private_plane_in_other_pages_than_the_host_s_finds_those_that_touch(
    file: FileRange,
) -> None:
    plane = PrivatePlane("ram", SIZE, file)

    larger = plane.used_pages(0, 4 * PAGE, 16)
    smaller = plane.used_pages(PAGE + PAGE // 2, PAGE // 2, 5)

    assert np.flatnonzero(larger).tolist() == [0, 10]
    assert np.flatnonzero(smaller).tolist() == [1, 2, 3, 4]


def test_private_plane_of_many_extents_maps_no_more_than_it_may(tmp_path: Path) -> None:
    path = tmp_path / "core"
    pages = 10_000
    with path.open("wb+") as stream:
        stream.truncate(pages * PAGE)
        for page in range(0, pages, 2):
            os.pwrite(stream.fileno(), b"\x01", page * PAGE)
        before = len(Path("/proc/self/maps").read_text().splitlines())

        plane = PrivatePlane("ram", pages * PAGE, FileRange(path, stream.fileno(), 0, pages * PAGE))

        mappings = len(Path("/proc/self/maps").read_text().splitlines()) - before
    assert mappings < 8200
    assert np.array_equal(plane.array[::PAGE], np.arange(pages) % 2 == 0)
    assert np.flatnonzero(plane.used_pages(0, PAGE, 5)).tolist() == [0, 2, 4]


def test_joined_runs_are_those_with_the_smallest_gaps() -> None:
    runs = [(0, 1), (10, 11), (12, 13), (30, 31)]

    assert _joined(runs, 4) == runs
    assert _joined(runs, 3) == [(0, 1), (10, 13), (30, 31)]
    assert _joined(runs, 1) == [(0, 31)]


def test_private_plane_of_unaligned_range_is_refused(file: FileRange) -> None:
    crooked = FileRange(file.path, file.fd, 512, PAGE)

    with pytest.raises(UsageError, match="offset 0x200 cannot be mapped, it is not a multiple"):
        PrivatePlane("ram", PAGE, crooked)


def test_private_plane_of_range_behind_the_end_is_refused_and_no_sigbus(file: FileRange) -> None:
    long = FileRange(file.path, file.fd, 2 * PAGE, SIZE)

    with pytest.raises(HostError, match=r"\[0x2000, 0x42000\) is not in the file, which ends at"):
        PrivatePlane("ram", SIZE, long)


def test_private_plane_of_what_cannot_be_mapped_says_so(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(b"\x01" * PAGE)
    with path.open("wb") as stream:  # not open for reading
        os.ftruncate(stream.fileno(), PAGE)
        stream.write(b"\x01")
        stream.flush()
        write_only = FileRange(path, stream.fileno(), 0, PAGE)

        with pytest.raises(HostError, match=r"cannot map \[0x0, 0x1000\) of .*core: Permission"):
            PrivatePlane("ram", PAGE, write_only)


def test_private_plane_of_file_has_no_file_to_share(file: FileRange) -> None:
    with pytest.raises(HostError, match=r"guest memory ram is a copy-on-write mapping of .*core"):
        PrivatePlane("ram", SIZE, file).fd  # noqa: B018 (the property raises)


def test_private_plane_without_file_is_anonymous() -> None:
    with pytest.raises(HostError, match=r"guest memory ram is anonymous: there is no file"):
        PrivatePlane("ram", PAGE).fd  # noqa: B018 (the property raises)


def test_private_plane_after_close_refuses(file: FileRange) -> None:
    plane = PrivatePlane("ram", SIZE, file)

    plane.close()
    plane.close()

    with pytest.raises(RunStateError, match="guest memory ram is closed"):
        plane.array  # noqa: B018 (the property raises)


def test_private_plane_too_large_says_so() -> None:
    with pytest.raises(HostError, match="cannot create 0x4000000000000000 bytes of memory"):
        PrivatePlane("ram", 1 << 62)


def test_region_map_has_data_and_tags_of_the_file(file: FileRange) -> None:
    tags = FileRange(file.path, file.fd, file.offset + 40 * PAGE, SIZE // 32)

    region = Region.map(Gpa(0x4000_0000), SIZE, RegionSource(file, tags))

    assert (region.has_file_data, region.has_file_tags) == (True, True)
    assert (region.data[40 * PAGE], region.tags[0]) == (40, 40)
    # The tags of the first 32 pages are the file's page 40.
    assert region.populated_pages().pages().tolist() == [*range(32), 40]


def test_region_create_has_nothing_of_a_file() -> None:
    with Region.create(Gpa(0), SIZE) as region:
        assert (region.has_file_data, region.has_file_tags) == (False, False)


def test_region_map_misaligned_is_refused(file: FileRange) -> None:
    with pytest.raises(AddressError, match="gpa 0x1 is not a multiple of 0x1000"):
        Region.map(Gpa(1), SIZE, RegionSource(file, file))


def test_runs_of_finds_runs_at_both_ends() -> None:
    flags = np.array([True, False, True, True])

    assert flag_runs(flags, 10) == [[10, 11], [12, 14]]
    assert flag_runs(np.zeros(3, np.bool_)) == []


def test_private_plane_scattered_pages_are_read_and_holes_stay() -> None:
    plane = PrivatePlane("ram", 64 << 20)
    pages = np.array([1, 2, 40, 16383], np.int64)
    rows = plane.array.reshape(-1, PAGE)
    rows[2], rows[16383] = 2, 3
    target = np.full((4, PAGE), 0xEE, np.uint8)

    plane.read_pages_into(target, PAGE, pages)
    plane.read_pages_into(target[:0], PAGE, pages[:0])

    assert (target == [[0], [2], [0], [3]]).all()
    assert not plane.used_pages(PAGE, PAGE, 1).any()
    assert list(plane.extents()) == [(2 * PAGE, 3 * PAGE), (16383 * PAGE, 16384 * PAGE)]


def test_private_plane_scattered_units_of_a_file_are_read_where_it_has_content(
    file: FileRange,
) -> None:
    plane = PrivatePlane("tags", SIZE, file)
    units = PAGE // 128
    numbers = np.array([0, 2 * units, 3 * units + 5, 10 * units, 40 * units], np.int64)
    target = np.full((5, 128), 0xEE, np.uint8)

    plane.read_pages_into(target, 128, numbers)

    assert (target == [[0], [2], [3], [0], [40]]).all()
    assert used(plane) == [2, 3, 40]
