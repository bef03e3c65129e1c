"""What a look at the guest `retag` is called, from the bytes that were seen."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong.mte.tags import pack
from tagalong.studies.comparison.race import are_same, are_torn


def granules(*each: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return data and packed tags of an even number of granules (tag, first and second word)."""
    words = np.array([each_[1:] for each_ in each], "<u8")
    return words.view(np.uint8).reshape(-1), pack(np.array([g[0] for g in each], np.uint8))


@pytest.mark.parametrize(
    ("tag", "first", "second", "torn"),
    [
        (6, 5, 5, False),  # round 5, whole
        (7, 5, 5, False),  # round 6 has stored its tag and not yet its data
        (1, 15, 15, False),
        (1, 14, 14, False),
        (5, 5, 5, True),  # the tag of round 4 with data of round 5
        (8, 5, 5, True),
        (6, 5, 6, True),  # halves of two rounds
        (15, 2**64 - 2, 2**64 - 2, False),
        (0, 5, 5, True),
    ],
)
def test_granule_is_torn_unless_the_guest_had_it_so_at_some_moment(
    tag: int, first: int, second: int, torn: bool
) -> None:
    assert are_torn(*granules((tag, first, second), (tag, first, second))).tolist() == [torn] * 2


def test_granule_is_the_same_if_tag_and_both_words_are() -> None:
    then = granules((1, 5, 5), (2, 6, 6), (3, 7, 7), (4, 8, 8))
    now = granules((1, 5, 5), (3, 6, 6), (3, 7, 8), (4, 9, 8))

    assert are_same(then, now).tolist() == [True, False, False, False]
