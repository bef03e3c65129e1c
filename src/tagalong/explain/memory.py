"""Memory of crashes: of a core, and of reports that have a few windows of it."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from tagalong.core import Core, CoreRegion
from tagalong.errors import CoreError, CrashReportError
from tagalong.explain.crash import UNKNOWN_TAG, TagArray
from tagalong.mte import GRANULE_BYTES

_LAST: Final = (1 << 64) - 1
MAX_SHOWN_BYTES: Final = 4 << 20


class CoreMemory:
    """The memory of an open core by its own addresses; what a cut file lacks is absent."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._starts = [each.address for each in core.regions]

    @property
    def extents(self) -> Sequence[CoreRegion]:
        """As CrashMemory."""
        return self._core.regions

    @property
    def address_space(self) -> Sequence[CoreRegion]:
        """As CrashMemory."""
        return self._core.regions

    def stored_tags(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """As CrashMemory."""
        return self._core.stored_tags(start, stop)

    def data(self, address: int, length: int) -> bytes | None:
        """As CrashMemory."""
        try:
            return self._core.data(address, length).tobytes()
        except CoreError:
            return None

    def tags(self, address: int, length: int) -> TagArray:
        """As CrashMemory."""
        found = np.full(length // GRANULE_BYTES, UNKNOWN_TAG, np.int16)
        for region in self._tagged(address, address + length):
            start = _up(max(address, region.address))
            stop = min(address + length, region.end) // GRANULE_BYTES * GRANULE_BYTES
            if start >= stop:
                continue
            try:
                known = self._core.granule_tags(start, stop - start)
            except CoreError:
                continue
            at = (start - address) // GRANULE_BYTES
            found[at : at + known.size] = known
        return found

    def _tagged(self, start: int, stop: int) -> Iterator[CoreRegion]:
        first = max(0, bisect_right(self._starts, start) - 1)
        for region in self._core.regions[first:]:
            if region.address >= stop:
                return
            if region.has_tags and region.end > start:
                yield region


class ShownMemory(NamedTuple):
    """A piece of memory that a report shows; `tags` one per granule, shape (size / 16,)."""

    address: int
    data: bytes | None
    tags: TagArray | None

    @property
    def size_bytes(self) -> int:
        """Return how much memory it covers."""
        tagged = 0 if self.tags is None else self.tags.size * GRANULE_BYTES
        return max(tagged, len(self.data or b""))


class WindowMemory:
    """The memory of a report: windows, of which a later one wins where two overlap.

    Raises CrashReportError if they are larger than MAX_SHOWN_BYTES in all.
    """

    def __init__(self, windows: Sequence[ShownMemory]) -> None:
        total = sum(window.size_bytes for window in windows)
        if total > MAX_SHOWN_BYTES:
            raise CrashReportError(
                f"it shows {total:#x} bytes of memory; reports have some windows of it, "
                f"{MAX_SHOWN_BYTES:#x} bytes at most"
            )
        self._bytes: dict[int, bytes] = {}
        tags: dict[int, int] = {}
        for window in windows:
            self._add(window, tags)
        granules = sorted({*self._bytes, *tags})
        self.extents: Sequence[CoreRegion] = tuple(_extents(granules, self._bytes, tags))
        self._tagged = np.array(sorted(tags), np.uint64)
        self._tags = np.array([tags[at] for at in sorted(tags)], np.int16)
        self.address_space = self.extents

    def _add(self, window: ShownMemory, tags: dict[int, int]) -> None:
        start = window.address // GRANULE_BYTES * GRANULE_BYTES
        if window.data is not None and window.address == start:
            for at in range(0, len(window.data) - GRANULE_BYTES + 1, GRANULE_BYTES):
                self._bytes[start + at] = window.data[at : at + GRANULE_BYTES]
        if window.tags is not None:
            for number, tag in enumerate(window.tags.tolist()):
                if tag != UNKNOWN_TAG:
                    tags[start + number * GRANULE_BYTES] = tag

    def stored_tags(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """As CrashMemory."""
        yield start, stop

    def data(self, address: int, length: int) -> bytes | None:
        """As CrashMemory."""
        start = address // GRANULE_BYTES * GRANULE_BYTES
        pieces = [self._bytes.get(at) for at in range(start, _up(address + length), GRANULE_BYTES)]
        if any(piece is None for piece in pieces):
            return None
        joined = b"".join(piece for piece in pieces if piece is not None)
        return joined[address - start : address - start + length]

    def tags(self, address: int, length: int) -> TagArray:
        """As CrashMemory."""
        found = np.full(length // GRANULE_BYTES, UNKNOWN_TAG, np.int16)
        edges = np.array((address, min(address + length, _LAST)), np.uint64)
        low, high = np.searchsorted(self._tagged, edges).tolist()
        places = (self._tagged[low:high] - np.uint64(address)) // np.uint64(GRANULE_BYTES)
        found[places.astype(np.intp)] = self._tags[low:high]
        return found


def _extents(
    granules: Sequence[int], data: dict[int, bytes], tags: dict[int, int]
) -> Iterator[CoreRegion]:
    pending: CoreRegion | None = None
    for granule in granules:
        kind = (granule in data, granule in tags)
        if pending and pending.end == granule and (pending.has_data, pending.has_tags) == kind:
            pending = CoreRegion(pending.address, pending.size_bytes + GRANULE_BYTES, *kind)
            continue
        if pending:
            yield pending
        pending = CoreRegion(granule, GRANULE_BYTES, *kind)
    if pending:
        yield pending


def _up(address: int) -> int:
    return -(-address // GRANULE_BYTES) * GRANULE_BYTES
