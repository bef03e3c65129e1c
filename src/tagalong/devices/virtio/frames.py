"""Ethernet frames in rows, many at a time: between a card's queues and the link behind it.

A row is bytes: be32 length and frame, each, as QEMU's stream sockets have them. Nothing is done
once per frame in Python; native/virtio/frames.c does it.
"""

import ctypes
import os
from typing import Final

from tagalong._native import library
from tagalong.devices.virtio.chain import RequestBatch
from tagalong.devices.virtio.ram import RingError, address_of

MAX_FRAME_BYTES: Final = 65535
LENGTH_BYTES: Final = 4
ROW_BYTES: Final = 1 << 18
"""How long a row may be; any frame fits."""


def whole_bytes(data: bytearray | memoryview, size_bytes: int) -> tuple[int, int | None]:
    """Return how many of the first bytes of `data` are whole frames.

    And the length of what follows if no frame has it, else None.
    """
    wrong = ctypes.c_int64()
    whole = library().ta_frames_whole(address_of(data), size_bytes, ctypes.byref(wrong))
    return whole, None if wrong.value < 0 else wrong.value


def length_of_first(row: memoryview) -> int:
    """Return how many bytes the first frame of a row takes up in it."""
    return LENGTH_BYTES + int.from_bytes(row[:LENGTH_BYTES], "big")


def gather(batch: RequestBatch, first: int, row: bytearray) -> tuple[int, int]:
    """Copy frames to send into `row`, from request number `first` on.

    Return of how many requests, and the bytes of the row. Raises RingError if the first is none.
    """
    size = ctypes.c_size_t()
    chain_bytes = ctypes.sizeof(batch.chains._type_)
    count = library().ta_frames_gather(
        ctypes.addressof(batch.chains) + first * chain_bytes,
        batch.count - first,
        batch.buffers,
        address_of(row),
        len(row),
        ctypes.byref(size),
    )
    if count < 0:
        raise RingError(
            f"frame {batch.chains[first].head} to send has no header, or a buffer that can be "
            "written"
        )
    return count, size.value


def scatter(batch: RequestBatch, row: memoryview, *, is_merged: bool) -> tuple[int, int]:
    """Store frames of a row to the writable buffers of a batch, each behind its header.

    `is_merged`: a frame takes as many requests as it needs. One that is too large is dropped.
    Return how many requests were used, and the bytes of the row. Raises RingError.
    """
    consumed = ctypes.c_size_t()
    arguments = (address_of(row), len(row), batch.chains, batch.count, batch.buffers, is_merged)
    # It counts first: only what will be stored to is marked in the dirty log.
    used = library().ta_frames_scatter(*arguments, None, ctypes.byref(consumed))
    if used < 0:
        raise RingError(f"buffer {batch.chains[0].head} has no room for the header of a frame")
    if used:
        last = batch.chains[used - 1]
        buffer_count = last.first + last.readable + last.writable
        with batch.ram.storing(ctypes.addressof(batch.buffers), buffer_count):
            library().ta_frames_scatter(*arguments, batch.written, ctypes.byref(consumed))
    return used, consumed.value


def read_tap(descriptor: int, row: bytearray) -> int:
    """Read what frames a tap device has; return the bytes of the row. Raises OSError."""
    size = ctypes.c_size_t()
    result = library().ta_frames_read_tap(descriptor, address_of(row), len(row), ctypes.byref(size))
    _raise(result)
    return size.value


def write_tap(descriptor: int, row: bytearray | memoryview) -> int:
    """Write a row to a tap device; return how many frames it did not take. Raises OSError."""
    dropped = ctypes.c_size_t()
    result = library().ta_frames_write_tap(
        descriptor, address_of(row), len(row), ctypes.byref(dropped)
    )
    _raise(result)
    return dropped.value


def row_of(*frames: bytes) -> bytearray:
    """Return a row of these frames."""
    return bytearray(b"".join(len(frame).to_bytes(LENGTH_BYTES, "big") + frame for frame in frames))


def _raise(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
