"""Types of values on the command line: sizes, times, addresses.

An error says what was read and what to write instead. It is the only help that somebody gets who
took the wrong unit.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tagalong.mte import PAGE_SIZES_BYTES

_UNITS: dict[str, int] = {
    "": 1,
    **{f"{letter}{end}": 1 << 10 * power for power, letter in enumerate("KMGT", 1)
       for end in ("", "IB")},
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,20})\s*([a-z]*)", re.IGNORECASE)
_LEAST_RAM_BYTES = 1 << 20
_LEAST_PAGE_BYTES = PAGE_SIZES_BYTES[0]
_POINTER_BITS = 64


if TYPE_CHECKING:
    _IntType = click.ParamType[int]
else:
    _IntType = click.ParamType  # generic from click 8.2 on


class _Size(_IntType):
    """A number of bytes: 4096, 64M and 64MiB (units of 1024), 64MB (units of 1000)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; a default is one already."""
        if isinstance(value, int):
            return int(value)
        found = _SIZE.fullmatch(value.strip())
        unit = None if found is None else _UNITS.get(found[2].upper())
        if found is None or unit is None or int(found[1]) == 0:
            self.fail(f"{value!r} is not a size; write 4096, 64M or 1G", param, ctx)
        return int(found[1]) * unit


class _Offset(_IntType):
    """A place in a file: 4096 or 0x1000."""

    name = "offset"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; a default is one already."""
        if isinstance(value, int):
            return int(value)
        try:
            number = int(value, 0)
        except ValueError:
            number = -1
        if not 0 <= number < 1 << 63:
            self.fail(f"{value!r} is not an offset in a file; write 4096 or 0x1000", param, ctx)
        return number


class _RamSize(_Size):
    """The size of a guest's RAM. A bare number is in bytes, which is seldom what was meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        number = super().convert(value, param, ctx)
        if number < _LEAST_RAM_BYTES:
            advice = f"; did you mean {number}M?" if str(number) == str(value).strip() else ""
            self.fail(f"{number} bytes of RAM are too few for a guest{advice}", param, ctx)
        if number % _LEAST_PAGE_BYTES:
            text = str(value).strip()
            advice = f"; did you mean {text[:-1]}?" if text[-1] in "bB" else ""
            self.fail(
                f"{number} bytes of RAM are not whole pages of {_LEAST_PAGE_BYTES} bytes{advice}",
                param,
                ctx,
            )
        return number


class Milliseconds(click.IntRange):
    """A whole number of milliseconds in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; a fraction was probably meant as seconds."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds % 1 < 1:
            return super().convert(value, param, ctx)
        return self.fail(
            f"{value!r} is not a whole number of milliseconds; for {seconds:g} s write "
            f"{seconds * 1000:.0f}",
            param,
            ctx,
        )


class IntegerOrWord(click.IntRange):
    """An integer in a range, or one word, which stays text."""

    def __init__(self, least: int, most: int, word: str) -> None:
        super().__init__(least, most)
        self._word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or the word."""
        if value == self._word:
            return value
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(
                f"{value!r} is neither a number from {self.min} to {self.max} nor {self._word}",
                param,
                ctx,
            )


class _File(click.Path):
    """The path of a file; an empty text, as of an unset variable of a shell, is rejected."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. The empty one would be that of the working folder."""
        if value == "":
            self.fail("the name is empty; give a file name", param, ctx)
        return super().convert(value, param, ctx)


FILE = _File(path_type=Path, readable=False)
"""A path. That it can be opened is found out by opening it, so a file that does not exist and one
that must not be read are errors of one kind."""


class _Folder(click.Path):
    """The path of a folder, made absolute; an empty text means no folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. The empty default must not become the working folder."""
        return super().convert(value, param, ctx) if value else ""


FOLDER = _Folder(resolve_path=True, readable=False)
SIZE = _Size()
RAM_SIZE = _RamSize()
OFFSET = _Offset()


def address_range(text: str) -> tuple[int, int]:
    """Return address and length in bytes, written as 0x40000000 or 0x40000000+64K.

    The address is hexadecimal, with 0x or without. The length is a size, or hexadecimal with 0x.
    """
    address, plus, length = text.partition("+")
    try:
        start = int(address, 16)
        if not 0 <= start < 1 << _POINTER_BITS:
            raise ValueError
    except ValueError:
        raise click.BadParameter(
            f"{address!r} is not an address of 64 bits; write 0x40000000 or 0x40000000+64K"
        ) from None
    if not plus:
        return start, 1
    return start, _length(length)


def _length(text: str) -> int:
    if text.lower().startswith("0x"):
        try:
            return max(int(text, 16), 1)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a size; write 0x1000, 4096 or 64M") from None
    return SIZE.convert(text, None, None)
