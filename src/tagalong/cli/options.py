"""Types of options that several commands share."""

import re

import click

from tagalong.access import ACCESS_NAMES, AUTO

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d{1,20})\s*(?:([KMGT])(?:iB)?)?", re.IGNORECASE)


def size(text: str) -> int:
    """Return a number of bytes, written as 4096, 64M or 1GiB; units are powers of 1024."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        raise click.BadParameter(f"{text!r} is no size: write 4096, 64M or 1G")
    return int(found[1]) * _UNITS[(found[2] or "").upper()]


access_option = click.option(
    "--access",
    type=click.Choice(ACCESS_NAMES),
    default=AUTO,
    show_default=True,
    help="How this process touches guest RAM; auto: the best that works (see tagalong access).",
)
