"""Types of options that several commands share."""

import re

import click

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*(?:([KMGT])(?:iB)?)?", re.IGNORECASE)


class Size(click.ParamType):
    """A number of bytes, written as 4096, 64M or 1GiB; units are powers of 1024."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number of bytes; a usage error if `value` is not a size."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(str(value).strip())
        if found is None or int(found[1]) == 0:
            self.fail(f"{value!r} is no size: write 4096, 64M or 1G", param, ctx)
        return int(found[1]) * _UNITS[(found[2] or "").upper()]


SIZE = Size()
