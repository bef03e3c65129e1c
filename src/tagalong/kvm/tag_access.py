"""Reads and writes the tags of guest RAM through KVM_ARM_MTE_COPY_TAGS.

Here is the edge between KVM's form (one tag a byte) and ours (packed, two a byte). Asking
KVM for the tags of a page that nobody used gives zeros and allocates the page, so holes
are looked for first and never asked about.
"""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import AddressError, UsageError
from tagalong.kvm.abi import KVM_ARM_TAGS_FROM_GUEST, KVM_ARM_TAGS_TO_GUEST
from tagalong.kvm.descriptor import IoctlError
from tagalong.kvm.vm import Vm
from tagalong.memory import Gpa, GuestMemory, PageBitmap, Region, page_runs
from tagalong.memory.pagemap import runs_of
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO, TAGS_PER_BYTE
from tagalong.mte.tags import pack, unpack, zero_pages

# Bytes of guest RAM whose tags are copied at once; the unpacked tags take a 16th of it.
_CHUNK_BYTES: Final = 4 << 20


class TagAccess:
    """The tags of `memory`; `suspend_log` is entered where KVM takes no tags with the log on."""

    def __init__(
        self,
        vm: Vm,
        memory: GuestMemory,
        suspend_log: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._vm = vm
        self._memory = memory
        self._suspend_log = suspend_log
        self._page_bytes = memory.regions[0].page_size_bytes
        self._used = {r.gpa: np.zeros(r.page_count, np.bool_) for r in memory.regions}

    def note_used(self, pages: Sequence[PageBitmap]) -> None:
        """Remember pages of each region that are no holes: they never become one again."""
        for used, bitmap in zip(self._used.values(), pages, strict=True):
            used[bitmap.pages()] = True

    def read(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """Return packed tags, shape (length_bytes / 32,). Raises AddressError, HostError."""
        region, offset = self._locate(gpa, length_bytes)
        page = region.page_size_bytes
        used = self._find_used(region, offset // page, length_bytes // page)
        if length_bytes <= _CHUNK_BYTES and used.all():  # what a migration asks for all the time
            return self._get(gpa, length_bytes)
        packed = np.zeros(length_bytes // PACKED_RATIO, np.uint8)
        for start, stop in _chunks(used, page):
            part = self._get(gpa + start, stop - start)
            packed[start // PACKED_RATIO : stop // PACKED_RATIO] = part
        return packed

    def write(self, gpa: Gpa, packed: NDArray[np.uint8]) -> None:
        """Set packed tags. Raises UsageError, AddressError, HostError.

        A page that nobody used and whose tags are to be zero stays unused.
        """
        if packed.dtype != np.uint8 or packed.ndim != 1:
            raise UsageError(
                f"packed tags must be one row of uint8, not {packed.dtype} of shape {packed.shape}"
            )
        region, offset = self._locate(gpa, packed.size * PACKED_RATIO)
        page = region.page_size_bytes
        wanted = self._find_used(region, offset // page, packed.size * PACKED_RATIO // page)
        if packed.size <= _CHUNK_BYTES // PACKED_RATIO and wanted.all():
            self._set(gpa, unpack(packed))
            return
        wanted |= ~zero_pages(packed, page)  # they are used from now on: so remember them
        for start, stop in _chunks(wanted, page):
            part = packed[start // PACKED_RATIO : stop // PACKED_RATIO]
            self._set(gpa + start, unpack(part))

    def read_pages(self, number: int, pages: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return packed tags of pages of region `number`, one row each, as `read`."""
        region = self._memory.region_of_pages(number, pages)
        row_bytes = region.page_size_bytes // PACKED_RATIO
        used = self._find_used_pages(region, pages)
        tags = np.empty(np.count_nonzero(used) * row_bytes * TAGS_PER_BYTE, np.uint8)
        self._copy_pages(region, pages[used], tags, KVM_ARM_TAGS_FROM_GUEST)
        if used.all():
            return pack(tags).reshape(-1, row_bytes)
        rows = np.zeros((pages.size, row_bytes), np.uint8)
        rows[used] = pack(tags).reshape(-1, row_bytes)
        return rows

    def write_pages(self, number: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
        """Set packed tags of pages of region `number`, one row each, as `write`."""
        region = self._memory.region_of_pages(number, pages)
        wanted = self._find_used_pages(region, pages) | packed.any(axis=1)
        tags = unpack(packed[wanted].reshape(-1))
        self._with_log_on_or_off(
            lambda: self._copy_pages(region, pages[wanted], tags, KVM_ARM_TAGS_TO_GUEST)
        )
        self._used[region.gpa][pages[wanted]] = True

    def _copy_pages(
        self, region: Region, pages: NDArray[np.int64], tags: NDArray[np.uint8], direction: int
    ) -> None:
        runs = page_runs(pages) * region.page_size_bytes
        runs[:, 0] += region.gpa
        self._vm.copy_tags_of_runs(runs, tags, direction)

    def _find_used_pages(self, region: Region, pages: NDArray[np.int64]) -> NDArray[np.bool_]:
        used = self._used[region.gpa][pages]
        if not used.all():
            for first, count in page_runs(pages[~used]).tolist():
                self._find_used(region, first, count)
            used = self._used[region.gpa][pages]
        return used

    def _get(self, gpa: int, length_bytes: int) -> NDArray[np.uint8]:
        tags = np.empty(length_bytes // GRANULE_BYTES, np.uint8)
        self._vm.copy_tags(gpa, tags, KVM_ARM_TAGS_FROM_GUEST)
        return pack(tags)

    def _set(self, gpa: int, tags: NDArray[np.uint8]) -> None:
        self._with_log_on_or_off(lambda: self._vm.copy_tags(gpa, tags, KVM_ARM_TAGS_TO_GUEST))

    def _with_log_on_or_off(self, write: Callable[[], None]) -> None:
        try:
            write()
        except IoctlError as error:
            # Newer kernels, and 6.12 with the fix, take no tags while the dirty log is on.
            if error.errno != errno.EBUSY:
                raise
            with self._suspend_log():
                write()

    def _find_used(self, region: Region, first: int, count: int) -> NDArray[np.bool_]:
        """Return which pages of a region are no holes, and remember them."""
        known = self._used[region.gpa][first : first + count]
        if not known.all():
            for start, stop in runs_of(~known):
                known[start:stop] = region.used_pages(first + start, stop - start)
        return known

    def _locate(self, gpa: Gpa, length_bytes: int) -> tuple[Region, int]:
        if (gpa | length_bytes) % self._page_bytes:
            raise AddressError(
                f"tags of {gpa:#x}+{length_bytes:#x}: not aligned to {self._page_bytes:#x}"
            )
        return self._memory.locate(gpa, length_bytes)


def _chunks(pages: NDArray[np.bool_], page_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of the pages that are set, none larger than is copied at once."""
    for first, last in runs_of(pages):
        for start in range(first * page_bytes, last * page_bytes, _CHUNK_BYTES):
            yield start, min(start + _CHUNK_BYTES, last * page_bytes)
