"""Options that several commands share, and types of options."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from tagalong.access import ACCESS_NAMES, AUTO
from tagalong.vmm.factory import AUTO as AUTO_MACHINE
from tagalong.vmm.factory import MACHINE_NAMES
from tagalong.vmm.settings import MAX_DOWNTIME_LIMIT_MS, MigrationSettings

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_POINTER_BITS = 64
_F = TypeVar("_F", bound=Callable[..., Any])
_SIZE = re.compile(r"(\d{1,20})\s*(?:([KMGT])(?:iB)?)?", re.IGNORECASE)


def size(text: str) -> int:
    """Return a number of bytes, written as 4096, 64M or 1GiB; units are powers of 1024."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        raise click.BadParameter(f"{text!r} is no size: write 4096, 64M or 1G")
    return int(found[1]) * _UNITS[(found[2] or "").upper()]


machine_option = click.option(
    "--machine",
    type=click.Choice(MACHINE_NAMES),
    default=AUTO_MACHINE,
    show_default=True,
    help="Kind of machine; auto: kvm where it works, else soft.",
)


access_option = click.option(
    "--access",
    type=click.Choice(ACCESS_NAMES),
    default=AUTO,
    show_default=True,
    help="How this process touches guest RAM; auto: the best that works (see tagalong access).",
)


access_change_option = click.option(
    "--access",
    type=click.Choice(ACCESS_NAMES),
    help="How the VM's process touches guest RAM from now on; default: as it does.",
)


def max_downtime_option(
    name: str, help_text: str = "Stop the guest only when the rest takes no longer than this."
) -> Callable[[_F], _F]:
    """Return the option --max-downtime, which a command takes as its parameter `name`."""
    return click.option(
        "--max-downtime",
        name,
        type=click.IntRange(0, MAX_DOWNTIME_LIMIT_MS),
        default=MigrationSettings().downtime_limit,
        show_default=True,
        metavar="MS",
        help=help_text,
    )


def address_range(text: str) -> tuple[int, int]:
    """Return address and length in bytes, written as 0x40000000 or 0x40000000+64K.

    The address is hexadecimal, with 0x or without; the length a size, or hexadecimal with 0x.
    """
    address, plus, length = text.partition("+")
    try:
        start = int(address, 16)
        if not 0 <= start < 1 << _POINTER_BITS:
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{address!r} is no address of 64 bits") from None
    if not plus:
        return start, 1
    return start, _length(length)


def _length(text: str) -> int:
    if text.lower().startswith("0x"):
        try:
            return max(int(text, 16), 1)
        except ValueError:
            raise click.BadParameter(f"{text!r} is no size: write 0x1000, 4096 or 64M") from None
    return size(text)
