"""Moves the data of a batch between guest RAM and a channel, without a copy in between.

The native library sends from the pages themselves and receives into them, wherever they are, and
hashes them on the way (native/page_stream.c), through TLS too (native/tls.c). Where a channel has
no path for native code, the data go through it like everything else.
"""

import ctypes
import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from tagalong._native import PageStream, library
from tagalong.errors import HostError
from tagalong.memory import Region
from tagalong.migrate.transport.channel import Channel, NativePath, PageChannel
from tagalong.wire.integrity import page_digests

_LOOK_UP_MS = 100
STAGE_BYTES = 256 << 10
"""The size of the buffer that pages of a running guest pass through: it fits into a cache."""


class PeerClosedError(HostError):
    """The peer has closed its stream in the middle of a batch."""


@dataclass(frozen=True)
class Segments(Sequence[memoryview]):
    """Pieces of memory: shape (pieces, 2), uint64, address and bytes, whole pages each.

    `owner` keeps what the addresses point into alive. As a sequence they are writable views of
    the pieces, valid as long as the segments are.
    """

    array: NDArray[np.uint64]
    page_bytes: int
    owner: object

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> memoryview: ...
    @overload
    def __getitem__(self, place: slice) -> "Segments": ...
    def __getitem__(self, place: int | slice) -> "memoryview | Segments":
        if isinstance(place, slice):
            return Segments(self.array[place], self.page_bytes, self.owner)
        address, size_bytes = self.array[place].tolist()
        return memoryview((ctypes.c_ubyte * size_bytes).from_address(address)).cast("B")

    @property
    def total_bytes(self) -> int:
        """Return the bytes of all pieces."""
        return int(self.array[:, 1].sum())


def segments_of(region: Region, ranges: NDArray[np.int64]) -> Segments:
    """Return where the data of pages lie; `ranges`: first page and number of pages each."""
    array = ranges * region.page_size_bytes
    array[:, 0] += region.data.ctypes.data
    return Segments(array.view(np.uint64), region.page_size_bytes, region.data)


def send_pages(
    channel: Channel, segments: Segments, stage: NDArray[np.uint8] | None, deadline: float
) -> NDArray[np.uint64]:
    """Send all pieces over `channel` and return the pages' digests.

    `stage`: memory of whole pages that the data are copied to first, if the guest may write to
    them meanwhile; what is sent is then what was hashed. Raises as `Channel.send`.
    """
    channel.is_mid_record = True
    if isinstance(channel, PageChannel):
        return _move_by(channel, segments)  # it copies them in any case
    return _sending(channel, deadline).move_pages(segments, stage)


def receive_pages(channel: Channel, segments: Segments, deadline: float) -> NDArray[np.uint64]:
    """Fill all pieces from `channel` and return the pages' digests.

    Raises as `Channel.receive_into`, PeerClosedError if the peer closes before the end.
    """
    if isinstance(channel, PageChannel):
        return _move_by(channel, segments)
    return _receiving(channel, deadline).move_pages(segments, None)


def receive_bytes(channel: Channel, target: memoryview, deadline: float) -> None:
    """Fill `target`, which is not empty, with bytes other than pages.

    Raises as `receive_pages`.
    """
    memory = np.frombuffer(target, np.uint8)
    array = np.array([[memory.ctypes.data, memory.size]], np.uint64)
    mover = _receiving(channel, deadline)
    mover.run(mover.stream(Segments(array, page_bytes=1, owner=memory)))


def _move_by(channel: PageChannel, segments: Segments) -> NDArray[np.uint64]:
    page = segments.page_bytes

    def digest(
        pages: NDArray[np.uint8], copy: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint64]:
        if copy is None:
            return page_digests((pages.data,), page)
        digests = np.empty(pages.size // page, np.uint64)
        library().ta_copy_and_hash(
            copy.ctypes.data, pages.ctypes.data, digests.size, page, digests.ctypes.data
        )
        return digests

    try:
        digests = channel.move_pages(segments, page, digest)
    except EOFError:
        raise _cut_off(channel) from None
    return np.concatenate(digests)


def _sending(channel: Channel, deadline: float) -> "_NativeMover":
    assert channel.outgoing_path is not None  # noqa: S101 (Link.streams_pages)
    return _NativeMover(library().ta_send_pages, channel, channel.outgoing_path, deadline)


def _receiving(channel: Channel, deadline: float) -> "_NativeMover":
    assert channel.incoming_path is not None  # noqa: S101 (asked by Link)
    return _NativeMover(library().ta_receive_pages, channel, channel.incoming_path, deadline)


@dataclass(frozen=True)
class _NativeMover:
    """One direction of a channel, by the native `function`, until `deadline`."""

    function: Callable[..., int]
    channel: Channel
    path: NativePath
    deadline: float

    def move_pages(self, segments: Segments, stage: NDArray[np.uint8] | None) -> NDArray[np.uint64]:
        digests = np.empty(segments.total_bytes // segments.page_bytes, np.uint64)
        stream = self.stream(segments)
        stream.digests = digests.ctypes.data
        if stage is not None:
            stream.stage, stream.stage_bytes = stage.ctypes.data, stage.size
        self.run(stream)
        return digests

    def stream(self, segments: Segments) -> PageStream:
        return PageStream(
            fd=self.path.descriptor,
            page_bytes=segments.page_bytes,
            tls=self.path.tls or None,
            segments=segments.array.ctypes.data,
            segment_count=len(segments.array),
            total_bytes=segments.total_bytes,
            follows_packets=self.channel.follows_packets,
        )

    def run(self, stream: PageStream) -> None:
        total_bytes, channel = stream.total_bytes, self.channel
        began = moved_at = time.monotonic()
        moved = 0
        while (result := self._step(stream)) == 0:
            channel.interrupt()
            now = time.monotonic()
            if stream.moved.total > moved:
                moved, moved_at = stream.moved.total, now
            if now >= self.deadline or now - moved_at >= channel.idle_s:
                raise HostError(
                    f"{channel.name}: {moved:#x} of {total_bytes:#x} bytes of a batch moved in "
                    f"{now - began:.1f} s, none in the last {now - moved_at:.1f} s: is the peer "
                    "overloaded, or the network broken?"
                )
        if result == -errno.ENODATA:
            raise _cut_off(channel)
        if result < 0:
            raise channel.native_error(-result)

    def _step(self, stream: PageStream) -> int:
        with self.path.lock:
            return self.function(ctypes.byref(stream), _LOOK_UP_MS)


def _cut_off(channel: Channel) -> PeerClosedError:
    return PeerClosedError(f"{channel.name}: the peer closed the connection inside of a batch")
