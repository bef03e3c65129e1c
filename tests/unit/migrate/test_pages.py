"""Which records a batch becomes, and what is touched at the receiving end."""

from collections.abc import Iterator

import numpy as np
import pytest
from tests.support.fake_machine import RAM, FakeMachine, contents, describe

from tagalong.memory import PageBitmap, Region
from tagalong.migrate.page_sender import BATCH_BYTES, _batches, _stretches
from tagalong.migrate.page_taker import PageTaker
from tagalong.wire import NoBytes, Pages

PAGE = 4096


def flags(pattern: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array([each == "0" for each in pattern], np.bool_)


@pytest.mark.parametrize(
    ("pattern", "stretches"),
    [
        ("x", [(0, 1, False)]),
        ("0", [(0, 1, True)]),
        ("000", [(0, 3, True)]),
        ("xxxx", [(0, 4, False)]),
        ("x0x", [(0, 3, False)]),
        ("x0000000x", [(0, 9, False)]),
        ("x00000000x", [(0, 1, False), (1, 9, True), (9, 10, False)]),
        ("00000000x", [(0, 8, True), (8, 9, False)]),
        ("x00000000", [(0, 1, False), (1, 9, True)]),
        ("0x00000000", [(0, 2, False), (2, 10, True)]),
        ("x0x00000000x0", [(0, 3, False), (3, 11, True), (11, 13, False)]),
    ],
)
def test_stretches_of_a_batch_separate_only_what_is_worth_a_record(
    pattern: str, stretches: list[tuple[int, int, bool]]
) -> None:
    assert list(_stretches(flags(pattern))) == stretches


def test_batches_cover_every_page_once_and_are_not_too_large() -> None:
    with Region.create(RAM, 0x80_0000) as region:
        bitmap = PageBitmap(region.page_count)
        bitmap.set_range(3, 1)
        bitmap.set_range(10, 700)
        bitmap.set_range(region.page_count - 1, 1)

        batches = list(_batches(region, bitmap))

    assert batches == [
        (3 * PAGE, PAGE),
        (10 * PAGE, BATCH_BYTES),
        (10 * PAGE + BATCH_BYTES, BATCH_BYTES),
        (10 * PAGE + 2 * BATCH_BYTES, 188 * PAGE),
        (0x7F_F000, PAGE),
    ]


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    machine = FakeMachine(describe(0x10_0000, 0x1_0000))
    yield machine
    machine.close()


def test_taker_given_zero_for_holes_leaves_them(machine: FakeMachine) -> None:
    taker = PageTaker(machine, has_tags=True)

    taker.take(Pages(RAM, 0x100, NoBytes.ZERO, NoBytes.ZERO))

    assert [bitmap.count() for bitmap in machine.populated_pages()] == [0, 0]
    assert (taker.pages, taker.end_round(), taker.end_round()) == (0x100, 0x100, 0)


def test_taker_given_zero_after_bytes_clears_those_pages_alone(machine: FakeMachine) -> None:
    taker = PageTaker(machine, has_tags=True)
    taker.place(RAM + 4 * PAGE, 2 * PAGE)[:] = bytes([9]) * (2 * PAGE)
    tags = memoryview(bytes([0x11]) * 256)
    taker.take(Pages(RAM + 4 * PAGE, 2, memoryview(bytes(2 * PAGE)), tags))

    taker.take(Pages(RAM, 5, NoBytes.ZERO, NoBytes.ZERO))

    data, packed = contents(machine)[0]
    assert not any(data[: 5 * PAGE])
    assert data[5 * PAGE : 6 * PAGE] == bytes([9]) * PAGE
    assert not any(packed[: 5 * 128])
    assert packed[5 * 128 : 6 * 128] == bytes([0x11]) * 128
    assert machine.populated_pages()[0].pages().tolist() == [4, 5]


def test_taker_given_tags_alone_writes_no_data(machine: FakeMachine) -> None:
    taker = PageTaker(machine, has_tags=True)

    taker.take(Pages(RAM + PAGE, 1, NoBytes.ZERO, memoryview(bytes([0x22]) * 128)))

    region = machine.memory.regions[0]
    assert machine.populated_pages()[0].pages().tolist() == [1]
    assert not any(region.read_data(0, region.size_bytes))


def test_taker_clears_what_was_there_and_never_came(machine: FakeMachine) -> None:
    for region in machine.memory.regions:
        region.data[: 3 * PAGE] = 5
        region.tags[: 3 * 128] = 0x55
    taker = PageTaker(machine, has_tags=True)
    taker.place(RAM, PAGE)[:] = bytes([6]) * PAGE
    taker.take(Pages(RAM, 1, memoryview(bytes(PAGE)), NoBytes.ZERO))

    taker.clear_stale()

    (data, tags), (other_data, other_tags) = contents(machine)
    assert data[:PAGE] == bytes([6]) * PAGE
    assert not any(data[PAGE:])
    assert not any(tags)
    assert not any(other_data)
    assert not any(other_tags)
