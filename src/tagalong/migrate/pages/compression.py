"""When data are compressed: never, always, or if they arrive sooner that way."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tagalong.errors import UsageError

MIN_COMPRESSION_LEVEL: Final = 1
MAX_COMPRESSION_LEVEL: Final = 19  # above it, the window would need more memory than a batch has
AUTO_LEVEL: Final = 1


class CompressionMode(Enum):
    """When to compress; the values are the words of the option."""

    NONE = "none"
    ZSTD = "zstd"
    AUTO = "auto"


@dataclass(frozen=True)
class Compression:
    """When to compress data, and how hard (a Zstandard level).

    >>> str(parse_compression("zstd:3"))
    'zstd:3'
    """

    mode: CompressionMode = CompressionMode.NONE
    level: int = AUTO_LEVEL

    def __str__(self) -> str:
        return self.mode.value + f":{self.level}" * (self.mode is CompressionMode.ZSTD)


def parse_compression(text: str) -> Compression:
    """Parse `none`, `zstd`, `zstd:LEVEL` or `auto`. Raises UsageError."""
    found = re.fullmatch(r"(none|auto|zstd)(?::(\d{1,2}))?", text)
    if found is None or (found[2] and found[1] != "zstd"):
        raise UsageError(f"compression {text!r} does not exist: use none, zstd, zstd:LEVEL or auto")
    level = int(found[2] or AUTO_LEVEL)
    if not MIN_COMPRESSION_LEVEL <= level <= MAX_COMPRESSION_LEVEL:
        raise UsageError(
            f"zstd level {level} is not possible: use {MIN_COMPRESSION_LEVEL} to "
            f"{MAX_COMPRESSION_LEVEL}"
        )
    return Compression(CompressionMode(found[1]), level)
