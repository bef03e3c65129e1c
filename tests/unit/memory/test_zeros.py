"""Arrays of which few entries are used, or most."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong.memory.zeros import dense_zeros, sparse_zeros


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_sparse_zeros_take_memory_only_where_they_are_used() -> None:
    array = sparse_zeros(1 << 27, np.uint64)
    before = resident_bytes()

    array[:: 1 << 21] = 7

    assert resident_bytes() - before < 4 << 20
    assert array[1 << 21] == 7
    assert not array[1 : 1 << 21].any()


def test_dense_zeros_are_zero_and_their_own() -> None:
    array, other = dense_zeros(1 << 20, np.uint64), dense_zeros(1 << 20, np.uint64)
    before = resident_bytes()

    array[1 << 19] = 7

    assert resident_bytes() - before < 4 << 20
    assert np.flatnonzero(array).tolist() == [1 << 19]
    assert not other.any()


@pytest.mark.parametrize("zeros", [sparse_zeros, dense_zeros])
def test_zeros_of_nothing_are_empty(zeros: Callable[..., NDArray[np.bool_]]) -> None:
    assert zeros(0, np.bool_).size == 0
