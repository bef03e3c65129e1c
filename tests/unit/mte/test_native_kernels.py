"""The kernels of native/tags.c themselves: equal to their twins, and never out of bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from tagalong._native import library
from tagalong.mte import numpy_kernels
from tagalong.mte.numpy_kernels import TAG_RUN

modest = settings(max_examples=60, deadline=None)
GUARD = 0xA5

planes = npst.arrays(
    np.uint8, st.integers(0, 100), elements=st.sampled_from([0x00, 0x11, 0x10, 0x01, 0xF0, 0xFF])
)
misalignments = st.integers(0, 7)


def misaligned(array: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """Return a contiguous copy that starts `by` bytes after a multiple of 8."""
    room = np.zeros(array.size + 16, np.uint8)
    start = -room.ctypes.data % 8 + by
    room[start : start + array.size] = array
    return room[start : start + array.size]


@modest
@given(planes, misalignments)
def test_ta_tags_unpack_any_alignment_writes_its_output_and_no_more(
    packed: NDArray[np.uint8], by: int
) -> None:
    room = np.full(2 * packed.size + 32, GUARD, np.uint8)
    out = room[by : by + 2 * packed.size]

    library().ta_tags_unpack(misaligned(packed, by).ctypes.data, out.ctypes.data, 2 * packed.size)

    assert np.array_equal(out, numpy_kernels.unpack(packed))
    assert (room[:by] == GUARD).all()
    assert (room[by + out.size :] == GUARD).all()


@modest
@given(planes, misalignments)
def test_ta_tags_pack_any_alignment_writes_its_output_and_no_more(
    packed: NDArray[np.uint8], by: int
) -> None:
    one_a_byte = misaligned(numpy_kernels.unpack(packed), by)
    room = np.full(packed.size + 32, GUARD, np.uint8)
    out = room[by : by + packed.size]

    library().ta_tags_pack(one_a_byte.ctypes.data, out.ctypes.data, one_a_byte.size)

    assert np.array_equal(out, packed)
    assert (room[:by] == GUARD).all()
    assert (room[by + out.size :] == GUARD).all()


@modest
@given(planes.filter(len), misalignments, st.integers(0, 40), st.booleans())
def test_ta_tags_runs_with_any_room_counts_all_and_writes_what_fits(
    packed: NDArray[np.uint8], by: int, room: int, odd: bool
) -> None:
    granules = 2 * packed.size - odd
    expected = numpy_kernels.runs(packed)
    if odd:  # the last granule is not part of the plane
        expected["length"][-1] -= 1
        expected = expected[expected["length"] > 0]
    found = np.zeros(room + 1, TAG_RUN)
    found[room] = (GUARD, GUARD, GUARD)

    source = misaligned(packed, by)
    count = library().ta_tags_runs(source.ctypes.data, granules, found.ctypes.data, room)

    written = min(room, count)
    assert count == expected.size
    assert np.array_equal(found[:written], expected[:written])
    assert found[room].item() == (GUARD, GUARD, GUARD)


@pytest.mark.parametrize("page_bytes", [8, 56, 64, 72, 128, 4096])
@pytest.mark.parametrize("by", [0, 3])
def test_ta_pages_zero_with_a_byte_set_at_each_place_sees_it(page_bytes: int, by: int) -> None:
    plane = misaligned(np.zeros(2 * page_bytes, np.uint8), by)
    is_zero = np.full(3, GUARD, np.uint8)
    step = max(1, page_bytes // 128)
    for place in (*range(0, page_bytes, step), page_bytes - 1):
        plane[page_bytes + place] = 0x80

        library().ta_pages_zero(plane.ctypes.data, 2, page_bytes, is_zero.ctypes.data)

        assert is_zero.tolist() == [1, 0, GUARD]
        plane[page_bytes + place] = 0
