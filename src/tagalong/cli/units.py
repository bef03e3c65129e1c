"""Numbers in words, and rows of a report that fit into 80 columns."""

import textwrap

COLUMNS = 80

_KIBI = 1024
_NAME_WIDTH = 11
_INDENT = "  "


def size(number: float) -> str:
    """Return bytes in the largest unit that leaves a digit before the point."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < _KIBI:
            return f"{number:.0f} bytes" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= _KIBI
    return f"{number:,.1f} GiB"


def rate(bytes_per_s: float) -> str:
    """Return a rate in MB/s (1e6 bytes)."""
    return f"{bytes_per_s / 1e6:,.0f} MB/s"


def ms(seconds: float) -> str:
    """Return seconds as milliseconds."""
    return f"{seconds * 1000:.1f} ms"


def count(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless it is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def row(name: str, value: str) -> str:
    """Return a row of a report; what does not fit into 80 columns goes below."""
    first = f"{_INDENT}{name:<{_NAME_WIDTH}} "
    return wrapped(value, first, " " * len(first))


def wrapped(text: str, first: str = "", later: str = "") -> str:
    """Return `text` in lines of 80 columns; a word that is longer stays whole."""
    return textwrap.fill(
        text,
        COLUMNS,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
