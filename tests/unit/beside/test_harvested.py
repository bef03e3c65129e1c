"""Tags that came with a harvest: the later one counts, and what is not there is to be read."""

import numpy as np

from tagalong.beside.harvested import HarvestedTags

ROW = 4


def rows(*firsts: int) -> np.ndarray:
    return np.repeat(np.array(firsts, np.uint8)[:, None], ROW, axis=1)


def test_tags_of_the_later_harvest_count() -> None:
    tags = HarvestedTags()
    tags.add(np.array([2, 5, 9]), rows(20, 50, 90))
    tags.add(np.array([5, 7]), rows(51, 71))
    out = np.zeros((5, ROW), np.uint8)

    left = tags.copy_into(out, np.array([2, 4, 5, 7, 9]))

    assert left.tolist() == [1]
    assert out[:, 0].tolist() == [20, 0, 51, 71, 90]


def test_harvest_without_tags_hides_those_before() -> None:
    tags = HarvestedTags()
    tags.add(np.array([2, 5]), rows(20, 50))
    tags.add(np.array([5]), None)
    out = np.zeros((1, ROW), np.uint8)

    assert tags.copy_into(out, np.array([2])).tolist() == [0]


def test_empty_harvest_and_empty_question_change_nothing() -> None:
    tags = HarvestedTags()
    tags.add(np.array([3]), rows(30))
    tags.add(np.array([], np.int64), rows())
    out = np.zeros((1, ROW), np.uint8)

    assert tags.copy_into(out[:0], np.array([], np.int64)).size == 0
    assert tags.copy_into(out, np.array([3])).size == 0
    assert out[0, 0] == 30
