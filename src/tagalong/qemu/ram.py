"""The "ram" section of a stream: which blocks there are, and where in the file each page is.

A page is found by one pass over the stream, which holds one number per page and no data. A page
that comes again replaces what came before. In a mapped-ram file pages have fixed places, and a
bitmap says which are there. Source: QEMU migration/ram.c (ram_save_setup, ram_load_precopy,
mapped_ram_read_header), docs/devel/migration/mapped-ram.rst.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import CoreError, HostError
from tagalong.memory.zeros import sparse_zeros
from tagalong.qemu.cursor import Cursor

RAM_VERSION: Final = 4

_MAX_BLOCKS: Final = 4096
_MAX_RAM_BYTES: Final = 1 << 40
_MAPPED_VERSION: Final = 1
_MAPPED_BITMAP_WORD_PAGES: Final = 64

_ZERO: Final = 0x02
_SIZES: Final = 0x04
_PAGE: Final = 0x08
_EOS: Final = 0x10
_CONTINUE: Final = 0x20
_MULTIFD_FLUSH: Final = 0x200
_REFUSED: Final = {
    0x40: ("xbzrle", "pages are sent as differences"),
    0x80: ("RDMA", "pages are not in the stream"),
    0x100: ("compress", "pages are compressed"),
}

# Of a place: the page is filled with the byte in the lowest bits. 0: it is zero.
_FILLED: Final = 1 << 63
_HEAD_BYTES: Final = 8
_LARGEST_BATCH: Final = 8192


@dataclass(frozen=True)
class RamBlock:
    """One of QEMU's blocks of RAM: `places` has a number per page that says where its data are.

    The offset in the file; 0 for a page that is zero or was never sent.
    """

    name: str
    size_bytes: int
    page_size_bytes: int
    places: NDArray[np.uint64] = field(repr=False)

    def read(
        self, windows: NDArray[np.uint8], pages: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> None:
        """Fill `out`, shape (pages, page size), with pages by number.

        `windows`: shape (offsets, page size), the bytes of the file from each offset on.
        """
        places = self.places[pages]
        is_there = (places != 0) & (places < _FILLED)
        out[is_there] = windows[places[is_there].astype(np.int64)]
        out[~is_there] = (places[~is_there] & np.uint64(0xFF)).astype(np.uint8)[:, None]

    def used_pages(self) -> NDArray[np.int64]:
        """Return the numbers of the pages that may be other than zero, in order."""
        return np.flatnonzero(self.places)


class RamSection:
    """Reads the parts of the "ram" section; `blocks` has what was found, by name.

    `is_mapped`: the file is a mapped-ram file.
    """

    def __init__(self, cursor: Cursor, page_size_bytes: int, *, is_mapped: bool) -> None:
        self.blocks: dict[str, RamBlock] = {}
        self._cursor = cursor
        self._page = page_size_bytes
        self._is_mapped = is_mapped
        self._block: RamBlock | None = None

    def read_setup(self) -> None:
        """Read the list of blocks. Raises MalformedCoreError, CoreError by name."""
        cursor, start = self._cursor, self._cursor.at
        head = cursor.number(_HEAD_BYTES)
        if head % self._page != _SIZES:
            cursor.fail(f"RAM begins with {head:#x}, not with its total size", at=start)
        total = head - _SIZES
        if total > _MAX_RAM_BYTES:
            cursor.fail(f"{total:#x} bytes of RAM: {_MAX_RAM_BYTES:#x} are possible", at=start)
        while total:
            total -= self._read_block(total)
        self.read_pages()

    def _read_block(self, most: int) -> int:
        """Read the entry of a block of at most `most` bytes; return its size."""
        cursor, start = self._cursor, self._cursor.at
        name, size = cursor.name("a block of RAM"), cursor.number(8)
        if not 0 < size <= most or size % self._page:
            cursor.fail(f"block {name} of {size:#x} bytes, {most:#x} are left of all RAM", at=start)
        if name in self.blocks or len(self.blocks) == _MAX_BLOCKS:
            cursor.fail(f"block {name} comes twice, or is one too many", at=start)
        block = RamBlock(name, size, self._page, _no_places(size // self._page))
        if self._is_mapped:
            self._read_mapped(block)
        self.blocks[name] = block
        return size

    def _read_mapped(self, block: RamBlock) -> None:
        """Find the pages of a block in a mapped-ram file, and go past them."""
        cursor, start = self._cursor, self._cursor.at
        version, page = cursor.number(4), cursor.number(8)
        bitmap_at, pages_at = cursor.number(8), cursor.number(8)
        if (version, page) != (_MAPPED_VERSION, self._page):
            cursor.fail(
                f"block {block.name}: mapped-ram of version {version:#x} with pages of {page:#x} "
                f"bytes; {_MAPPED_VERSION:#x} and {self._page:#x} are read",
                at=start,
            )
        count = block.places.size
        cursor.seek(bitmap_at, f"the bitmap of block {block.name}")
        words = -(-count // _MAPPED_BITMAP_WORD_PAGES)
        bits = np.unpackbits(cursor.view(words * 8), bitorder="little")[:count]
        cursor.seek(pages_at, f"the pages of block {block.name}")
        cursor.seek(pages_at + block.size_bytes, f"what follows block {block.name}")
        there = np.flatnonzero(bits)
        block.places[there] = (pages_at + there * self._page).astype(np.uint64)

    def read_pages(self) -> None:
        """Read pages up to the end of this part. Raises MalformedCoreError, CoreError by name."""
        cursor = self._cursor
        while True:
            start = cursor.at
            head = cursor.number(_HEAD_BYTES)
            flags, offset = head % self._page, head - head % self._page
            self._refuse(flags, start)
            if flags == _EOS:
                return
            if flags == _MULTIFD_FLUSH and self._is_mapped:
                continue
            if flags & ~_CONTINUE not in (_ZERO, _PAGE) or self._is_mapped:
                cursor.fail(f"a page with the flags {flags:#x}, which are not known", at=start)
            self._read_page(flags, offset, start)

    def _refuse(self, flags: int, start: int) -> None:
        if flags & _MULTIFD_FLUSH and not self._is_mapped:
            raise CoreError(
                f"this stream was sent by multifd (offset {start:#x}): its pages went over further "
                "connections; save the guest with multifd off, or with mapped-ram on"
            )
        for flag, (name, what) in _REFUSED.items():
            if flags & flag:
                raise CoreError(
                    f"this stream was sent with {name} (offset {start:#x}): {what}; save the guest "
                    f"again with {name} off"
                )

    def _read_page(self, flags: int, offset: int, start: int) -> None:
        cursor = self._cursor
        if not flags & _CONTINUE:
            name = cursor.name("the block of a page")
            self._block = self.blocks.get(name)
            if self._block is None:
                cursor.fail(f"a page of block {name}, which is not in the list", at=start)
        if self._block is None:
            cursor.fail("a page of the block before it, and there is none", at=start)
        if offset >= self._block.size_bytes:
            cursor.fail(
                f"a page at {offset:#x} of block {self._block.name}, which has "
                f"{self._block.size_bytes:#x} bytes",
                at=start,
            )
        if flags & _ZERO:
            fill = cursor.number(1)
            place = _FILLED | fill if fill else 0
        else:
            place = cursor.at
            cursor.view(self._page)
        self._block.places[offset // self._page] = place
        self._read_more(flags | _CONTINUE, 1 if flags & _ZERO else self._page, self._block)

    def _read_more(self, flags: int, body_bytes: int, block: RamBlock) -> None:
        """Read as many pages of one kind as follow each other: arrays of equal records."""
        cursor, batch, stride = self._cursor, 16, _HEAD_BYTES + body_bytes
        while (count := min(batch, cursor.left // stride)) > 0:
            records = cursor.source.view(cursor.at, count * stride).reshape(count, stride)
            heads = records[:, :_HEAD_BYTES].copy().view(">u8").ravel().astype(np.uint64)
            offsets = heads & ~np.uint64(self._page - 1)
            fits = ((heads & np.uint64(self._page - 1)) == flags) & (offsets < block.size_bytes)
            if body_bytes == 1:
                fits &= records[:, _HEAD_BYTES] == 0
            ends = np.flatnonzero(~fits)
            alike = int(ends[0]) if ends.size else count
            places = cursor.at + _HEAD_BYTES + np.arange(alike) * stride
            if body_bytes == 1:
                places[:] = 0
            pages = (offsets[:alike] // np.uint64(self._page)).astype(np.int64)
            # Of pages that come twice the last one stays, as numpy assigns in order.
            block.places[pages] = places.astype(np.uint64)
            cursor.at += alike * stride
            if alike < count:
                return
            batch = min(2 * batch, _LARGEST_BATCH)


def _no_places(count: int) -> NDArray[np.uint64]:
    try:
        return sparse_zeros(count, np.uint64)
    except (OSError, MemoryError) as error:
        raise HostError(
            f"the host has no memory for a table of {count:#x} pages of the guest's RAM"
        ) from error


class RamReader:
    """Reads blocks of a file that has been passed once."""

    def __init__(self, content: NDArray[np.uint8], page_size_bytes: int) -> None:
        self._content = content
        self._page = page_size_bytes

    @cached_property
    def _windows(self) -> NDArray[np.uint8]:
        return np.lib.stride_tricks.sliding_window_view(self._content, self._page)

    def pages(self, block: RamBlock, pages: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the data of pages by number, shape (pages * page size,), as a copy."""
        out = np.empty((pages.size, self._page), np.uint8)
        block.read(self._windows, pages, out)
        return out.ravel()

    def bytes(self, block: RamBlock, offset: int, size: int) -> NDArray[np.uint8]:
        """Return bytes [offset, offset + size) of a block, as a copy."""
        first, stop = offset // self._page, -(-(offset + size) // self._page)
        skipped = offset - first * self._page
        return self.pages(block, np.arange(first, stop))[skipped : skipped + size]
