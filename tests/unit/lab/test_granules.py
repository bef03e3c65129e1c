"""The pattern of the self-check: a QEMU that mixes granules up cannot pass it by luck."""

from tagalong.lab.granules import tag_of


def test_tag_of_all_sixteen_tags_are_used_equally() -> None:
    tags = [tag_of(granule) for granule in range(256)]

    assert [tags.count(tag) for tag in range(16)] == [16] * 16


def test_tag_of_differs_from_both_neighbours_and_from_the_row_below() -> None:
    for granule in range(256 - 16):
        assert tag_of(granule) != tag_of(granule + 1)
        assert tag_of(granule) != tag_of(granule + 16)


def test_tag_of_a_page_kept_in_one_pair_would_be_mostly_wrong() -> None:
    tags = [tag_of(granule) for granule in range(256)]
    # What QEMU 7.2 does: the last pair written stands for the whole page.
    kept = tags[-2:] * 128

    assert sum(a != b for a, b in zip(tags, kept, strict=True)) > 200
