"""Writing a plane of a core so that what is zero is a hole of the file.

A hole costs no disk and no time, reads as zero and stays a hole when the file is mapped. A
guest of 64 GiB that has used 1 GiB makes a file of 64 GiB that takes 1 GiB.

Holes come in blocks. So a write is cut at block borders: a head and a tail inside one block
each, and whole blocks between them. Whole blocks are sorted into zero and not zero in one
pass, and each run of the one or the other is one system call. A head or a tail is written as
it is; if that leaves its block all zero, the block becomes a hole.

A live snapshot writes a page again when the guest has changed it, so zero must replace what
was written before: it punches a hole. To know when that is needed without a system call, an
extent remembers one number: the end of what was ever written. Behind it everything is a hole
already, and the first copy of a mostly empty guest never punches. Inside it a hole is punched
whether or not one is there: that is cheaper than a question to the kernel.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tagalong._native import library
from tagalong.errors import HostError
from tagalong.memory.bitmap import flag_runs
from tagalong.memory.extents import file_extents
from tagalong.mte.tags import zero_rows
from tagalong.write_behind import WriteBehind

BLOCK_BYTES = 4096
"""The unit of holes in Linux's file systems; a few have larger ones only."""

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_CANNOT_PUNCH = (errno.EOPNOTSUPP, errno.ENOSYS)
_CANNOT_CLONE = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)

# Parts that are smaller on average are written at once, by native code.
_BEHIND_BYTES = 64 << 10

# Two of them (this and what it is compared with) stay in a CPU's cache.
_COPY_BYTES = 256 << 10


class SparseExtent:
    """One plane's range [start, start + size) of a file that is all holes at first.

    `start` is a multiple of BLOCK_BYTES. Offsets count from the extent's start. `behind`: what
    writes large parts to the file; what was written is there once it was flushed. Used by one
    thread at a time. Everything raises HostError if the file cannot be written; the extent
    then holds part of what was to be written.
    """

    def __init__(
        self, fd: int, path: Path, start: int, size_bytes: int, behind: WriteBehind
    ) -> None:
        self._fd = fd
        self._behind = behind
        self._path = path
        self._start = start
        self.size_bytes = size_bytes
        # Nothing was ever written from here on: a file that is written in order needs no
        # system call for what is zero.
        self._untouched = 0

    def write(self, offset: int, content: NDArray[np.uint8]) -> None:
        """Write `content`, shape (n,); blocks of it that are zero become or stay holes."""
        stop = offset + content.size
        first = min(-(-offset // BLOCK_BYTES) * BLOCK_BYTES, stop)
        last = max(stop // BLOCK_BYTES * BLOCK_BYTES, first)
        self._write_part(offset, content[: first - offset])
        self._write_blocks(first, content[first - offset : last - offset])
        self._write_part(last, content[last - offset :])

    def _write_blocks(self, first: int, whole: NDArray[np.uint8]) -> None:
        """Write whole blocks from byte `first` on."""
        is_zero = zero_rows(whole, BLOCK_BYTES)
        if first < self._untouched:
            for start, stop in flag_runs(is_zero):
                self.clear(first + start * BLOCK_BYTES, (stop - start) * BLOCK_BYTES)
        used = np.array(flag_runs(~is_zero), np.int64).reshape(-1, 2) * BLOCK_BYTES
        starts, sizes = used[:, 0], used[:, 1] - used[:, 0]
        self._write_parts(np.stack((first + starts, sizes, starts), axis=1), whole)

    def _write_parts(self, writes: NDArray[np.int64], content: NDArray[np.uint8]) -> None:
        """Write parts of `content`: rows of offset, size and where in `content` it begins."""
        if not len(writes):
            return
        source = np.ascontiguousarray(content)
        self._touch(int((writes[:, 0] + writes[:, 1]).max()))
        try:
            if writes[:, 1].sum() < len(writes) * _BEHIND_BYTES:
                self._write_now(writes + np.array([self._start, 0, 0]), source)
            else:
                # What its owner may write to may change before the next call.
                is_fixed = not content.flags.writeable
                write = self._behind.write_in_place if is_fixed else self._behind.write
                for offset, size, at in writes.tolist():
                    write(self._start + offset, source[at : at + size])
        except OSError as error:
            raise self._failure("write", error) from error

    def _write_now(self, writes: NDArray[np.int64], source: NDArray[np.uint8]) -> None:
        """Write parts, of which each is too small to be worth a buffer. Raises OSError."""
        self._behind.settle(int(writes[0, 0]), int((writes[:, 0] + writes[:, 1]).max()))
        done = ctypes.c_uint64()
        error = library().ta_write_ranges(
            self._fd, writes.ctypes.data, len(writes), source.ctypes.data, ctypes.byref(done)
        )
        if error:
            raise OSError(-error, os.strerror(-error))

    def write_scattered(self, ranges: NDArray[np.int64], content: NDArray[np.uint8]) -> None:
        """Write `content` in parts: to each [start, stop) of `ranges` the next of it.

        `ranges`: shape (ranges, 2), in order; starts and stops are multiples of BLOCK_BYTES.
        As `write` for each, and faster for many short ones.
        """
        if zero_rows(content, BLOCK_BYTES).any():
            at = 0
            for start, stop in ranges.tolist():
                self.write(start, content[at : at + stop - start])
                at += stop - start
            return
        sizes = ranges[:, 1] - ranges[:, 0]
        writes = np.stack((ranges[:, 0], sizes, np.cumsum(sizes) - sizes), axis=1)
        self._write_parts(writes, content)

    def _write_part(self, offset: int, content: NDArray[np.uint8]) -> None:
        """Write what lies inside one block."""
        if not content.size:
            return
        if content.any():
            self._write_all(offset, content)
        else:
            self.clear(offset, content.size)
            self._free_if_zero(offset // BLOCK_BYTES * BLOCK_BYTES)

    def _free_if_zero(self, block: int) -> None:
        """Make a block a hole if what is left in it is zero."""
        if block >= self._untouched:
            return
        try:
            self._settle(block, BLOCK_BYTES)
            content = os.pread(self._fd, BLOCK_BYTES, self._start + block)
        except OSError as error:
            raise self._failure("read", error) from error
        # What follows the plane in its last block is padding: zero as well.
        if content.count(0) == len(content):
            self.clear(block, BLOCK_BYTES)

    def copy(self, offset: int, source_fd: int, source_offset: int, length: int) -> None:
        """Copy from another file; its holes become holes.

        So do blocks that are zero, unless the kernel copies by itself (within one file
        system, where it can share instead). Raises HostError if the source ends too early.
        """
        stop = source_offset + length
        _require_size(source_fd, stop)
        at = source_offset
        for start, end in file_extents(source_fd, source_offset, stop, "the source"):
            self.clear(offset + at - source_offset, start - at)
            self._copy_extent(offset + start - source_offset, source_fd, start, end)
            at = end
        self.clear(offset + at - source_offset, stop - at)

    def _copy_extent(self, offset: int, source_fd: int, start: int, stop: int) -> None:
        if _same_file_system(source_fd, self._fd):
            moved = self._copy_in_kernel(offset, source_fd, start, stop)
            offset, start = offset + moved, start + moved
        buffer = np.empty(min(_COPY_BYTES, stop - start), np.uint8)
        while start < stop:
            # Pieces end at blocks of the target, so that none is looked at in two parts.
            piece = buffer[: min(stop - start, _COPY_BYTES - offset % BLOCK_BYTES)]
            got = read_some(source_fd, piece, start)
            self.write(offset, piece[:got])
            offset, start = offset + got, start + got

    def _copy_in_kernel(self, offset: int, source_fd: int, start: int, stop: int) -> int:
        """Return how many bytes the kernel copied: fewer than all where it cannot."""
        try:
            self._settle(offset, stop - start)
        except OSError as error:
            raise self._failure("write", error) from error
        done = 0
        while start + done < stop:
            try:
                moved = os.copy_file_range(
                    source_fd, self._fd, stop - start - done, start + done,
                    self._start + offset + done,
                )  # fmt: skip
            except OSError as error:
                if error.errno in _CANNOT_CLONE:
                    break
                raise self._failure("write", error) from error
            if not moved:
                break
            done += moved
            self._touch(offset + done)
        return done

    def clear(self, offset: int, length: int) -> None:
        """Make a range zero, and holes of the blocks that lie in it as a whole."""
        length = min(length, self._untouched - offset)
        if length <= 0:
            return
        try:
            self._settle(offset, length)
            _punch(self._fd, self._start + offset, length)
        except OSError as error:
            if error.errno not in _CANNOT_PUNCH:
                raise self._failure("write", error) from error
            for done in range(0, length, _COPY_BYTES):
                size = min(_COPY_BYTES, length - done)
                self._write_all(offset + done, np.zeros(size, np.uint8))

    def _write_all(self, offset: int, content: NDArray[np.uint8]) -> None:
        self._write_parts(np.array([[offset, content.size, 0]]), content)

    def flush(self) -> None:
        """Wait until all that was written, also to other extents of the file, is in it."""
        try:
            self._behind.flush()
        except OSError as error:
            raise self._failure("write", error) from error

    def _settle(self, offset: int, length: int) -> None:
        self._behind.settle(self._start + offset, self._start + offset + length)

    def _touch(self, stop: int) -> None:
        self._untouched = max(self._untouched, -(-stop // BLOCK_BYTES) * BLOCK_BYTES)

    def _failure(self, verb: str, error: OSError) -> HostError:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; make room on its disk, or give a file on another" if is_full else ""
        return HostError(f"cannot {verb} {self._path}: {error.strerror}{advice}")


def read_some(fd: int, target: NDArray[np.uint8], offset: int) -> int:
    """Read at least one byte into `target`, return how many. Raises HostError, at the end too."""
    try:
        got = os.preadv(fd, [target.data], offset)
    except OSError as error:
        raise HostError(f"preadv of the source at {offset:#x} failed: {error}") from error
    if not got:
        raise HostError(f"the source ends at {offset:#x}: it was cut short while it was copied")
    return got


def _require_size(fd: int, stop: int) -> None:
    try:
        size = os.fstat(fd).st_size
    except OSError as error:
        raise HostError(f"fstat of the source failed: {error}") from error
    if size < stop:
        raise HostError(f"the source ends at {size:#x}, {stop:#x} bytes of it were to be copied")


def _same_file_system(source_fd: int, target_fd: int) -> bool:
    return os.fstat(source_fd).st_dev == os.fstat(target_fd).st_dev


@cache
def _fallocate() -> Callable[[int, int, int, int], int]:
    """Return fallocate(2), which the os module does not offer."""
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return cast("Callable[[int, int, int, int], int]", function)


def _punch(fd: int, offset: int, length: int) -> None:
    """Turn a range of a file into a hole. Raises OSError."""
    if _fallocate()(fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
