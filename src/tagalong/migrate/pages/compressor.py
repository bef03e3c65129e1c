"""Whether a batch's data are compressed: chosen for each batch, by what the last ones took."""

from typing import Final

import zstandard
from numpy import uint8
from numpy.typing import NDArray

from tagalong.migrate.pages.compression import AUTO_LEVEL, Compression, CompressionMode

# With AUTO the slower of the two ways is tried again once in so many batches. Each measurement
# moves the rate of its way by this share of the difference.
_RETRY_EVERY_BATCHES: Final = 16
_WEIGHT_OF_NEWEST: Final = 0.3

_SAMPLE_BYTES: Final = 16 << 10
_MAX_SAMPLE_RATIO: Final = 0.9


class Compressor:
    """Chooses for each batch of one channel, and learns from how long each took.

    The rates are in bytes of guest RAM per second, so that both ways can be compared.
    """

    def __init__(self, compression: Compression) -> None:
        self._mode = compression.mode
        self._level = compression.level
        self._rates: dict[bool, float] = {}
        self._batches = 0
        self._sampler = zstandard.ZstdCompressor(level=AUTO_LEVEL)

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
