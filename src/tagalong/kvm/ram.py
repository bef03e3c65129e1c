"""Guest RAM for KVM: a region's data plane is what the guest runs on, its tags are in its pages.

A memfd mapped shared, without PROT_MTE, is what the guest and this process see; a second
mapping with PROT_MTE (`tagged_alias`) is there for who wants LDG and STG to reach the same
tags. Kernels before 6.2 refuse shared memory to a VM with MTE: there the RAM is private
anonymous memory, which has no second mapping, and its holes are found in pagemap.
"""

import mmap
import os
from collections.abc import Iterator
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import HostError, RunStateError, UsageError
from tagalong.kvm.abi import MAP_NORESERVE, PROT_MTE
from tagalong.machine import RegionDescription
from tagalong.memory import Plane, Region
from tagalong.memory.region import check_region

_PAGEMAP: Final = "/proc/self/pagemap"
_ENTRY_BYTES: Final = 8
_PRESENT_OR_SWAPPED: Final = np.uint64(3 << 62)
# Pages whose entries are read at once: bounds the memory that a look into pagemap takes.
_ENTRIES_AT_ONCE: Final = 1 << 18


class AnonymousPlane:
    """Private anonymous memory as a plane; `extents` come from pagemap.

    Raises HostError if the host does not give the memory.
    """

    was_reserved = False

    def __init__(self, name: str, size_bytes: int) -> None:
        self._name = name
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        try:
            mapping = mmap.mmap(-1, size_bytes, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            # A huge page would be filled whole at the first touch of any of its pages.
            mapping.madvise(mmap.MADV_NOHUGEPAGE)
        except OSError as error:
            raise HostError(
                f"cannot create {size_bytes:#x} bytes of memory for {name}: {error}"
            ) from error
        self._array: NDArray[np.uint8] | None = np.frombuffer(mapping, np.uint8)

    @property
    def fd(self) -> int:
        """Refuse: there is no file."""
        raise HostError(f"guest memory {self._name} is anonymous: there is no file to share")

    @property
    def array(self) -> NDArray[np.uint8]:
        """Return the whole plane, as a writable view. Raises RunStateError after close()."""
        if self._array is None:
            raise RunStateError(f"guest memory {self._name} is closed")
        return self._array

    def read_into(self, target: NDArray[np.uint8], offset: int) -> None:
        """Copy bytes from `offset` on until `target` is full; holes stay holes."""
        target.fill(0)
        page = mmap.PAGESIZE
        first, end = offset // page, offset + target.size
        used = self._is_used(first, -(-end // page) - first)
        for low, high in runs_of(used, first):
            start, stop = max(low * page, offset), min(high * page, end)
            target[start - offset : stop - offset] = self.array[start:stop]

    def read_pages_into(
        self, target: NDArray[np.uint8], page_bytes: int, pages: NDArray[np.int64]
    ) -> None:
        """Copy pages of `page_bytes`, given by number, until `target` is full; holes stay holes."""
        rows = target.reshape(pages.size, page_bytes)
        for number, row in zip(pages.tolist(), rows, strict=True):
            self.read_into(row, number * page_bytes)

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield the byte ranges [start, stop) that are present or swapped out, in order."""
        page = mmap.PAGESIZE
        page_count = self.array.size // page
        for first in range(0, page_count, _ENTRIES_AT_ONCE):
            used = self._is_used(first, min(_ENTRIES_AT_ONCE, page_count - first))
            for low, high in runs_of(used, first):
                yield low * page, high * page

    def used_pages(self, start: int, page_bytes: int, count: int) -> NDArray[np.bool_]:
        """Return, for `count` pages from byte `start` on, whether each is no hole."""
        return self._is_used(start // page_bytes, count)

    def _is_used(self, first_page: int, count: int) -> NDArray[np.bool_]:
        used: NDArray[np.bool_] = self._entries(first_page, count) & _PRESENT_OR_SWAPPED != 0
        return used

    def _entries(self, first_page: int, count: int) -> NDArray[np.uint64]:
        """Return the pagemap entries of pages of this plane."""
        at = (self.array.ctypes.data // mmap.PAGESIZE + first_page) * _ENTRY_BYTES
        try:
            with open(_PAGEMAP, "rb", buffering=0) as pagemap:
                entries = os.pread(pagemap.fileno(), count * _ENTRY_BYTES, at)
        except OSError as error:
            raise HostError(f"cannot read {_PAGEMAP} for {self._name}: {error}") from error
        return np.frombuffer(entries, np.uint64)

    def close(self) -> None:
        """Forget the memory; it goes when the last array that looks into it goes."""
        self._array = None


class TagsInPages:
    """Stands where a region has its tag plane: KVM keeps tags in the pages themselves.

    There is nothing to map here, and to answer with zeros would lose tags silently.
    """

    was_reserved = False

    @property
    def fd(self) -> int:
        """Refuse: there is no file."""
        return self._refuse()

    @property
    def array(self) -> NDArray[np.uint8]:
        """Refuse: there is no plane."""
        return self._refuse()

    def read_into(self, target: NDArray[np.uint8], offset: int) -> None:
        """Refuse: there is no plane."""
        del target, offset
        self._refuse()

    def read_pages_into(
        self, target: NDArray[np.uint8], page_bytes: int, pages: NDArray[np.int64]
    ) -> None:
        """Refuse: there is no plane."""
        del target, page_bytes, pages
        self._refuse()

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield nothing: no page has a tag whose data are a hole."""
        return iter(())

    def used_pages(self, start: int, page_bytes: int, count: int) -> NDArray[np.bool_]:
        """Refuse: there is no plane."""
        del start, page_bytes, count
        self._refuse()

    def close(self) -> None:
        """Do nothing: the tags go with the pages."""

    def _refuse(self) -> NoReturn:
        raise UsageError(
            "a KVM guest's tags are in its pages: use read_tags and write_tags of the machine"
        )


def runs_of(flags: NDArray[np.bool_], first: int = 0) -> list[list[int]]:
    """Return [start, stop) of the runs of flags that are set; the first flag's number is `first`.

    >>> runs_of(np.array([False, True, True, False, True]))
    [[1, 3], [4, 5]]
    """
    fenced = np.zeros(flags.size + 2, np.bool_)
    fenced[1:-1] = flags
    edges = np.flatnonzero(fenced[1:] != fenced[:-1])
    pairs: list[list[int]] = (first + edges.reshape(-1, 2)).tolist()
    return pairs


def create_region(description: RegionDescription, page_size_bytes: int, *, shared: bool) -> Region:
    """Return new RAM, in a memfd if `shared`. Raises UsageError, AddressError, HostError."""
    check_region(description.gpa, description.size_bytes, page_size_bytes)
    make = Plane if shared else AnonymousPlane
    data = make("tagalong-ram", description.size_bytes)
    return Region(description.gpa, page_size_bytes, data, TagsInPages())


def tagged_alias(region: Region) -> mmap.mmap:
    """Map a region's data a second time, with PROT_MTE; the caller closes it.

    LDG and STG through it reach the guest's tags, and plain accesses are checked if the
    thread asked for that. Raises HostError for anonymous RAM and if the host refuses.
    """
    protection = mmap.PROT_READ | mmap.PROT_WRITE | PROT_MTE
    try:
        return mmap.mmap(region.data_fd, region.size_bytes, mmap.MAP_SHARED, protection)
    except OSError as error:
        raise HostError(f"cannot map RAM at gpa {region.gpa:#x} with PROT_MTE: {error}") from error
