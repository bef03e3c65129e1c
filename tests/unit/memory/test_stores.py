"""The log of the host's stores: nothing is lost, whenever a harvest comes."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from tagalong.memory import Gpa, GuestMemory, HostStores, Region
from tagalong.mte import PACKED_RATIO

GPA = Gpa(0x4000_0000)
PAGE = 4096

Store = Callable[[], None]


@pytest.fixture
def region() -> Region:
    return Region.create(GPA, 64 * PAGE)


def test_harvest_without_a_log_has_nothing() -> None:
    stores = HostStores(64)

    stores.mark(3, 2)

    assert stores.harvest().count() == 0


def test_harvest_gives_each_mark_once() -> None:
    stores = HostStores(64)
    stores.start()
    stores.mark(3, 2)
    stores.mark_pages(np.array([7, 8, 63]))

    assert stores.harvest().pages().tolist() == [3, 4, 7, 8, 63]
    assert stores.harvest().count() == 0


def test_pages_that_a_function_sets_are_marked_while_a_log_is_on() -> None:
    stores = HostStores(64)
    stores.mark_by(lambda pages: pages.set_range(1, 1))
    stores.start()

    stores.mark_by(lambda pages: pages.set_range(3, 2))

    assert stores.is_logging
    assert stores.harvest().pages().tolist() == [3, 4]


def test_stop_forgets_the_marks() -> None:
    stores = HostStores(64)
    stores.start()
    stores.mark(3, 2)

    stores.stop()
    stores.start()

    assert stores.harvest().count() == 0


def test_store_in_progress_is_in_the_harvest_of_now_and_in_the_next() -> None:
    stores = HostStores(64)
    stores.start()

    with stores.storing(5, 1):
        during = stores.harvest()
    after = stores.harvest()

    assert during.pages().tolist() == after.pages().tolist() == [5]


def test_store_in_progress_when_the_log_starts_is_in_it() -> None:
    stores = HostStores(64)

    with stores.storing_pages(np.array([5, 9])):
        stores.start()

    assert stores.harvest().pages().tolist() == [5, 9]


def test_store_that_fails_is_in_the_log_twice_too() -> None:
    stores = HostStores(64)
    stores.start()

    def fail_half_way() -> None:
        with stores.storing(5, 1):
            stores.harvest()
            raise OSError("half done")

    with pytest.raises(OSError, match="half done"):
        fail_half_way()

    assert stores.harvest().pages().tolist() == [5]


def test_every_way_to_store_is_in_the_log(region: Region) -> None:
    memory = GuestMemory([region])
    pages = np.array([40, 43], np.int64)
    packed = np.full((2, PAGE // PACKED_RATIO), 0x21, np.uint8)
    cases: dict[str, tuple[Store, list[int]]] = {
        "write": (lambda: memory.write(Gpa(GPA + 2 * PAGE - 1), b"ab"), [1, 2]),
        "write nothing": (lambda: memory.write(GPA, b""), []),
        "write_tags": (lambda: memory.write_tags(Gpa(GPA + 5 * PAGE), packed[0]), [5]),
        "write_data": (lambda: region.write_data(9 * PAGE, packed[0]), [9]),
        "write_pages": (
            lambda: region.write_pages(pages, np.zeros((1, PAGE), np.uint8)),
            [40, 43],
        ),
        "write_packed_tags": (lambda: region.write_packed_tags(11 * PAGE, packed[0]), [11]),
        "write_page_tags": (lambda: region.write_page_tags(pages, packed), [40, 43]),
    }
    region.stores.start()

    found = {}
    for name, (store, _) in cases.items():
        store()
        found[name] = region.stores.harvest().pages().tolist()

    assert found == {name: expected for name, (_, expected) in cases.items()}


def test_views_for_reading_cannot_store(region: Region) -> None:
    for view in (region.data, region.tags):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1


def test_copy_by_harvests_of_pages_that_threads_store_to_ends_equal(region: Region) -> None:
    """Four threads store, one harvests and copies: after the last harvest all is there."""
    region.stores.start()
    copy = np.zeros(region.size_bytes, np.uint8)

    def store(number: int) -> None:
        draw = np.random.default_rng(number)
        for value in range(400):
            first = int(draw.integers(0, 62)) * PAGE + int(draw.integers(0, PAGE))
            region.write_data(first, np.full(PAGE, value & 0xFF, np.uint8))

    def harvest() -> None:
        for first, count in region.stores.harvest().runs().tolist():
            start, stop = first * PAGE, (first + count) * PAGE
            copy[start:stop] = region.read_data(start, stop - start)

    threads = [threading.Thread(target=store, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        harvest()
    for thread in threads:
        thread.join()
    harvest()

    assert np.array_equal(copy, region.data)
