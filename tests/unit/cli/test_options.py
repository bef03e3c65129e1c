"""Sizes on the command line."""

import click
import pytest

from tagalong.cli.options import size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4096", 4096),
        ("64M", 64 << 20),
        ("64MiB", 64 << 20),
        ("1g", 1 << 30),
        (" 2 T ", 2 << 40),
        ("3K", 3072),
    ],
)
def test_size_with_unit_is_in_bytes(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "M", "0", "0M", "-1", "1.5G", "64MB", "64 X", "9" * 21])
def test_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        size(text)

    assert caught.value.message == f"{text!r} is no size: write 4096, 64M or 1G"
