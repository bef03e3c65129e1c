"""Commands typed on the VM's own terminal."""

import pytest

from tagalong.vmm.console_keys import ConsoleKey, KeyFilter


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (b"ls\r", [b"ls\r"]),
        (b"a\x01xb", [b"a", ConsoleKey.QUIT, b"b"]),
        (b"\x01b\x01h\x01?", [ConsoleKey.BREAK, ConsoleKey.HELP, ConsoleKey.HELP]),
        (b"\x01\x01a", [b"\x01a"]),
        (b"a\x01zb", [b"ab"]),
        (b"\x01", []),
        (b"", []),
    ],
)
def test_split_finds_commands_in_order(typed: bytes, expected: list[object]) -> None:
    assert list(KeyFilter().split(typed)) == expected


def test_split_remembers_an_escape_between_calls() -> None:
    keys = KeyFilter()

    assert list(keys.split(b"a\x01")) == [b"a"]
    assert list(keys.split(b"xb")) == [ConsoleKey.QUIT, b"b"]
