"""Whether a batch's data are compressed: never, always, or if they arrive sooner that way."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

import zstandard
from numpy import uint8
from numpy.typing import NDArray

from tagalong.errors import UsageError

MIN_COMPRESSION_LEVEL: Final = 1
MAX_COMPRESSION_LEVEL: Final = 19  # above it, the window would need more memory than a batch has
_AUTO_LEVEL: Final = 1

# With AUTO the slower of the two ways is tried again once in so many batches. Each measurement
# moves the rate of its way by this share of the difference.
_RETRY_EVERY_BATCHES: Final = 16
_WEIGHT_OF_NEWEST: Final = 0.3

_SAMPLE_BYTES: Final = 16 << 10
_MAX_SAMPLE_RATIO: Final = 0.9


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
    level: int = _AUTO_LEVEL

    def __str__(self) -> str:
        return self.mode.value + f":{self.level}" * (self.mode is CompressionMode.ZSTD)


def parse_compression(text: str) -> Compression:
    """Parse `none`, `zstd`, `zstd:LEVEL` or `auto`. Raises UsageError."""
    found = re.fullmatch(r"(none|auto|zstd)(?::(\d{1,2}))?", text)
    if found is None or (found[2] and found[1] != "zstd"):
        raise UsageError(f"compression {text!r} does not exist: use none, zstd, zstd:LEVEL or auto")
    level = int(found[2] or _AUTO_LEVEL)
    if not MIN_COMPRESSION_LEVEL <= level <= MAX_COMPRESSION_LEVEL:
        raise UsageError(
            f"zstd level {level} is not possible: use {MIN_COMPRESSION_LEVEL} to "
            f"{MAX_COMPRESSION_LEVEL}"
        )
    return Compression(CompressionMode(found[1]), level)


class Compressor:
    """Chooses for each batch of one channel, and learns from how long each took.

    The rates are in bytes of guest RAM per second, so that both ways can be compared.
    """

    def __init__(self, compression: Compression) -> None:
        self._mode = compression.mode
        self._level = compression.level
        self._rates: dict[bool, float] = {}
        self._batches = 0
        self._sampler = zstandard.ZstdCompressor(level=_AUTO_LEVEL)

    @property
    def is_on(self) -> bool:
        """Return whether any batch may be compressed."""
        return self._mode is not CompressionMode.NONE

    def level(self, data: NDArray[uint8]) -> int | None:
        """Return the level at which to compress this batch, None for not at all."""
        if self._mode is CompressionMode.ZSTD:
            return self._level
        if self._mode is CompressionMode.NONE or not self._would_shrink(data):
            return None
        return self._level if self._is_turn_of_compressed() else None

    def _would_shrink(self, data: NDArray[uint8]) -> bool:
        middle = data.size // 2
        sample = data[middle : middle + _SAMPLE_BYTES]
        return len(self._sampler.compress(sample.data)) < _MAX_SAMPLE_RATIO * sample.size

    def _is_turn_of_compressed(self) -> bool:
        self._batches += 1
        if len(self._rates) < 2:
            return True not in self._rates
        is_faster = self._rates[True] > self._rates[False]
        return is_faster != (self._batches % _RETRY_EVERY_BATCHES == 0)

    def note_batch(self, ram_bytes: int, seconds: float, *, compressed: bool) -> None:
        """Note how long a batch took, compression included."""
        rate = ram_bytes / max(seconds, 1e-6)
        before = self._rates.get(compressed, rate)
        self._rates[compressed] = before + _WEIGHT_OF_NEWEST * (rate - before)
