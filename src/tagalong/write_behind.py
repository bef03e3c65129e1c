"""Writes large files while their content is still being made.

What is written goes through buffers of 2 MiB, which other threads bring to the file. So the
processor time of making content (looking for zeros, hashing, reading tags) and that of writing it
pass side by side, and memory that is given to `write` may change as soon as that returns. Memory
that does not change until `flush`, such as a paused guest's, is written from where it is.

On a disk these threads write past the page cache (O_DIRECT), four at a time: copying a guest's RAM
into its host's cache takes longer than writing it, and displaces what is read there. What such a
write cannot take, because it does not begin or end at a block, goes through the cache. On tmpfs
there is nothing to pass by, and the kernel lets one thread at a time write to a file: so there is
one.

Parts of a file may be written again: two writes of the same bytes take effect in their order.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

BUFFER_BYTES: Final = 2 << 20

# No page of the cache is also written past it. Where blocks are larger than a page, such a write
# goes through the cache, too.
_BLOCK_BYTES: Final = max(4096, mmap.PAGESIZE)
_SLACK_BYTES: Final = 64 << 10  # a page is never in two buffers
_DIRECT_WRITERS: Final = 4

# Linux, include/uapi/linux/magic.h; struct statfs begins with the type.
_IN_MEMORY: Final = (0x0102_1994, 0x8584_58F6)  # tmpfs, ramfs
_STATFS_BYTES: Final = 256

_libc: Final = ctypes.CDLL(None, use_errno=True)


class PageDigest(Protocol):
    """Returns a digest per page of some memory."""

    def __call__(
        self, pages: NDArray[np.uint8], copy: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint64]:
        """Return the digests; with `copy`, copy the pages there first, and digest the copy."""
        ...


class WriteBehind:
    r"""Writes to the regular file `fd`, which stays the caller's; used by one thread.

    Every method raises OSError as write(2) does, also for what was written before, and again each
    time after that: what is in the file then is not known. `close` raises nothing.

    >>> import tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     behind = WriteBehind(file.fileno())
    ...     behind.write(3, np.frombuffer(b"guest", np.uint8))
    ...     behind.flush()
    ...     behind.close()
    ...     file.read()
    b'\x00\x00\x00guest'
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._direct: int | None = None
        self._at = self._fill = 0  # the buffer that is being filled: its place in the file
        self._buffer: NDArray[np.uint8] | None = None
        self._free: list[NDArray[np.uint8]] = []
        self._most_pending = 1
        self._pool: ThreadPoolExecutor | None = None
        self._pending: dict[Future[None], tuple[int, int, NDArray[np.uint8] | None]] = {}
        self._failure: OSError | None = None

    def write(self, offset: int, content: NDArray[np.uint8]) -> None:
        """Write `content`, shape (n,), at byte `offset`."""
        for portion, target in self._portions(offset, content, 1):
            target[:] = portion

    def write_in_place(self, offset: int, content: NDArray[np.uint8]) -> None:
        """Write `content` at byte `offset`; it must not change before `flush` or `close`."""
        self._hand_over(self._fill)
        for at in range(0, content.size, BUFFER_BYTES):
            part = content[at : at + BUFFER_BYTES]
            self._take_turn()
            self._submit(part, offset + at)
        self._at = offset + content.size

    def write_pages(
        self, offset: int, content: NDArray[np.uint8], page_bytes: int, digest: PageDigest
    ) -> list[NDArray[np.uint64]]:
        """Write whole pages of at most 64 KiB; return the digests of just what is written."""
        portions = self._portions(offset, content, page_bytes)
        return [digest(portion, target) for portion, target in portions]

    def _portions(
        self, offset: int, content: NDArray[np.uint8], unit: int
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """Yield content in portions of whole units, each with its place in a buffer."""
        if offset != self._at + self._fill:
            self._hand_over(self._fill)
            self._at = offset
        done = 0
        while done < content.size:
            buffer = self._current()
            room = -(-(BUFFER_BYTES - self._fill) // unit) * unit
            size = min(room, content.size - done)
            yield content[done : done + size], buffer[self._fill : self._fill + size]
            done += size
            self._fill += size
            if self._fill >= BUFFER_BYTES:
                # The next buffer begins at a block, so that it can go past the page cache.
                self._hand_over(self._fill - (self._at + self._fill) % _BLOCK_BYTES)

    def _current(self) -> NDArray[np.uint8]:
        if self._buffer is None:
            self._buffer = self._take()
        return self._buffer

    def _take(self) -> NDArray[np.uint8]:
        """Return a free buffer."""
        self._take_turn()
        return self._free.pop() if self._free else _new_buffer()

    def _take_turn(self) -> None:
        """Wait until fewer than two writes per writer are under way."""
        self._reap([each for each in self._pending if each.done()])
        while len(self._pending) >= 2 * self._most_pending:
            self._reap(wait(self._pending, return_when=FIRST_COMPLETED).done)

    def _hand_over(self, size: int) -> None:
        """Let the first `size` bytes of the buffer be written; the rest begins the next one."""
        buffer, at = self._buffer, self._at
        if buffer is None or not size:
            return
        rest = buffer[size : self._fill]
        self._buffer = None
        self._at, self._fill = at + size, rest.size
        self._submit(buffer[:size], at, buffer)
        if rest.size:
            self._current()[: rest.size] = rest

    def _submit(
        self, content: NDArray[np.uint8], at: int, buffer: NDArray[np.uint8] | None = None
    ) -> None:
        """Let `content` be written, which lies in `buffer` if it is not somebody else's."""
        self._wait_for(at, at + content.size)
        self._start()
        assert self._pool is not None  # noqa: S101 (started)
        job = self._pool.submit(self._write_out, content, at)
        self._pending[job] = (at, at + content.size, buffer)

    def settle(self, start: int, stop: int) -> None:
        """Wait until what was written to bytes [start, stop) is in the file."""
        if start < self._at + self._fill and self._at < stop:
            self._hand_over(self._fill)
        self._wait_for(start, stop)

    def _start(self) -> None:
        if self._pool is None:
            self._direct = _open_direct(self._fd)
            self._most_pending = 1 if self._direct is None else _DIRECT_WRITERS
            self._pool = ThreadPoolExecutor(self._most_pending, "write-behind")

    def _write_out(self, content: NDArray[np.uint8], at: int) -> None:
        left, fd = content.data, self._fd
        is_blocks = not (content.ctypes.data | at | content.size) % _BLOCK_BYTES
        if self._direct is not None and is_blocks:
            fd = self._direct
        while left:
            try:
                count = os.pwrite(fd, left, at)
            except OSError as error:
                if error.errno != errno.EINVAL or fd == self._fd:
                    raise
                fd = self._fd  # a file system that takes such writes, but not this one
            else:
                left, at = left[count:], at + count

    def _wait_for(self, start: int, stop: int) -> None:
        """Wait for writes of any of these bytes."""
        self._reap(
            job for job, (low, high, _) in [*self._pending.items()] if low < stop and start < high
        )

    def _reap(self, jobs: Iterable[Future[None]]) -> None:
        """Wait for these jobs and take their buffers back. Raises what has failed."""
        for job in jobs:
            error = job.exception()
            _, _, buffer = self._pending.pop(job)
            if buffer is not None:
                self._free.append(buffer)
            if isinstance(error, OSError):
                self._failure = self._failure or error
            elif error is not None:
                raise error
        if self._failure is not None:
            raise self._failure

    def flush(self) -> None:
        """Wait until all that was written is in the file; it need not be on the disk."""
        if self._pool is None and self._buffer is not None and self._failure is None:
            self._write_small()
        self._hand_over(self._fill)
        self._reap([*self._pending])

    def _write_small(self) -> None:
        """Write what is less than a buffer in this thread: no other would make it sooner."""
        buffer, at, size = self._current(), self._at, self._fill
        self._at, self._fill = at + size, 0
        try:
            self._write_out(buffer[:size], at)
        except OSError as error:
            self._failure = error
            raise

    def close(self) -> None:
        """Wait for what is being written and forget the rest. Safe to call twice."""
        self._buffer, self._fill = None, 0
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._pending.clear()
        self._free.clear()
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None


def _new_buffer() -> NDArray[np.uint8]:
    memory = mmap.mmap(-1, BUFFER_BYTES + _SLACK_BYTES, flags=mmap.MAP_PRIVATE)
    return np.frombuffer(memory, np.uint8)


def _open_direct(fd: int) -> int | None:
    """Return another descriptor of the file that passes the page cache by, if that is better."""
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(fd, found):
        return None
    if ctypes.c_ulong.from_buffer(found).value in _IN_MEMORY:
        return None
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None
