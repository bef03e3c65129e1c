"""The compressed form of a core: zstd in the seekable format, read at any place.

    frame, frame, ...   each holds FRAME_BYTES of the core, the last one what is left
    skippable frame     the seek table: sizes and checksum of each frame, and a footer

A plain zstd decompressor makes the core of it again, and skips the table.

Source: zstd, contrib/seekable_format/zstd_seekable_compression_format.md, version 0.1.0;
RFC 8878, 3.1.2, for skippable frames. docs/formats/core.md, section 5, is normative.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from tagalong.binary.layout import Layout
from tagalong.core.source import SKIPPABLE_MAGIC, FileSource, allocate
from tagalong.errors import MalformedCoreError

FRAME_BYTES = 1 << 20
"""What each frame of a compressed core that is written here holds, uncompressed."""

MAX_FRAME_BYTES = 64 << 20
"""The largest frame that is read: what one access costs in memory."""

SEEKABLE_MAGIC = 0x8F92_EAB1
HAS_CHECKSUMS = 0x80
_RESERVED_BITS = 0x7C

SKIPPABLE_HEADER = Layout(("magic", "u32"), ("frame_bytes", "u32"))
SEEK_ENTRY = Layout(("compressed_bytes", "u32"), ("core_bytes", "u32"), ("checksum", "u32"))
SEEK_FOOTER = Layout(("frame_count", "u32"), ("descriptor", "u8"), ("magic", "u32"))

_ENTRY = np.dtype([("compressed", "<u4"), ("core", "<u4"), ("checksum", "<u4")])
_ENTRY_BARE = np.dtype([("compressed", "<u4"), ("core", "<u4")])

_CACHED_BYTES = 8 << 20


@dataclass(frozen=True)
class Frame:
    """One frame: where it is in the file, which bytes of the core it holds.

    `checksum`: the lower half of their XXH64, None if the file has none.
    """

    at: int
    compressed_bytes: int
    core_at: int
    core_bytes: int
    checksum: int | None


def frame_checksum(content: NDArray[np.uint8]) -> int:
    """Return the checksum that the seek table has for a frame's content."""
    return int(xxhash.xxh64_intdigest(content.data)) & 0xFFFF_FFFF


class SeekTable:
    """The frames of a compressed core, by number; 28 bytes of memory for each.

    `entries`: compressed and core size of each, and a checksum if there are any.
    """

    def __init__(self, entries: NDArray[np.void]) -> None:
        self._entries = entries
        self._stops = np.cumsum(entries["compressed"], dtype=np.uint64)
        self._core_stops = np.cumsum(entries["core"], dtype=np.uint64)

    def __len__(self) -> int:
        return self._entries.size

    @property
    def compressed_bytes(self) -> int:
        """Return the size of all frames in the file."""
        return int(self._stops[-1]) if len(self) else 0

    @property
    def core_bytes(self) -> int:
        """Return the size of the core."""
        return int(self._core_stops[-1]) if len(self) else 0

    def number_at(self, offset: int) -> int:
        """Return the number of the frame with this byte of the core."""
        return int(np.searchsorted(self._core_stops, np.uint64(offset), "right"))

    def frame(self, number: int) -> Frame:
        """Return one frame."""
        entry = self._entries[number]
        compressed, core = int(entry["compressed"]), int(entry["core"])
        return Frame(
            at=int(self._stops[number]) - compressed,
            compressed_bytes=compressed,
            core_at=int(self._core_stops[number]) - core,
            core_bytes=core,
            checksum=int(entry["checksum"]) if "checksum" in (entry.dtype.names or ()) else None,
        )


def read_seek_table(file: FileSource) -> SeekTable:
    """Return the frames of a compressed core.

    Raises MalformedCoreError if the file does not end in a seek table, or if what the table
    says cannot be: sizes that do not add up to the file's, a frame above MAX_FRAME_BYTES.
    """
    at = file.size - SEEK_FOOTER.size
    footer = SEEK_FOOTER.unpack(file.view(at, SEEK_FOOTER.size).tobytes()) if at > 0 else None
    if footer is None or footer["magic"] != SEEKABLE_MAGIC:
        raise malformed(
            "the file is zstd but does not end in a seek table: it was cut short, or is not in "
            "the seekable format (`zstd -d` makes a plain core of it)",
            file.size,
        )
    if footer["descriptor"] & _RESERVED_BITS:
        raise malformed(
            f"the seek table's descriptor {footer['descriptor']:#x} has reserved bits set",
            at + SEEK_FOOTER.offsets["descriptor"],
        )
    return _table(file, footer, at)


def _table(file: FileSource, footer: dict[str, int], footer_at: int) -> SeekTable:
    kind = _ENTRY if footer["descriptor"] & HAS_CHECKSUMS else _ENTRY_BARE
    table_bytes = footer["frame_count"] * kind.itemsize
    table_at = footer_at - table_bytes
    head_at = table_at - SKIPPABLE_HEADER.size
    if head_at < 0:
        raise malformed(
            f"a seek table of {footer['frame_count']:#x} frames is longer than the file",
            footer_at,
        )
    head = SKIPPABLE_HEADER.unpack(file.view(head_at, SKIPPABLE_HEADER.size).tobytes())
    expected = table_bytes + SEEK_FOOTER.size
    if head["magic"] != SKIPPABLE_MAGIC or head["frame_bytes"] != expected:
        raise malformed(
            f"a skippable frame of {expected:#x} bytes with the seek table must start here", head_at
        )
    entries = file.view(table_at, table_bytes).view(kind)
    too_large = np.flatnonzero(entries["core"] > MAX_FRAME_BYTES)
    if too_large.size:
        number = int(too_large[0])
        raise malformed(
            f"frame {number:#x} holds {int(entries['core'][number]):#x} bytes: "
            f"{MAX_FRAME_BYTES:#x} are possible",
            table_at + number * kind.itemsize,
        )
    table = SeekTable(entries)
    if table.compressed_bytes != head_at:
        raise malformed(
            f"the frames take {table.compressed_bytes:#x} bytes by the seek table, but it starts "
            f"at {head_at:#x}",
            head_at,
        )
    return table


def malformed(message: str, offset: int) -> MalformedCoreError:
    """Return the error about a byte of the compressed file, not of the core in it."""
    return MalformedCoreError(message, offset=offset, what="compressed core")


class SeekableSource:
    """A compressed core: arrays are copies, decompressed frame by frame when asked for.

    Takes over `file`. Raises as `read_seek_table`; reading raises MalformedCoreError for a
    frame that does not decompress to what the seek table says. Caches up to 8 MiB of frames.
    """

    def __init__(self, file: FileSource) -> None:
        self._file = file
        self._table = read_seek_table(file)
        self.size = self._table.core_bytes
        self._recent: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._recent_bytes = 0

    @property
    def fd(self) -> None:
        """Return None: no file has the core's own offsets."""
        return None

    def raw(self, offset: int, length: int) -> memoryview:
        """Return bytes of the core as a copy. Raises as `view`."""
        return self.view(offset, length).data

    def view(self, offset: int, length: int) -> NDArray[np.uint8]:
        """Return bytes of the core as a copy. Raises HostError if the host lacks memory."""
        content = allocate(length)
        done = 0
        while done < length:
            # Asked anew each time: between two frames there can be a million empty ones.
            number = self._table.number_at(offset + done)
            frame = self._table.frame(number)
            inside = offset + done - frame.core_at
            piece = self._content(number)[inside : inside + length - done]
            content[done : done + piece.size] = piece
            done += piece.size
        content.flags.writeable = False
        return content

    def frames(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield the core from its start to its end: an offset, and the bytes from there on."""
        for number in range(len(self._table)):
            frame = self._table.frame(number)
            yield frame.core_at, _decompress(self._file, frame)

    def _content(self, number: int) -> NDArray[np.uint8]:
        content = self._recent.pop(number, None)
        if content is None:
            content = _decompress(self._file, self._table.frame(number))
            self._recent_bytes += content.size
        self._recent[number] = content
        while self._recent_bytes > _CACHED_BYTES and len(self._recent) > 1:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= oldest.size
        return content

    def close(self) -> None:
        """Close the file."""
        self._recent.clear()
        self._file.close()


def _decompress(file: FileSource, frame: Frame) -> NDArray[np.uint8]:
    raw = file.view(frame.at, frame.compressed_bytes)
    try:
        # A frame can claim any size; nothing is allocated for one that does not fit the table.
        if zstandard.frame_content_size(raw.data) not in (-1, frame.core_bytes):
            raise malformed("the frame's size is not the one in the seek table", frame.at)
        content = zstandard.ZstdDecompressor(max_window_size=MAX_FRAME_BYTES).decompress(
            raw.data, max_output_size=frame.core_bytes
        )
    except zstandard.ZstdError as error:
        raise malformed(f"the frame does not decompress: {error}", frame.at) from error
    if len(content) != frame.core_bytes:
        raise malformed(
            f"the frame holds {len(content):#x} bytes, {frame.core_bytes:#x} by the seek table",
            frame.at,
        )
    array = np.frombuffer(content, np.uint8)
    if frame.checksum is not None and frame_checksum(array) != frame.checksum:
        raise malformed("the frame's checksum is wrong: it was damaged", frame.at)
    return array
