"""Memory made ready ahead of need."""

import os
from collections.abc import Iterator

import pytest

from tagalong.errors import HostError
from tagalong.memory import Gpa, Region
from tagalong.memory.reserve import release_reserved, reserve, take_reserved

SIZE = 0x40_0000


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    release_reserved()


def test_region_of_the_reserved_size_takes_it_with_all_pages_there() -> None:
    reserve(SIZE, lambda: False)

    with Region.create(Gpa(0x4000_0000), SIZE) as region:
        assert region.was_reserved
        assert region.data_pages().flags().all()
        assert not region.data.any()
        region.raw_data[5] = 9
        assert os.pread(region.data_fd, 1, 5) == b"\t"

    assert take_reserved(SIZE) is None


def test_region_of_another_size_has_holes() -> None:
    reserve(SIZE, lambda: False)

    with Region.create(Gpa(0x4000_0000), SIZE // 2) as region:
        assert not region.was_reserved
        assert not region.data_pages().count()


def test_reserve_that_is_enough_early_leaves_the_rest_as_holes() -> None:
    asked: list[int] = []

    def is_enough() -> bool:
        asked.append(1)
        return len(asked) > 1

    reserve(1 << 26, is_enough)

    with Region.create(Gpa(0x4000_0000), 1 << 26) as region:
        assert region.was_reserved
        used = region.data_pages().flags()
        assert used[: 1 << 13].all()
        assert not used[1 << 13 :].any()


def test_reserve_of_what_the_host_does_not_have_raises() -> None:
    with pytest.raises(HostError, match="cannot reserve 4611686018427387904 bytes"):
        reserve(1 << 62, lambda: False)
