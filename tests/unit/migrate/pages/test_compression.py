"""What compression means, and when it is chosen."""

import numpy as np
import pytest

from tagalong.errors import UsageError
from tagalong.migrate.pages.compression import (
    Compression,
    CompressionMode,
    parse_compression,
)
from tagalong.migrate.pages.compressor import Compressor

TEXT = np.frombuffer(b"tagalong" * 8192, np.uint8)
NOISE = np.frombuffer(np.random.default_rng(1).bytes(65536), np.uint8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Compression()),
        ("auto", Compression(CompressionMode.AUTO)),
        ("zstd", Compression(CompressionMode.ZSTD, 1)),
        ("zstd:19", Compression(CompressionMode.ZSTD, 19)),
    ],
)
def test_parse_compression_returns_what_it_means(text: str, expected: Compression) -> None:
    assert parse_compression(text) == expected


@pytest.mark.parametrize("text", ["", "lz4", "zstd:", "none:1", "auto:3", "zstd:x", "zstd:-1"])
def test_parse_compression_of_something_else_raises(text: str) -> None:
    with pytest.raises(UsageError, match="does not exist: use none, zstd, zstd:LEVEL or auto"):
        parse_compression(text)


@pytest.mark.parametrize("level", [0, 20])
def test_parse_compression_of_a_level_out_of_range_raises(level: int) -> None:
    with pytest.raises(UsageError, match="1 to 19"):
        parse_compression(f"zstd:{level}")


def test_compressor_off_and_on() -> None:
    off, on = Compressor(Compression()), Compressor(parse_compression("zstd:3"))

    assert (off.is_on, on.is_on) == (False, True)
    assert (off.level(TEXT), on.level(TEXT), on.level(NOISE)) == (None, 3, 3)


def test_compressor_auto_leaves_alone_what_does_not_shrink() -> None:
    auto = Compressor(parse_compression("auto"))

    assert [auto.level(NOISE) for _ in range(20)] == [None] * 20


@pytest.mark.parametrize("is_faster", [True, False])
def test_compressor_auto_learns_which_way_is_faster(is_faster: bool) -> None:
    auto = Compressor(parse_compression("auto"))
    chosen = []
    for _ in range(100):
        level = auto.level(TEXT)
        chosen.append(level is not None)
        seconds = 0.001 if (level is not None) == is_faster else 0.01
        auto.note_batch(TEXT.size, seconds, compressed=level is not None)

    # Now and then the other way is tried again, for links change.
    assert 85 <= sum(choice == is_faster for choice in chosen) <= 95
