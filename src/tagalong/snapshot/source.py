"""Where the memory of a core comes from: a machine, or another core."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tagalong.machine import Machine, MachineDescription
from tagalong.memory import Gpa, PageBitmap, Region, run_pages

CHUNK_BYTES = 1 << 20
"""At most so many bytes of data are asked for at once."""

# Shorter ranges are copied: that costs less than finding out whether they have holes.
_VIEWED_BYTES = 64 << 10


class PageSource(Protocol):
    """Memory and tags by gpa. A range never crosses the end of a region."""

    @property
    def description(self) -> MachineDescription:
        """Return what machine it is the memory of."""
        ...

    def populated_pages(self) -> list[PageBitmap]:
        """Return, for each region, the pages that may hold data or tags other than zero."""
        ...

    def data(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """Return data of whole pages, shape (length_bytes,); valid until the next call."""
        ...

    def gather(self, ranges: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the data of several ranges of one region, one after the other.

        `ranges`: rows of gpa and length, whole pages, together CHUNK_BYTES at most. Valid
        until the next call.
        """
        ...

    def tags(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """Return the packed tags of whole pages, shape (length_bytes / 32,)."""
        ...


class MachineSource:
    """The memory of a machine that `stands` still, or else may run.

    Pages of a running machine may be torn; they are dirty in its log then.
    """

    def __init__(self, machine: Machine, *, stands: bool) -> None:
        self._machine = machine
        self._stands = stands
        self._buffer = np.empty(CHUNK_BYTES, np.uint8)
        self._data_runs: dict[Gpa, NDArray[np.int64]] = {}

    @property
    def description(self) -> MachineDescription:
        """As PageSource."""
        return self._machine.description

    def populated_pages(self) -> list[PageBitmap]:
        """As PageSource."""
        return self._machine.populated_pages()

    def data(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """As PageSource."""
        return self.gather(np.array([[gpa, length_bytes]], np.int64))

    def gather(self, ranges: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return a copy, or guest RAM itself if that is one range and stands still.

        A running guest's must be a copy: what is found to be zero must still be zero when it
        is left out. Holes stay holes.
        """
        gpa, length = ranges[0].tolist()
        region, offset = self._machine.memory.locate(Gpa(gpa), length)
        if len(ranges) == 1 and self._is_solid(region, offset, length):
            return region.data[offset : offset + length]
        if len(ranges) == 1:
            copy = self._buffer[:length]
            region.read_data_into(copy, offset)
            return copy
        page = region.page_size_bytes
        numbers = run_pages((ranges - np.array([region.gpa, 0])) // page)
        copy = self._buffer[: numbers.size * page]
        region.read_pages_into(copy, numbers)
        return copy

    def _is_solid(self, region: Region, offset: int, length: int) -> bool:
        """Return whether a range is worth a look and is found to stand still without a hole."""
        if not self._stands or region.is_routed or length < _VIEWED_BYTES:
            return False
        if region.gpa not in self._data_runs:
            self._data_runs[region.gpa] = region.data_pages().runs()
        firsts, counts = self._data_runs[region.gpa].T
        page = region.page_size_bytes
        run = int(np.searchsorted(firsts, offset // page, "right")) - 1
        return bool(run >= 0 and (firsts[run] + counts[run]) * page >= offset + length)

    def tags(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """As PageSource."""
        return self._machine.read_tags(gpa, length_bytes)
