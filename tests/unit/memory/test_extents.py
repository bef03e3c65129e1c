"""file_extents: where the content of a sparse file is, without touching it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagalong._native import library
from tagalong.errors import HostError
from tagalong.memory import extents
from tagalong.memory.bitmap import flag_runs
from tagalong.memory.extents import file_extents

PAGE = 4096
Make = Callable[[list[int]], int]


@pytest.fixture(params=["memfd", "file"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Return what makes a file of 1000 pages, of which these have content."""
    descriptors: list[int] = []

    def make(pages: list[int]) -> int:
        path = tmp_path / f"{len(descriptors)}"
        fd = os.memfd_create("x") if request.param == "memfd" else os.open(path, os.O_RDWR | 64)
        descriptors.append(fd)
        os.ftruncate(fd, 1000 * PAGE)
        for page in pages:
            os.pwrite(fd, b"content", page * PAGE)
        return fd

    yield make
    for fd in descriptors:
        os.close(fd)


def in_pages(fd: int, start: int, stop: int) -> list[tuple[int, int]]:
    found = file_extents(fd, start * PAGE, stop * PAGE, "the file")
    return [(low // PAGE, high // PAGE) for low, high in found]


def test_extents_are_cut_to_the_range_that_was_asked_for(make: Make) -> None:
    fd = make([1, 2, 3, 10])

    assert in_pages(fd, 0, 1000) == [(1, 4), (10, 11)]
    assert in_pages(fd, 2, 11) == [(2, 4), (10, 11)]
    assert in_pages(fd, 2, 3) == [(2, 3)]
    assert in_pages(fd, 4, 10) == []
    assert in_pages(fd, 10, 10) == []


def test_extents_of_a_file_without_holes_are_one_and_not_walked(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = make([*range(1000)])
    monkeypatch.setattr(extents, "library", lambda: pytest.fail("walked along the file"))

    assert in_pages(fd, 3, 7) == [(3, 7)]
    assert in_pages(fd, 7, 7) == []


def test_extents_more_than_a_batch_are_all_found(make: Make) -> None:
    pages = [*range(1, 1000, 2)]
    fd = make(pages)

    assert in_pages(fd, 0, 1000) == [(page, page + 1) for page in pages]


def test_extents_of_a_short_range_do_not_walk_along_the_whole_file(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd, asked = make([*range(1, 1000, 2)]), []
    native = library()

    class Counting:
        def ta_file_extents(self, fd: int, at: int, found: int, most: int) -> int:
            asked.append(most)
            return int(native.ta_file_extents(fd, at, found, most))

    monkeypatch.setattr(extents, "library", Counting)

    assert in_pages(fd, 0, 4) == [(1, 2), (3, 4)]
    assert asked == [64]


def test_extents_of_what_is_no_file_say_what_failed() -> None:
    reader, writer = os.pipe()
    with pytest.raises(HostError, match=r"^lseek of a pipe from 0x0 on failed: Illegal seek$"):
        list(file_extents(reader, 0, 1, "a pipe"))
    os.close(reader)
    os.close(writer)
    with pytest.raises(HostError, match=r"^fstat of nothing failed: .*Bad file descriptor$"):
        list(file_extents(1 << 30, 0, 1, "nothing"))


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 99)), st.integers(0, 100), st.integers(0, 100))
def test_extents_are_what_was_written_whatever_the_range(
    pages: set[int], start: int, stop: int
) -> None:
    fd = os.memfd_create("x")
    os.ftruncate(fd, 100 * PAGE)
    for page in pages:
        os.pwrite(fd, b"content", page * PAGE)
    flags = np.array([page in pages for page in range(start, stop)], np.bool_)

    found = in_pages(fd, start, stop)
    os.close(fd)

    # A file that takes as much as it is long has no holes, and neighbours are one extent.
    assert [[low, high] for low, high in found] == flag_runs(flags, start)
