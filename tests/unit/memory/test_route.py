"""Data copied by a route: what is a hole is not asked for, the rest goes through it."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong.memory import Gpa, GuestMemory, Region

GPA = Gpa(0x4000_0000)
PAGE = 4096


class Route:
    """Reads and writes as the region does by itself, and takes notes."""

    def __init__(self, region: Region) -> None:
        self._data = region.raw_data
        self.seen: list[tuple[str, int, int]] = []

    def read(self, gpa: Gpa, target: NDArray[np.uint8]) -> None:
        self.seen.append(("read", gpa - GPA, target.size))
        target[:] = self._data[gpa - GPA : gpa - GPA + target.size]

    def write(self, gpa: Gpa, source: NDArray[np.uint8]) -> None:
        self.seen.append(("write", gpa - GPA, source.size))
        self._data[gpa - GPA : gpa - GPA + source.size] = source


@pytest.fixture
def region() -> Iterator[Region]:
    with Region.create(GPA, 16 * PAGE) as region:
        region.raw_data[2 * PAGE : 4 * PAGE] = 7
        region.raw_data[9 * PAGE] = 9
        yield region


def test_read_asks_the_route_for_used_pages_only(region: Region) -> None:
    expected = region.data.copy()
    with Region.create(GPA, 16 * PAGE) as other:  # the copy above has filled the holes
        other.raw_data[2 * PAGE : 4 * PAGE] = 7
        other.raw_data[9 * PAGE] = 9
        route = Route(other)
        other.route(route)

        got = other.read_data(PAGE + 5, 9 * PAGE)

        np.testing.assert_array_equal(got, expected[PAGE + 5 : 10 * PAGE + 5])
        assert route.seen == [("read", 2 * PAGE, 2 * PAGE), ("read", 9 * PAGE, PAGE)]
        assert other.populated_pages().pages().tolist() == [2, 3, 9]


def test_read_within_used_pages_is_one_request(region: Region) -> None:
    route = Route(region)
    region.route(route)

    assert region.read_data(3 * PAGE - 4, 8).tolist() == [7] * 8

    assert route.seen == [("read", 3 * PAGE - 4, 8)]


def test_pages_are_read_and_written_by_runs(region: Region) -> None:
    route, pages = Route(region), np.array([2, 3, 9, 12], np.int64)
    region.route(route)
    rows = np.empty(4 * PAGE, np.uint8)

    region.read_pages_into(rows, pages)
    region.write_pages(pages, np.full((1, PAGE), 5, np.uint8))

    assert rows.reshape(4, -1)[:, 0].tolist() == [7, 7, 9, 0]
    assert route.seen == [
        ("read", 2 * PAGE, 2 * PAGE), ("read", 9 * PAGE, PAGE),
        ("write", 2 * PAGE, 2 * PAGE), ("write", 9 * PAGE, PAGE), ("write", 12 * PAGE, PAGE),
    ]  # fmt: skip
    assert [region.data[number * PAGE] for number in (2, 3, 9, 12)] == [5] * 4


def test_memory_writes_by_the_route_until_it_is_taken_away(region: Region) -> None:
    route, memory = Route(region), GuestMemory([region])
    region.route(route)

    assert region.is_routed
    memory.write(Gpa(GPA + 5), b"guest")
    region.route(None)
    memory.write(Gpa(GPA + 5), b"other")

    assert not region.is_routed
    assert route.seen == [("write", 5, 5)]
    assert memory.read(Gpa(GPA + 5), 5) == b"other"


def test_pages_are_written_directly_without_a_route(region: Region) -> None:
    rows = np.arange(2 * PAGE).astype(np.uint8).reshape(2, -1)

    region.write_pages(np.array([1, 14], np.int64), rows)

    np.testing.assert_array_equal(region.data.reshape(16, -1)[[1, 14]], rows)
