"""Compresses a core, and undoes it (`compressed` describes the format)."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray

from tagalong.core.compressed import (
    FRAME_BYTES,
    HAS_CHECKSUMS,
    SEEK_ENTRY,
    SEEK_FOOTER,
    SEEKABLE_MAGIC,
    SKIPPABLE_HEADER,
    SeekableSource,
    frame_checksum,
)
from tagalong.core.reader import open_file
from tagalong.core.source import SKIPPABLE_MAGIC, is_compressed
from tagalong.core.sparse import SparseExtent, read_some
from tagalong.errors import UsageError
from tagalong.files import NewFile, WrittenFile
from tagalong.memory.extents import file_extents
from tagalong.write_behind import WriteBehind

LEVEL = 3
"""zstd's own default: on random tags higher levels gain nothing."""

PackProgress = Callable[[int, int], None]
"""Called with the bytes of the core that are done, and with all of them."""


def pack(
    source: Path,
    target: Path,
    *,
    level: int = LEVEL,
    overwrite: bool = True,
    progress: PackProgress | None = None,
) -> WrittenFile:
    """Write the core `source` compressed to `target`; `source` stays as it is.

    All CPUs compress; memory stays bounded by a few frames for each. Raises UsageError if
    `source` is compressed already, HostError if a file cannot be read or written; `target`
    is then as it was before.

    >>> pack(Path("vm.core"), Path("vm.core.zst"))  # doctest: +SKIP
    """
    file = open_file(source)
    new = None
    try:
        if is_compressed(file):
            raise UsageError(f"{source} is compressed already; give a plain core")
        new = NewFile(target, overwrite=overwrite)
        pack_into(new, file.fd, file.size, level=level, progress=progress)
        return new.publish()
    finally:
        if new:
            new.close()
        file.close()


def pack_into(
    new: NewFile,
    fd: int,
    size_bytes: int,
    *,
    level: int = LEVEL,
    progress: PackProgress | None = None,
) -> None:
    """Write the core that the descriptor `fd` has compressed to `new`. Raises HostError."""
    table = []
    at = 0
    for compressed, size, checksum in _compressed(fd, size_bytes, level):
        new.write(at, compressed)
        at += len(compressed)
        table.append(
            SEEK_ENTRY.pack(compressed_bytes=len(compressed), core_bytes=size, checksum=checksum)
        )
        if progress:
            progress(min(len(table) * FRAME_BYTES, size_bytes), size_bytes)
    new.write(at, _seek_table(table))


def _seek_table(entries: list[bytes]) -> bytes:
    table = b"".join(entries)
    head = SKIPPABLE_HEADER.pack(magic=SKIPPABLE_MAGIC, frame_bytes=len(table) + SEEK_FOOTER.size)
    footer = SEEK_FOOTER.pack(
        frame_count=len(entries), descriptor=HAS_CHECKSUMS, magic=SEEKABLE_MAGIC
    )
    return head + table + footer


def _compressed(fd: int, size: int, level: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the frames in order: compressed bytes, size and checksum of the content."""
    workers = os.cpu_count() or 1
    zero = _compress(np.zeros(FRAME_BYTES, np.uint8), level)
    pending: deque[Future[tuple[bytes, int, int]] | None] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for at, is_hole in _frame_starts(fd, size):
            pending.append(None if is_hole else pool.submit(_compress_at, fd, at, size, level))
            if len(pending) > 2 * workers:
                first = pending.popleft()
                yield first.result() if first else zero
        for job in pending:
            yield job.result() if job else zero


def _frame_starts(fd: int, size: int) -> Iterator[tuple[int, bool]]:
    """Yield the start of each frame, and whether all of it is a hole."""
    used = file_extents(fd, 0, size, "the core")
    start, stop = next(used, (size, size))
    for at in range(0, size, FRAME_BYTES):
        while stop <= at and start < size:
            start, stop = next(used, (size, size))
        yield at, start >= at + FRAME_BYTES


def _compress_at(fd: int, at: int, size: int, level: int) -> tuple[bytes, int, int]:
    content = np.empty(min(FRAME_BYTES, size - at), np.uint8)
    done = 0
    while done < content.size:
        done += read_some(fd, content[done:], at + done)
    return _compress(content, level)


def _compress(content: NDArray[np.uint8], level: int) -> tuple[bytes, int, int]:
    compressed = zstandard.ZstdCompressor(level=level).compress(content.data)
    return compressed, content.size, frame_checksum(content)


def unpack(
    source: Path, target: Path, *, overwrite: bool = True, progress: PackProgress | None = None
) -> WrittenFile:
    """Write the compressed core `source` to `target` as a plain one, sparse as it was.

    Raises UsageError if `source` is not compressed, MalformedCoreError if it is damaged,
    HostError if a file cannot be read or written; `target` is then as it was before.

    >>> unpack(Path("vm.core.zst"), Path("vm.core"))  # doctest: +SKIP
    """
    file = open_file(source)
    new = None
    try:
        if not is_compressed(file):
            raise UsageError(f"{source} is not compressed; give a compressed core")
        packed = SeekableSource(file)
        new = NewFile(target, overwrite=overwrite)
        behind = WriteBehind(new.fd)
        with contextlib.closing(behind):
            extent = SparseExtent(new.fd, target, 0, packed.size, behind)
            for at, content in packed.frames():
                extent.write(at, content)
                if progress:
                    progress(at + content.size, packed.size)
            extent.flush()
        new.set_size(packed.size)
        return new.publish()
    finally:
        if new:
            new.close()
        file.close()
