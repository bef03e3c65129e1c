"""A range of guest RAM: its data and its allocation tags, as two planes of shared memory."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import AddressError, UsageError
from tagalong.memory.address import Gpa, check_range
from tagalong.memory.bitmap import PageBitmap
from tagalong.memory.plane import AnyPlane, Plane
from tagalong.memory.sparse import sparse_zeros
from tagalong.mte import PACKED_RATIO, PAGE_SIZES_BYTES
from tagalong.mte.tags import zero_pages


class Region:
    """Guest RAM from `gpa` to `end`; made by `Region.create`, or of planes of another kind.

    Both planes are sparse: a page is a hole until guest or host uses it. Arrays taken from
    a region stay valid after close(), see `tagalong.memory.plane` for the rule. A region
    that is used in a `with` statement is closed at its end.
    """

    def __init__(self, gpa: Gpa, page_size_bytes: int, data: AnyPlane, tags: AnyPlane) -> None:
        self.gpa = gpa
        self.size_bytes = data.array.size
        self.page_size_bytes = page_size_bytes
        self._data = data
        self._tags = tags

    @classmethod
    def create(
        cls,
        gpa: Gpa,
        size_bytes: int,
        *,
        page_size_bytes: int = PAGE_SIZES_BYTES[0],
        name: str = "ram",
    ) -> Self:
        """Return a new region, all zero and all holes.

        `gpa`, `size_bytes`: multiples of `page_size_bytes`, which is 4096, 16384 or 65536.
        `name` shows in /proc/PID/maps as tagalong-NAME and tagalong-NAME-tags. Raises
        UsageError for another page size, AddressError for a range that is empty, misaligned
        or beyond the largest gpa, HostError if the host does not give the memory.

        >>> with Region.create(Gpa(0x4000_0000), 0x10000) as region:
        ...     region.data[0x2000] = 1
        ...     region.populated_pages().pages().tolist()
        [2]
        """
        check_region(gpa, size_bytes, page_size_bytes)
        data = Plane(f"tagalong-{name}", size_bytes)
        tags = Plane(f"tagalong-{name}-tags", size_bytes // PACKED_RATIO)
        return cls(gpa, page_size_bytes, data, tags)

    @property
    def end(self) -> Gpa:
        """Return the first gpa after the region."""
        return Gpa(self.gpa + self.size_bytes)

    @property
    def page_count(self) -> int:
        """Return the number of pages."""
        return self.size_bytes // self.page_size_bytes

    @property
    def data(self) -> NDArray[np.uint8]:
        """Return the data plane, shape (size_bytes,), as a writable view.

        Reading a page through it fills a hole. Raises RunStateError after close().
        """
        return self._data.array

    @property
    def tags(self) -> NDArray[np.uint8]:
        """Return the packed tag plane, shape (size_bytes / 32,), as a writable view.

        Reading through it fills holes of the tag plane. Raises RunStateError after close().
        """
        return self._tags.array

    @property
    def was_reserved(self) -> bool:
        """Return whether the data plane was reserved: no holes, but all zero at first."""
        return self._data.was_reserved

    @property
    def data_fd(self) -> int:
        """Return the memfd of the data plane. Raises RunStateError after close()."""
        return self._data.fd

    @property
    def tags_fd(self) -> int:
        """Return the memfd of the tag plane. Raises RunStateError after close()."""
        return self._tags.fd

    def read_data(self, offset: int, length_bytes: int) -> NDArray[np.uint8]:
        """Return a copy of data from byte `offset` of the region on; holes stay holes.

        The caller has checked the range (`GuestMemory.locate`). Raises RunStateError after
        close(), HostError if the host cannot read.
        """
        copy = np.empty(length_bytes, np.uint8)
        self._data.read_into(copy, offset)
        return copy

    def read_data_into(self, target: NDArray[np.uint8], offset: int) -> None:
        """Copy data from byte `offset` of the region on until `target` is full.

        As `read_data`, into memory that the caller has.
        """
        self._data.read_into(target, offset)

    def read_packed_tags(self, offset: int, length_bytes: int) -> NDArray[np.uint8]:
        """Return a copy of the packed tags of a range of the region; holes stay holes.

        `offset`, `length_bytes`: bytes of data, multiples of 32, checked by the caller.
        Shape (length_bytes / 32,). Raises as `read_data`.
        """
        copy = np.empty(length_bytes // PACKED_RATIO, np.uint8)
        self._tags.read_into(copy, offset // PACKED_RATIO)
        return copy

    def read_pages_into(self, target: NDArray[np.uint8], pages: NDArray[np.int64]) -> None:
        """Copy the data of pages, given by number, into `target`, which has room for just them.

        The caller has checked the numbers. Holes stay holes; raises as `read_data`.
        """
        self._data.read_pages_into(target, self.page_size_bytes, pages)

    def read_page_tags(self, pages: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the packed tags of pages, given by number; shape (pages, page size / 32).

        The caller has checked the numbers. Holes stay holes; raises as `read_data`.
        """
        row_bytes = self.page_size_bytes // PACKED_RATIO
        rows = np.empty((pages.size, row_bytes), np.uint8)
        self._tags.read_pages_into(rows, row_bytes, pages)
        return rows

    def used_pages(self, first: int, count: int) -> NDArray[np.bool_]:
        """Return, for `count` pages from page `first` on, whether its data are no hole.

        Meant for a few pages. Touches no memory. Raises RunStateError after close(),
        HostError if the host cannot tell.
        """
        page = self.page_size_bytes
        return self._data.used_pages(first * page, page, count)

    def data_pages(self) -> NDArray[np.bool_]:
        """Return for each page, shape (pages,), whether its data are no hole.

        Touches no memory. Raises RunStateError after close(), HostError if the host cannot
        tell.
        """
        is_used = sparse_zeros(self.page_count, np.bool_)
        for start, stop in _whole_units(self._data, self.page_size_bytes):
            is_used[start:stop] = True
        return is_used

    def populated_pages(self) -> PageBitmap:
        """Return the pages that may hold data or tags other than zero.

        Those are the pages whose data plane is not a hole, and the pages that have a tag
        other than zero. Holes are found with SEEK_DATA and SEEK_HOLE and not touched. Raises
        RunStateError after close(), HostError if the host cannot tell.
        """
        pages = PageBitmap(self.page_count)
        for start, stop in _whole_units(self._data, self.page_size_bytes):
            pages.set_range(start, stop - start)
        page_tags_bytes = self.page_size_bytes // PACKED_RATIO
        for start, stop in _whole_units(self._tags, page_tags_bytes):
            packed = self.tags[start * page_tags_bytes : stop * page_tags_bytes]
            pages.add_flags(start, ~zero_pages(packed, self.page_size_bytes))
        return pages

    def close(self) -> None:
        """Give up both planes. Safe to call twice; arrays taken before stay valid."""
        self._data.close()
        self._tags.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Region [{self.gpa:#x}, {self.end:#x})>"


def check_region(gpa: Gpa, size_bytes: int, page_size_bytes: int) -> None:
    """Raise UsageError or AddressError, as `Region.create`, for what cannot be a region."""
    if page_size_bytes not in PAGE_SIZES_BYTES:
        known = ", ".join(f"{size:#x}" for size in PAGE_SIZES_BYTES)
        raise UsageError(f"page size {page_size_bytes:#x} is not one of {known}")
    check_range(gpa, size_bytes, page_size_bytes)
    if size_bytes == 0:
        raise AddressError(f"a region at gpa {gpa:#x} must have at least one page")


def _whole_units(plane: AnyPlane, unit_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the extents of a plane as numbers of the units that they touch."""
    for start, stop in plane.extents():
        yield start // unit_bytes, -(-stop // unit_bytes)
