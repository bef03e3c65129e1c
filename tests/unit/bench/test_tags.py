"""The contest of codings: both give the tags back, and take what their documents say."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.tags.contest import Kernels, Ours
from bench.tags.heaps import crash, tagged_pages
from tagalong.mte import tags


def pages_of_runs(count: int) -> NDArray[np.uint8]:
    """Return one page that has so many runs."""
    lengths = [1] * (count - 1) + [256 - (count - 1)]
    return tags.pack(np.repeat(np.arange(count) % 15 + 1, lengths).astype(np.uint8))


# From the description's table, for pages of 4 KiB.
@pytest.mark.parametrize(
    ("runs", "size_bytes"),
    [(1, 8), (2, 8), (6, 8), (7, 16), (11, 16), (12, 32), (23, 32), (24, 64), (46, 64), (47, 128)],
)
def test_kernels_scheme_takes_the_storage_class_of_the_runs(runs: int, size_bytes: int) -> None:
    page = pages_of_runs(runs)
    kernels = Kernels(page)

    assert kernels.encode() == size_bytes
    kernels.decode()
    assert np.array_equal(kernels.decoded[0], page)


def test_kernels_scheme_gives_two_halves_back() -> None:
    page = np.array([0x11] * 64 + [0x22] * 64, np.uint8)
    kernels = Kernels(page)

    assert kernels.encode() == 8
    kernels.decode()
    assert np.array_equal(kernels.decoded[0], page)


@pytest.mark.parametrize("contestant", [Ours, Kernels])
def test_contestant_gives_random_heaps_back(contestant: type[Ours | Kernels]) -> None:
    source = np.random.default_rng(4)
    lengths = source.integers(1, 40, 20_000)
    granules = np.repeat(source.integers(0, 16, lengths.size), lengths).astype(np.uint8)
    heap = tags.pack(granules[: granules.size // 256 * 256])

    made = contestant(heap)

    assert made.encode() < heap.size
    made.decode()
    assert np.array_equal(np.concatenate(made.decoded), heap)


def test_tagged_pages_leaves_out_those_without_tags() -> None:
    plane = np.zeros(3 * 128, np.uint8)
    plane[200] = 5

    assert np.array_equal(tagged_pages(plane), plane[128:256])


def test_heap_of_the_crash_is_smaller_as_runs_than_as_the_kernels() -> None:
    heap = crash()

    assert Ours(heap).encode() < Kernels(heap).encode()
