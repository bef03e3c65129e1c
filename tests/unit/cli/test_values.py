"""Sizes, times and addresses on the command line."""

import importlib
from collections.abc import Iterator

import click
import pytest

from tagalong.cli.app import _COMMANDS, invoke
from tagalong.cli.values import RAM_SIZE, SIZE, IntegerOrWord, Milliseconds, address_range


def test_size_with_unit_is_in_bytes() -> None:
    cases = {
        "4096": 4096,
        "64M": 64 << 20,
        "64MiB": 64 << 20,
        "64MB": 64_000_000,
        "1g": 1 << 30,
        " 2 T ": 2 << 40,
        "3K": 3072,
        "3kb": 3000,
    }
    for text, expected in cases.items():
        assert SIZE.convert(text, None, None) == expected, text


def test_size_that_is_none_is_refused() -> None:
    for text in ("", "M", "0", "0M", "-1", "1.5G", "64 X", "9" * 21):
        with pytest.raises(click.BadParameter) as caught:
            SIZE.convert(text, None, None)

        assert caught.value.message == f"{text!r} is not a size; write 4096, 64M or 1G"


def test_size_that_is_a_default_is_taken_as_it_is() -> None:
    assert SIZE.convert(0, None, None) == 0


def test_ram_of_a_few_bytes_is_refused_and_asks_for_the_unit() -> None:
    cases = {
        "64": "64 bytes of RAM are too few for a guest; did you mean 64M?",
        "64K": "65536 bytes of RAM are too few for a guest",
    }
    for text, message in cases.items():
        with pytest.raises(click.BadParameter) as caught:
            RAM_SIZE.convert(text, None, None)

        assert caught.value.message == message
    assert RAM_SIZE.convert("1M", None, None) == 1 << 20


def test_ram_that_is_not_whole_pages_is_refused_and_asks_for_the_other_unit() -> None:
    cases = {
        "100MB": "100000000 bytes of RAM are not whole pages of 4096 bytes; did you mean 100M?",
        "1048577": "1048577 bytes of RAM are not whole pages of 4096 bytes",
    }
    for text, message in cases.items():
        with pytest.raises(click.BadParameter) as caught:
            RAM_SIZE.convert(text, None, None)

        assert caught.value.message == message
    assert RAM_SIZE.convert("64MB", None, None) == 64_000_000


def test_milliseconds_that_look_like_seconds_say_how_many_they_are() -> None:
    kind = Milliseconds(0, 2_000_000)

    with pytest.raises(click.BadParameter) as caught:
        kind.convert("0.3", None, None)

    assert caught.value.message == (
        "'0.3' is not a whole number of milliseconds; for 0.3 s write 300"
    )
    assert kind.convert("300", None, None) == 300
    for text, message in (("-1", "-1 is not in the range"), ("x", "'x' is not a valid integer")):
        with pytest.raises(click.BadParameter, match=message):
            kind.convert(text, None, None)


def test_address_range_is_address_and_length() -> None:
    assert address_range("0x40000000") == (0x4000_0000, 1)
    assert address_range("40000000+4K") == (0x4000_0000, 4096)
    assert address_range("0xb000000402f9000+0x20") == (0xB00_0000_402F_9000, 0x20)


def test_address_range_that_is_none_is_refused() -> None:
    cases = {
        "here": "'here' is not an address of 64 bits; write 0x40000000 or 0x40000000+64K",
        f"1{'0' * 16}": "is not an address of 64 bits",
        "0+0x": "'0x' is not a size; write 0x1000, 4096 or 64M",
        "0+much": "'much' is not a size; write 4096, 64M or 1G",
    }
    for text, message in cases.items():
        with pytest.raises(click.BadParameter) as caught:
            address_range(text)

        assert message in caught.value.message, text


def path_parameters(command: click.Command) -> Iterator[tuple[str, click.Path]]:
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from path_parameters(each)
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            yield f"{command.name} {parameter.name}", parameter.type


def test_no_command_looks_at_a_file_before_it_opens_it() -> None:
    found = [
        each
        for name in _COMMANDS
        for each in path_parameters(importlib.import_module(f"tagalong.cli.{name}").command)
    ]

    assert len(found) > 15
    for name, kind in found:
        assert not any((kind.exists, kind.readable, kind.writable)), name
        assert all((kind.file_okay, kind.dir_okay)), name


def test_file_with_an_empty_name_is_refused_and_not_the_working_folder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in (("snapshot", "a.sock", ""), ("dump", "", "vm.core"), ("info", "")):
        status = invoke(arguments)

        assert status == 2, arguments
        assert "the name is empty; give a file name" in capsys.readouterr().err, arguments


def test_integer_or_word_is_one_of_both() -> None:
    kind = IntegerOrWord(1, 16, "auto")

    assert [kind.convert(it, None, None) for it in ("auto", "1", "16", 3)] == ["auto", 1, 16, 3]
    for wrong in ("0", "17", "Auto", "", "1.5"):
        with pytest.raises(click.BadParameter) as caught:
            kind.convert(wrong, None, None)
        assert caught.value.message == f"{wrong!r} is neither a number from 1 to 16 nor auto"
