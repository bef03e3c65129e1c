"""The content of guest RAM: random data and tags, and zero pages that were touched."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES = 4096
TAGS_SHARE = 32

# Repeated: no compressor that anybody uses for RAM looks back so far.
_RANDOM_BYTES = 64 << 20


class Planes(Protocol):
    """Fills the planes of a guest's RAM."""

    @property
    def ram_bytes(self) -> int:
        """Return the size of guest RAM."""
        ...

    def fill(self, data: NDArray[np.uint8]) -> None:
        """Fill a data plane."""
        ...

    def fill_tags(self, tags: NDArray[np.uint8]) -> None:
        """Fill a packed tag plane."""
        ...


@dataclass(frozen=True)
class Content:
    """`ram_bytes` of guest RAM, of whose pages `zero_percent` are zero but touched."""

    ram_bytes: int
    zero_percent: int = 0

    def fill(self, data: NDArray[np.uint8]) -> None:
        """Fill a data plane of `ram_bytes`; zero pages come in stretches of 1 MiB."""
        _fill_random(data, seed=1)
        stretch = 1 << 20
        rows = data.reshape(-1, stretch)
        draw = np.random.default_rng(3).permutation(len(rows))
        rows[draw[: len(rows) * self.zero_percent // 100]] = 0

    def fill_tags(self, tags: NDArray[np.uint8]) -> None:
        """Fill a packed tag plane."""
        if not self.zero_percent:
            _fill_random(tags, seed=2)
        else:
            tags[:] = 0


def _fill_random(plane: NDArray[np.uint8], seed: int) -> None:
    size = min(plane.size, _RANDOM_BYTES)
    random = np.frombuffer(np.random.default_rng(seed).bytes(size), np.uint8)
    for start in range(0, plane.size, size):
        part = plane[start : start + size]
        part[:] = random[: part.size]
