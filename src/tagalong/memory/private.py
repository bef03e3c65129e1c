"""A plane of private memory, which may begin as the content of a file: copy-on-write.

Only what has content in the file is mapped, and the rest is anonymous memory. Touching a hole
through a mapping of the file would allocate it on tmpfs, and a machine must leave no trace in
the file that it was restored from, not even in its size on disk.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tagalong._lazy import module_when_used
from tagalong.errors import HostError, RunStateError, UsageError
from tagalong.memory.bitmap import flag_runs
from tagalong.memory.extents import file_extents
from tagalong.memory.mapping import MAP_NORESERVE, map_over
from tagalong.memory.pagemap import private_pages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
else:
    np = module_when_used("numpy")

# Pages whose entries are read at once: bounds the memory that a look into pagemap takes.
_ENTRIES_AT_ONCE: Final = 1 << 18

# Mappings that one plane may take of the 65530 that Linux allows a process (max_map_count).
_MAX_MAPPINGS: Final = 4096


@dataclass(frozen=True)
class FileRange:
    """Bytes [offset, offset + size_bytes) of an open file that does not change any more.

    `path` is for messages. The descriptor must stay open until a plane was made of it.
    """

    path: Path
    fd: int
    offset: int
    size_bytes: int

    @property
    def is_mappable(self) -> bool:
        """Return whether it begins at a page of this host's size."""
        return self.offset % mmap.PAGESIZE == 0

    def check(self) -> None:
        """Raise UsageError if it cannot be mapped, HostError if the file is too short.

        To read a mapping behind the end of its file would be SIGBUS.
        """
        if not self.is_mappable:
            raise UsageError(
                f"{self.path}: offset {self.offset:#x} cannot be mapped, it is not a multiple of "
                f"this host's page size, {mmap.PAGESIZE:#x}"
            )
        size = os.fstat(self.fd).st_size
        if self.offset + self.size_bytes > size:
            raise HostError(
                f"{self.path}: [{self.offset:#x}, {self.offset + self.size_bytes:#x}) is not in "
                f"the file, which ends at {size:#x}"
            )

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges [start, stop) that are no holes, counted from `offset`, in order.

        Raises HostError if the host cannot tell.
        """
        end = self.offset + self.size_bytes
        for start, stop in file_extents(self.fd, self.offset, end, str(self.path)):
            yield start - self.offset, stop - self.offset


@dataclass(frozen=True)
class RegionSource:
    """The content of a region in a file: its data and its packed tags."""

    data: FileRange
    tags: FileRange


class PrivatePlane:
    """Private memory of `size_bytes` as a plane, see `AnyPlane` for what each method promises.

    `source`: a range as large as the plane, which is its content at first; nothing that is
    written here reaches the file. Raises HostError if the host lacks the memory or
    does not map the file, UsageError for a source that cannot be mapped.
    """

    was_reserved = False

    def __init__(self, name: str, size_bytes: int, source: FileRange | None = None) -> None:
        self._name = name
        self.size_bytes = size_bytes
        self._source = source
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        try:
            mapping = mmap.mmap(-1, size_bytes, flags=flags)
            # A huge page would be filled whole at the first touch of any of its pages.
            mapping.madvise(mmap.MADV_NOHUGEPAGE)
        except OSError as error:
            raise HostError(
                f"cannot create {size_bytes:#x} bytes of memory for {name}: {error}"
            ) from error
        self._array: NDArray[np.uint8] | None = np.frombuffer(mapping, np.uint8)
        self._page_count = -(-size_bytes // mmap.PAGESIZE)
        self._file_pages = np.empty((0, 2), np.int64)  # the runs [first, stop) of the file's
        if source is not None:
            self._map(source)

    def _map(self, source: FileRange) -> None:
        source.check()
        pages = [_whole_pages(*extent) for extent in source.extents()]
        self._file_pages = np.array(pages, np.int64).reshape(-1, 2)
        for first, last in _joined(pages, _MAX_MAPPINGS):
            self._map_pages(source, first * mmap.PAGESIZE, last * mmap.PAGESIZE)

    def _map_pages(self, source: FileRange, start: int, stop: int) -> None:
        offset = source.offset + start
        try:
            flags = mmap.MAP_PRIVATE | MAP_NORESERVE
            map_over(self.buffer[start:stop], flags, source.fd, offset)
        except OSError as error:
            raise HostError(
                f"cannot map [{offset:#x}, {offset + stop - start:#x}) of {source.path}: "
                f"{error.strerror}"
            ) from error

    @property
    def is_of_file(self) -> bool:
        """Return whether the plane began as the content of a file."""
        return self._source is not None

    @property
    def fd(self) -> int:
        """Refuse: there is no file that others could map and see the same."""
        kind = "anonymous"
        if self._source is not None:
            kind = f"a copy-on-write mapping of {self._source.path}"
        raise HostError(f"guest memory {self._name} is {kind}: there is no file to share")

    @property
    def buffer(self) -> memoryview:
        """Return the whole plane as writable bytes. Raises RunStateError after close()."""
        return self.array.data

    @property
    def array(self) -> NDArray[np.uint8]:
        """Return the whole plane, as a writable view. Raises RunStateError after close()."""
        if self._array is None:
            raise RunStateError(f"guest memory {self._name} is closed")
        return self._array

    def write(self, offset: int, data: memoryview) -> None:
        """Copy all of `data`, bytes, to byte `offset`."""
        self.buffer[offset : offset + data.nbytes] = data

    def expect(self, offset: int, length_bytes: int) -> None:
        """Do nothing: this memory has no huge pages."""

    def read_into(self, target: NDArray[np.uint8], offset: int) -> None:
        """Copy bytes from `offset` on until `target` is full; holes stay holes."""
        target.fill(0)
        page = mmap.PAGESIZE
        first, end = offset // page, offset + target.size
        used = self._is_used(first, -(-end // page) - first)
        for low, high in flag_runs(used, first):
            start, stop = max(low * page, offset), min(high * page, end)
            target[start - offset : stop - offset] = self.array[start:stop]

    def read_pages_into(
        self, target: NDArray[np.uint8], page_bytes: int, pages: NDArray[np.int64]
    ) -> None:
        """Copy pages of `page_bytes`, given by number, until `target` is full.

        Holes stay holes.
        """
        if not pages.size:
            return
        first, last = int(pages.min()), int(pages.max())
        spans = range(first, last + 1, _ENTRIES_AT_ONCE)
        parts = [
            self.used_pages(at * page_bytes, page_bytes, min(_ENTRIES_AT_ONCE, last + 1 - at))
            for at in spans
        ]
        used = np.concatenate(parts)[pages - first]
        rows = target.reshape(pages.size, page_bytes)
        rows[~used] = 0
        rows[used] = self.array.reshape(-1, page_bytes)[pages[used]]

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield the byte ranges [start, stop) that are no holes, in order."""
        page, size = mmap.PAGESIZE, self.array.size
        page_count = self._page_count
        for first in range(0, page_count, _ENTRIES_AT_ONCE):
            used = self._is_used(first, min(_ENTRIES_AT_ONCE, page_count - first))
            for low, high in flag_runs(used, first):
                yield low * page, min(high * page, size)

    def used_pages(self, start: int, page_bytes: int, count: int) -> NDArray[np.bool_]:
        """Return, for `count` pages from byte `start` on, whether each is no hole."""
        host = mmap.PAGESIZE
        first = start // host
        used = self._is_used(first, -(-(start + count * page_bytes) // host) - first)
        if page_bytes == host:
            return used
        # The guest's pages and the host's are of different size: each that touches a used one.
        starts = start + np.arange(count) * page_bytes
        sums = np.concatenate(([0], np.cumsum(used)))
        found: NDArray[np.bool_] = (
            sums[-(-(starts + page_bytes) // host) - first] > sums[starts // host - first]
        )
        return found

    def _is_used(self, first_page: int, count: int) -> NDArray[np.bool_]:
        """Return which pages are the file's, or anonymous: present or swapped out."""
        address = self.array.ctypes.data + first_page * mmap.PAGESIZE
        used = private_pages(address, count, self._name)
        firsts, stops = self._file_pages.T
        low = np.searchsorted(stops, first_page, "right")
        high = np.searchsorted(firsts, first_page + count, "left")
        for first, stop in self._file_pages[low:high] - first_page:
            used[max(first, 0) : stop] = True
        return used

    def close(self) -> None:
        """Forget the memory; it goes when the last array that looks into it goes."""
        self._array = None


def _whole_pages(start: int, stop: int) -> tuple[int, int]:
    return start // mmap.PAGESIZE, -(-stop // mmap.PAGESIZE)


def _joined(runs: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return the runs, those joined that are closest to each other, so that `most` are left.

    >>> _joined([(0, 1), (2, 3), (9, 10)], 2)
    [(0, 3), (9, 10)]
    """
    if len(runs) <= most:
        return list(runs)
    starts, stops = np.array(runs, np.int64).T
    gaps = starts[1:] - stops[:-1]
    widest = np.sort(np.argsort(gaps, kind="stable")[gaps.size - most + 1 :])
    firsts = [starts[0], *starts[widest + 1]]
    lasts = [*stops[widest], stops[-1]]
    return [(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]
