"""A range of guest RAM: its data and its allocation tags, as two planes of memory.

Data take a route, tags a port. `Machine.use_access` puts an access strategy in the way of every
copy: regions copy data by their route, and skip holes first; tags are read and written by the
machine's own port. A strategy that copies data as any code does (`ioctl`, `alias`: a mapping
without PROT_MTE) needs no route, so the data plane stays in direct use, without a copy.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, Self

from tagalong._lazy import module_when_used
from tagalong.errors import AddressError, UsageError
from tagalong.memory.address import Gpa, check_range
from tagalong.memory.bitmap import PageBitmap, page_index, page_runs
from tagalong.memory.mapping import address_of
from tagalong.memory.plane import AnyPlane, Plane
from tagalong.memory.rows import tag_rows
from tagalong.memory.stores import HostStores
from tagalong.mte import PACKED_RATIO, PAGE_SIZES_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    import tagalong.mte.tags as mte_tags
    from tagalong.memory import private
    from tagalong.memory.private import RegionSource
else:
    private = module_when_used("tagalong.memory.private")  # of restored machines
    mte_tags = module_when_used("tagalong.mte.tags")
    np = module_when_used("numpy")

# Pages whose tags are looked at together, and how far apart they may be for that.
_UNITS_AT_ONCE = 2048
_SHORT_GAP_UNITS = 1024


class DataRoute(Protocol):
    """A way to copy guest data other than through the data plane: an access strategy."""

    def read(self, gpa: Gpa, target: NDArray[np.uint8]) -> None:
        """Fill `target` with data. Raises TagalongError."""
        ...

    def write(self, gpa: Gpa, source: NDArray[np.uint8]) -> None:
        """Write data. Raises TagalongError."""
        ...


class Region:
    """Guest RAM from `gpa` to `end`; made by `Region.create`, or of planes of another kind.

    Both planes are sparse: a page is a hole until guest or host uses it. Every store of the
    host is in `stores`, so that a dirty log has it: the methods here see to that, and `storing`
    for a store that none of them does. Arrays taken from a region stay valid after close(), see
    `tagalong.memory.plane` for the rule. A region that is used in a `with` statement is closed
    at its end.
    """

    def __init__(self, gpa: int, page_size_bytes: int, data: AnyPlane, tags: AnyPlane) -> None:
        self.gpa = Gpa(gpa)
        self.size_bytes = data.size_bytes
        self.page_size_bytes = page_size_bytes
        self._data = data
        self._tags = tags
        self.stores = HostStores(self.page_count)
        self._route: DataRoute | None = None
        # Of pages whose data were found to be there: they never become holes again.
        self._known_data: PageBitmap | None = None

    @classmethod
    def create(
        cls,
        gpa: int,
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
        ...     region.write_data(0x2000, np.ones(1, np.uint8))
        ...     region.populated_pages().pages().tolist()
        [2]
        """
        check_region(gpa, size_bytes, page_size_bytes)
        data = Plane(f"tagalong-{name}", size_bytes)
        tags = Plane(f"tagalong-{name}-tags", size_bytes // PACKED_RATIO)
        return cls(gpa, page_size_bytes, data, tags)

    @classmethod
    def map(
        cls,
        gpa: int,
        size_bytes: int,
        source: RegionSource,
        *,
        page_size_bytes: int = PAGE_SIZES_BYTES[0],
        name: str = "ram",
    ) -> Self:
        """Return a region that begins as the content of a file and never changes the file.

        Data and tags are mapped copy-on-write, so this costs the same whatever their size.
        Raises as `create`, and UsageError for a source that cannot be mapped on this host.
        """
        check_region(gpa, size_bytes, page_size_bytes)
        data = private.PrivatePlane(f"tagalong-{name}", size_bytes, source.data)
        tags_bytes = size_bytes // PACKED_RATIO
        tags = private.PrivatePlane(f"tagalong-{name}-tags", tags_bytes, source.tags)
        return cls(gpa, page_size_bytes, data, tags)

    @property
    def has_file_data(self) -> bool:
        """Return whether the data began as the content of a file (see `map`)."""
        return self._data.is_of_file

    @property
    def has_file_tags(self) -> bool:
        """Return whether the tags began as the content of a file (see `map`)."""
        return self._tags.is_of_file

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
        """Return the data plane, shape (size_bytes,), as a read-only view.

        Reading a page through it fills a hole. Raises RunStateError after close().
        """
        return _read_only(self._data.array)

    @property
    def tags(self) -> NDArray[np.uint8]:
        """Return the packed tag plane, shape (size_bytes / 32,), as a read-only view.

        Reading through it fills holes of the tag plane. Raises RunStateError after close().
        """
        return _read_only(self._tags.array)

    @property
    def raw_data(self) -> NDArray[np.uint8]:
        """Return the data plane as `data`, writable: stores through it are in no dirty log.

        For memory that is not a guest's (the embedded host's own), for tests that set up RAM, and
        for code that marks the pages in `stores` before and after.
        """
        return self._data.array

    @property
    def raw_tags(self) -> NDArray[np.uint8]:
        """Return the packed tag plane as `tags`, writable: see `raw_data`."""
        return self._tags.array

    @property
    def raw_buffer(self) -> memoryview:
        """Return the data plane as `raw_data` does, as bytes: numpy need not be loaded for it."""
        return self._data.buffer

    @property
    def data_address(self) -> int:
        """Return where this process has the data; valid as long as a view of them is."""
        return address_of(self._data.buffer)

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

    def route(self, route: DataRoute | None) -> None:
        """Copy data through `route` from now on; directly with None.

        `data` and `data_fd` stay what they are; code that copies guest RAM in bulk looks at
        `is_routed` before it uses them.
        """
        self._route = route

    @property
    def is_routed(self) -> bool:
        """Return whether data are to be copied by methods and not through `data`."""
        return self._route is not None

    def read_data(self, offset: int, length_bytes: int) -> NDArray[np.uint8]:
        """Return a copy of data from byte `offset` of the region on; holes stay holes.

        The caller has checked the range (`GuestMemory.locate`). Raises RunStateError after
        close(), HostError if the host cannot read.
        """
        copy = np.empty(length_bytes, np.uint8)
        self.read_data_into(copy, offset)
        return copy

    def read_data_into(self, target: NDArray[np.uint8], offset: int) -> None:
        """Copy data from byte `offset` of the region on until `target` is full.

        As `read_data`, into memory that the caller has. Raises what the route raises.
        """
        if self._route is None:
            self._data.read_into(target, offset)
        else:
            self._read_routed(self._route, target, offset)

    def expect_data(self, offset: int, length_bytes: int) -> None:
        """Prepare for data that are going to be written to the whole of a range.

        Where the range is holes and the host has huge pages, it gets some (memory/huge_pages.py).
        The caller has checked the range. Raises RunStateError after close(), HostError if the host
        cannot tell what is a hole.
        """
        self._data.expect(offset, length_bytes)

    def write_data(self, offset: int, source: NDArray[np.uint8] | memoryview) -> None:
        """Write data, one row of bytes, from byte `offset` of the region on; tags stay.

        The caller has checked the range. Raises RunStateError after close(), and what the
        route raises.
        """
        with self._marking(offset, source.nbytes):
            if self._route is None:
                data = source if isinstance(source, memoryview) else source.data
                self._data.write(offset, data)
            else:
                self._route.write(Gpa(self.gpa + offset), np.frombuffer(source, np.uint8))

    @contextmanager
    def storing(self, offset: int, length_bytes: int) -> Iterator[NDArray[np.uint8]]:
        """Yield a writable view of data from byte `offset` on, for stores within the block.

        For code that fills guest RAM without a copy, such as a system call: no route is taken.
        The caller has checked the range. Raises RunStateError after close().
        """
        view = self._data.array[offset : offset + length_bytes]
        with self._marking(offset, length_bytes):
            yield view

    @contextmanager
    def storing_bytes(self, offset: int, length_bytes: int) -> Iterator[memoryview]:
        """Yield data as writable bytes: as `storing`, without loading numpy."""
        view = self._data.buffer[offset : offset + length_bytes]
        with self._marking(offset, length_bytes):
            yield view

    def _marking(self, offset: int, length_bytes: int) -> AbstractContextManager[None]:
        """Mark the pages that a byte range touches before and after a block."""
        first = offset // self.page_size_bytes
        stop = -(-(offset + length_bytes) // self.page_size_bytes) if length_bytes else first
        return self.stores.storing(first, stop - first)

    def write_pages(self, pages: NDArray[np.int64], rows: NDArray[np.uint8]) -> None:
        """Write the data of pages, given by number; `rows` has one for each, or one for all.

        The caller has checked the numbers, which ascend. Raises as `write_data`.
        """
        with self.stores.storing_pages(pages):
            if self._route is None:
                self._data.array.reshape(-1, self.page_size_bytes)[page_index(pages)] = rows
            else:
                self._write_routed(self._route, pages, rows)

    def _write_routed(
        self, route: DataRoute, pages: NDArray[np.int64], rows: NDArray[np.uint8]
    ) -> None:
        page = self.page_size_bytes
        rows, at = np.broadcast_to(rows, (pages.size, page)), 0
        for first, count in page_runs(pages).tolist():
            source = np.ascontiguousarray(rows[at : at + count]).reshape(-1)
            route.write(Gpa(self.gpa + first * page), source)
            at += count

    def write_packed_tags(self, offset: int, packed: NDArray[np.uint8]) -> None:
        """Set the packed tags, one row of uint8, of the bytes from `offset` on; data stay.

        `offset` is a multiple of 32; the caller has checked it and the range. Raises
        RunStateError after close().
        """
        first = offset // PACKED_RATIO
        with self._marking(offset, packed.size * PACKED_RATIO):
            self._tags.array[first : first + packed.size] = packed

    def write_page_tags(self, pages: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
        """Set the packed tags of pages, given by number; `packed` has a row for each.

        The caller has checked the numbers, which ascend. Raises RunStateError after close().
        """
        with self.stores.storing_pages(pages):
            self._tags.array.reshape(self.page_count, -1)[page_index(pages)] = packed

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
        if self._route is None:
            self._data.read_pages_into(target, self.page_size_bytes, pages)
            return
        page = self.page_size_bytes
        at = 0
        for first, count in page_runs(pages).tolist():
            self._read_routed(self._route, target[at : at + count * page], first * page)
            at += count * page

    def gpa_runs(self, runs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return gpa and size in bytes of runs: a new array of the same shape, (runs, 2).

        `runs`: first page and number of pages each, as of `page_runs`.

        >>> with Region.create(Gpa(0x4000_0000), 0x10000) as region:
        ...     [[hex(n) for n in run] for run in region.gpa_runs(np.array([[1, 2], [7, 1]]))]
        [['0x40001000', '0x2000'], ['0x40007000', '0x1000']]
        """
        found = runs * self.page_size_bytes
        found[:, 0] += self.gpa
        return found

    def read_page_tags(
        self, pages: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return the packed tags of pages, given by number; shape (pages, page size / 32).

        `out`: as `tag_rows`. The caller has checked the numbers. Holes stay holes; raises as
        `read_data`.
        """
        row_bytes = self.page_size_bytes // PACKED_RATIO
        rows = tag_rows(pages.size, self.page_size_bytes, out)
        self._tags.read_pages_into(rows, row_bytes, pages)
        return rows

    def used_pages(self, first: int, count: int) -> NDArray[np.bool_]:
        """Return, for `count` pages from page `first` on, whether its data are no hole.

        Meant for a few pages. Touches no memory. Raises RunStateError after close(),
        HostError if the host cannot tell.
        """
        page = self.page_size_bytes
        return self._data.used_pages(first * page, page, count)

    def data_pages(self) -> PageBitmap:
        """Return the pages whose data are no hole.

        Touches no memory. Raises RunStateError after close(), HostError if the host cannot
        tell.
        """
        extents = self._data.extents()
        pages = PageBitmap.from_extents(self.page_count, extents, self.page_size_bytes)
        self._known_data = pages.copy()
        return pages

    def has_known_data(self, first: int, count: int) -> bool:
        """Return whether the last `data_pages` found no hole in `count` pages from `first` on.

        Reading these through `data` fills none. Raises UsageError for pages out of range.
        """
        return self._known_data is not None and self._known_data.has_range(first, count)

    def populated_pages(self) -> PageBitmap:
        """Return the pages that may hold data or tags other than zero.

        Those are the pages whose data plane is not a hole, and the pages that have a tag
        other than zero. Holes are found with SEEK_DATA and SEEK_HOLE and not touched. Raises
        RunStateError after close(), HostError if the host cannot tell.
        """
        pages = self.data_pages()
        page_tags_bytes = self.page_size_bytes // PACKED_RATIO
        # By the descriptor and in large pieces: tags lie scattered, and holes stay holes.
        buffer = np.empty(_UNITS_AT_ONCE * page_tags_bytes, np.uint8)
        for start, stop in _joined(_whole_units(self._tags, page_tags_bytes)):
            if pages.has_range(start, stop - start):
                continue
            packed = buffer[: (stop - start) * page_tags_bytes]
            self._tags.read_into(packed, start * page_tags_bytes)
            pages.add_flags(start, ~mte_tags.zero_pages(packed, self.page_size_bytes))
        return pages

    def _read_routed(self, route: DataRoute, target: NDArray[np.uint8], offset: int) -> None:
        """Read by `route` what is no hole."""
        page = self.page_size_bytes
        end = offset + target.size
        first = offset // page
        used = self.used_pages(first, -(-end // page) - first)
        if used.all():
            route.read(Gpa(self.gpa + offset), target)
            return
        target.fill(0)
        for low, count in page_runs(first + np.flatnonzero(used)).tolist():
            start, stop = max(low * page, offset), min((low + count) * page, end)
            route.read(Gpa(self.gpa + start), target[start - offset : stop - offset])

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


def _read_only(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    view = array.view()
    view.flags.writeable = False
    return view


def check_region(gpa: int, size_bytes: int, page_size_bytes: int) -> None:
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


def _joined(units: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ranges that cover `units`, in order, of up to _UNITS_AT_ONCE each.

    Ranges with a short gap between them are one.
    """
    pending: tuple[int, int] | None = None
    for whole_start, whole_stop in units:
        for start in range(whole_start, whole_stop, _UNITS_AT_ONCE):
            stop = min(start + _UNITS_AT_ONCE, whole_stop)
            if pending is None:
                pending = start, stop
            elif start - pending[1] <= _SHORT_GAP_UNITS and stop - pending[0] <= _UNITS_AT_ONCE:
                pending = pending[0], max(stop, pending[1])
            else:
                yield pending
                pending = start, stop
    if pending is not None:
        yield pending
