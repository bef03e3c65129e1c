"""Arrays of which few entries are used."""

import numpy as np

from tagalong.memory.sparse import sparse_zeros


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


def test_sparse_zeros_of_nothing_is_empty() -> None:
    assert sparse_zeros(0, np.bool_).size == 0
