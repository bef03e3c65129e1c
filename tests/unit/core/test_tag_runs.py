"""Runs of tags of any range, and who mismatches."""

from pathlib import Path

import numpy as np
import pytest

from tagalong.core import open_core, tag_runs
from tagalong.core.tag_runs import TagRange, TagRun, tag_range
from tagalong.errors import NotInCoreError, UsageError
from tests.support.core_builder import CoreBuilder, load, tag_segment
from tests.support.cores import PAGE

AT = 0x1_0000
TAGS = np.repeat(np.arange(16, dtype=np.uint8) * 0x11, 16)
"""Runs of 32 granules."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.core"
    path.write_bytes(
        CoreBuilder([load(AT, bytes(2 * PAGE)), tag_segment(AT, TAGS.tobytes())]).build()
    )
    return path


@pytest.mark.parametrize(
    ("pointer", "length", "expected"),
    [
        (0x1000, 1, TagRange(0x1000, 0x1010, 0)),
        (0x100F, 1, TagRange(0x1000, 0x1010, 0)),
        (0x100F, 2, TagRange(0x1000, 0x1020, 0)),
        (0x0A00_0000_0000_1000, 16, TagRange(0x1000, 0x1010, 10)),
        (
            0xF4FF_8000_0000_1000, 16,
            TagRange(0xFFFF_8000_0000_1000, 0xFFFF_8000_0000_1010, 4),
        ),
    ],
)  # fmt: skip
def test_range_is_of_whole_granules(pointer: int, length: int, expected: TagRange) -> None:
    assert tag_range(pointer, length) == expected


def test_range_of_a_pointer_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="pointer 0x10000000000000000 is not in"):
        tag_range(1 << 64, 1)


@pytest.mark.parametrize("piece", [32, 512, 1 << 20])
def test_runs_are_joined_across_pieces(
    path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag_runs, "_PIECE_BYTES", piece)
    with open_core(path) as core:
        found = list(tag_runs.tag_runs(core, TagRange(AT + 0x1F0, AT + 0x620, 0)))

    assert found == [
        TagRun(AT + 0x1F0, AT + 0x200, 0),
        TagRun(AT + 0x200, AT + 0x400, 1),
        TagRun(AT + 0x400, AT + 0x600, 2),
        TagRun(AT + 0x600, AT + 0x620, 3),
    ]


def test_mismatch_is_a_run_with_another_tag_than_the_pointer() -> None:
    wanted = TagRange(0, 32, 3)

    assert not wanted.is_mismatch(TagRun(0, 16, 3))
    assert wanted.is_mismatch(TagRun(16, 32, 0))


def test_runs_beyond_the_tags_are_refused_before_the_first(path: Path) -> None:
    with open_core(path) as core, pytest.raises(NotInCoreError) as caught:
        tag_runs.tag_runs(core, TagRange(AT, AT + 3 * PAGE, 0))

    assert caught.value.address == AT + 2 * PAGE
