"""Reads and writes the tags of guest RAM through KVM_ARM_MTE_COPY_TAGS.

Here is the edge between KVM's form (one tag a byte) and ours (packed, two a byte). Asking
KVM for the tags of a page that nobody used gives zeros and allocates the page, so holes
are looked for first and never asked about.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import AddressError, UsageError
from tagalong.kvm.abi import KVM_ARM_TAGS_FROM_GUEST, KVM_ARM_TAGS_TO_GUEST
from tagalong.kvm.descriptor import IoctlError
from tagalong.kvm.vm import Vm
from tagalong.memory import Gpa, GuestMemory, Region
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO
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

    def read(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """Return packed tags, shape (length_bytes / 32,). Raises AddressError, HostError."""
        region, offset = self._locate(gpa, length_bytes)
        packed = np.zeros(length_bytes // PACKED_RATIO, np.uint8)
        for start, stop in _used(region, offset, offset + length_bytes):
            tags = np.empty((stop - start) // GRANULE_BYTES, np.uint8)
            self._vm.copy_tags(region.gpa + start, tags, KVM_ARM_TAGS_FROM_GUEST)
            at = (start - offset) // PACKED_RATIO
            packed[at : at + tags.size // 2] = pack(tags)
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
        for start, stop in _to_write(region, offset, packed):
            part = packed[(start - offset) // PACKED_RATIO : (stop - offset) // PACKED_RATIO]
            self._set(region.gpa + start, unpack(np.ascontiguousarray(part)))

    def _set(self, gpa: int, tags: NDArray[np.uint8]) -> None:
        try:
            self._vm.copy_tags(gpa, tags, KVM_ARM_TAGS_TO_GUEST)
        except IoctlError as error:
            # Kernels from about 6.13 take no tags while the dirty log is on.
            if error.errno != errno.EBUSY:
                raise
            with self._suspend_log():
                self._vm.copy_tags(gpa, tags, KVM_ARM_TAGS_TO_GUEST)

    def _locate(self, gpa: Gpa, length_bytes: int) -> tuple[Region, int]:
        page = self._memory.regions[0].page_size_bytes
        if (gpa | length_bytes) % page:
            raise AddressError(f"tags of {gpa:#x}+{length_bytes:#x}: not aligned to {page:#x}")
        return self._memory.locate(gpa, length_bytes)


def _used(region: Region, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges in [start, stop) that are no holes, in chunks."""
    for first, last in region.data_extents(start, stop):
        yield from _chunks(first, last)


def _to_write(region: Region, offset: int, packed: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges that are no holes, or whose tags will not be zero."""
    page = region.page_size_bytes
    wanted = ~zero_pages(packed, page)
    for first, last in region.data_extents(offset, offset + packed.size * PACKED_RATIO):
        wanted[(first - offset) // page : -(-(last - offset) // page)] = True
    edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False)).reshape(-1, 2)
    for low, high in (offset + edges * page).tolist():
        yield from _chunks(low, high)


def _chunks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, _CHUNK_BYTES):
        yield first, min(first + _CHUNK_BYTES, stop)
