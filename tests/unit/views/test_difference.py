"""`compare_cores` finds each granule that differs, and says what only one core has."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tagalong.core import Space, open_core, pack
from tagalong.errors import MalformedCoreError, UsageError
from tagalong.views.difference import (
    Difference,
    DifferingRun,
    Differs,
    OnlyIn,
    compare_cores,
    intersect,
    joined,
    subtract,
)
from tests.support.core_builder import CoreBuilder, auxv, load, prstatus, tag_segment
from tests.support.cores import PAGE, RAM, notes, random_planes, write_core

AT = 0x5000_0000_0000


def compare(left: Path, right: Path, most_runs: int = 100) -> Difference:
    with open_core(left) as one, open_core(right) as other:
        return compare_cores(one, other, most_runs=most_runs)


def test_equal_cores_are_the_same(tmp_path: Path) -> None:
    data, tags = random_planes(4 * PAGE)
    for name in ("a", "b"):
        write_core(tmp_path / name, notes(), [data], [tags])

    found = compare(tmp_path / "a", tmp_path / "b")

    assert found.is_same
    assert (found.compared_data_bytes, found.compared_tag_bytes) == (4 * PAGE, 4 * PAGE)


@pytest.mark.parametrize("compressed", [False, True])
def test_runs_say_where_data_and_tags_differ(tmp_path: Path, *, compressed: bool) -> None:
    data, tags = random_planes(4 * PAGE)
    other, other_tags = data.copy(), tags.copy()
    other[0x100] += 1
    other[0x11F] += 1
    other[0x200:0x210] += 1
    other_tags[0x100 // 32] ^= 0x01  # the granule at 0x100
    other_tags[0x1000 // 32] ^= 0xF0  # the granule at 0x1010
    write_core(tmp_path / "a", notes(), [data], [tags])
    write_core(tmp_path / "b", notes(), [other], [other_tags])
    right = pack(tmp_path / "b", tmp_path / "b.zst").path if compressed else tmp_path / "b"

    found = compare(tmp_path / "a", right)

    first, second = int(tags[8]) & 15, int(tags[0x80]) >> 4
    upper = int(tags[8]) >> 4, int(tags[8]) >> 4
    same = int(tags[16]) & 15
    assert found.runs == [
        DifferingRun(RAM + 0x100, RAM + 0x110, Differs.BOTH, (first, first ^ 1)),
        DifferingRun(RAM + 0x110, RAM + 0x120, Differs.DATA, upper),
        DifferingRun(RAM + 0x200, RAM + 0x210, Differs.DATA, (same, same)),
        DifferingRun(RAM + 0x1010, RAM + 0x1020, Differs.TAG, (second, second ^ 15)),
    ]
    assert (found.data_granules, found.tag_granules, found.differing_granules) == (3, 2, 4)
    assert found.run_count == 4


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(0, 3))
def test_any_two_planes_differ_where_numpy_says(
    tmp_path: Path, seed: int, changes: int, most_runs: int
) -> None:
    draw = np.random.default_rng(seed)
    size = 3 * (256 << 10)
    data, tags = np.zeros(size, np.uint8), np.zeros(size // 32, np.uint8)
    data[draw.integers(0, size, 50)] = 7
    other, other_tags = data.copy(), tags.copy()
    # Around the borders of what is compared in one go, too.
    border = np.array([16383, 16384][: changes % 3], np.int64)
    places = np.append(draw.integers(0, size // 16, changes), border)
    other[places * 16] ^= 0x55
    other_tags[places[::2] // 2] = 0x33
    write_core(tmp_path / "a", notes(size), [data], [tags])
    write_core(tmp_path / "b", notes(size), [other], [other_tags])

    found = compare(tmp_path / "a", tmp_path / "b", most_runs)

    in_data = (data != other).reshape(-1, 16).any(axis=1)
    in_tags = np.stack((tags & 15 != other_tags & 15, tags >> 4 != other_tags >> 4), 1).reshape(-1)
    kinds = in_data + 2 * in_tags
    edges = np.flatnonzero(np.diff(kinds)) + 1
    runs = [part for part in np.split(kinds, edges) if part[0]]
    assert found.data_granules == np.count_nonzero(in_data)
    assert found.tag_granules == np.count_nonzero(in_tags)
    assert found.differing_granules == np.count_nonzero(kinds)
    assert found.run_count == len(runs)
    assert [run.granules for run in found.runs] == [part.size for part in runs[:most_runs]]


def test_holes_of_both_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 256 << 20
    for name, value in (("a", 1), ("b", 2)):
        write_core(tmp_path / name, notes(size), [np.full(PAGE, value, np.uint8)], [])
    read = 0

    with open_core(tmp_path / "a") as one, open_core(tmp_path / "b") as other:
        data_of = one.data

        def counting(address: int, length: int) -> object:
            nonlocal read
            read += length
            return data_of(address, length)

        monkeypatch.setattr(one, "data", counting)
        found = compare_cores(one, other, most_runs=5)

    assert found.runs == [DifferingRun(RAM, RAM + PAGE, Differs.DATA, (0, 0))]
    assert read == PAGE


def test_what_only_one_core_has_is_said_by_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(
        CoreBuilder([load(AT, bytes(2 * PAGE)), tag_segment(AT, bytes(PAGE // 32))]).build()
    )
    (tmp_path / "b").write_bytes(
        CoreBuilder([load(AT + PAGE, bytes(2 * PAGE)), tag_segment(AT, bytes(PAGE // 16))]).build()
    )

    found = compare(tmp_path / "a", tmp_path / "b")

    assert found.only_in == [
        OnlyIn(AT, AT + PAGE, "A", "data"),
        OnlyIn(AT + PAGE, AT + 2 * PAGE, "B", "tags"),
        OnlyIn(AT + 2 * PAGE, AT + 3 * PAGE, "B", "data"),
    ]
    assert (found.only_in_count, found.only_in_bytes) == (3, 3 * PAGE)
    assert not found.is_same
    assert found.differing_granules == 0


def test_data_that_end_inside_a_granule_are_compared(tmp_path: Path) -> None:
    for name, last in (("a", b"x"), ("b", b"y")):
        (tmp_path / name).write_bytes(
            CoreBuilder([load(AT + 5, bytes(30) + last, size_bytes=PAGE)]).build()
        )

    found = compare(tmp_path / "a", tmp_path / "b")

    assert found.runs == [DifferingRun(AT + 32, AT + 48, Differs.DATA, None)]


def test_registers_and_threads_are_compared(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CoreBuilder([], prstatus(pc=1) + auxv()).build())
    (tmp_path / "b").write_bytes(CoreBuilder([], prstatus(pc=2) + prstatus(2) + auxv()).build())

    found = compare(tmp_path / "a", tmp_path / "b")

    assert found.registers == {0: ("pc",)}
    assert found.thread_counts == (1, 2)
    assert not found.is_same


def test_cores_of_two_spaces_are_refused(tmp_path: Path) -> None:
    for name, space in (("a", Space.PHYSICAL), ("b", Space.USER)):
        write_core(tmp_path / name, notes(space=space), [np.zeros(PAGE, np.uint8)])

    with pytest.raises(UsageError, match=r"mean different things \(physical and user\)"):
        compare(tmp_path / "a", tmp_path / "b")


def test_segments_that_share_bytes_of_the_file_are_refused(tmp_path: Path) -> None:
    many = [
        load(AT + n * PAGE, b"", size_bytes=PAGE, file_bytes=PAGE, offset=0) for n in range(500)
    ]
    (tmp_path / "a").write_bytes(CoreBuilder(many).build() + bytes(PAGE))

    with pytest.raises(MalformedCoreError, match="name 0x1f4000 bytes of data and tags"):
        compare(tmp_path / "a", tmp_path / "a")


INTERVALS = st.lists(st.integers(0, 40), max_size=12, unique=True).map(
    lambda edges: [*zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False)]
)


def points(intervals: Iterable[tuple[int, int]]) -> set[int]:
    return {point for start, stop in intervals for point in range(start, stop)}


@given(INTERVALS, INTERVALS)
def test_intervals_are_sets(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    assert points(intersect(left, right)) == points(left) & points(right)
    assert points(subtract(left, right)) == points(left) - points(right)
    assert points(joined(sorted(left + right))) == points(left) | points(right)
