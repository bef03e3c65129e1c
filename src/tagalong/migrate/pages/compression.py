"""Whether a batch's data are compressed: never, always, or where it makes them arrive sooner."""

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

# With AUTO every so many batches the way that is not the faster one is tried again.
_TRY_AGAIN: Final = 16
_NEWS: Final = 0.3

_SAMPLE_BYTES: Final = 16 << 10
_WORTH_IT: Final = 0.9


class CompressionMode(Enum):
    """When to compress; the values are the words that options take."""

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
    """Return what `none`, `zstd`, `zstd:LEVEL` or `auto` means. Raises UsageError."""
    found = re.fullmatch(r"(none|auto|zstd)(?::(\d{1,2}))?", text)
    if found is None or (found[2] and found[1] != "zstd"):
        raise UsageError(f"{text!r} is no compression: none, zstd, zstd:LEVEL and auto are")
    level = int(found[2] or _AUTO_LEVEL)
    if not MIN_COMPRESSION_LEVEL <= level <= MAX_COMPRESSION_LEVEL:
        raise UsageError(
            f"zstd level {level} is not possible: {MIN_COMPRESSION_LEVEL} to "
            f"{MAX_COMPRESSION_LEVEL} are"
        )
    return Compression(CompressionMode(found[1]), level)


class Compressor:
    """Chooses for each batch of one channel, and learns from what it took.

    The rates are in bytes of guest RAM a second, so that they can be compared.
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
        return len(self._sampler.compress(sample.data)) < _WORTH_IT * sample.size

    def _is_turn_of_compressed(self) -> bool:
        self._batches += 1
        if len(self._rates) < 2:
            return True not in self._rates
        is_faster = self._rates[True] > self._rates[False]
        return is_faster != (self._batches % _TRY_AGAIN == 0)

    def note_batch(self, ram_bytes: int, seconds: float, *, compressed: bool) -> None:
        """Note how long a batch took, compressing included."""
        rate = ram_bytes / max(seconds, 1e-6)
        before = self._rates.get(compressed, rate)
        self._rates[compressed] = before + _NEWS * (rate - before)
