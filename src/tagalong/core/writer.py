"""Writes a core: planes in any order and as often as one likes, notes at the end.

Nothing is to be seen under the final name before `commit` has succeeded (`tagalong.files`).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tagalong.core.machine_note import CoreNotes
from tagalong.core.packing import PackProgress, pack_into
from tagalong.core.plan import CorePlan, CoreSegment
from tagalong.core.sparse import SparseExtent
from tagalong.core.thread_notes import encode_notes
from tagalong.errors import RunStateError, UsageError
from tagalong.files import NewFile, WrittenFile
from tagalong.machine import MachineDescription, MachineState
from tagalong.mte import PACKED_RATIO
from tagalong.write_behind import WriteBehind


def room_for_notes(description: MachineDescription, state: MachineState) -> int:
    """Return how many bytes to leave for the notes of a machine whose state is like `state`.

    With what a state can grow by until the core is finished, and VMCOREINFO, for which Linux takes
    a page. Raises UsageError for a machine or a state that the format cannot hold.
    """
    known = len(encode_notes(CoreNotes(description, state)))
    return known + known // 8 + description.page_size_bytes


class CoreWriter:
    """A core in the making, at first all holes; used in a `with` statement, by one thread.

    `path`: the final name; `segments`: what it will hold, in any order (see CoreSegment for
    the alignment); `page_size_bytes`: the machine's. With `overwrite` false an existing file
    is never replaced, not even one that appears in the meantime. With `compress` the core is
    written compressed: plain to a second file without a name first, because a core is written
    in any order and a compressed one front to back. `notes_room_bytes`: so much is left for the
    notes in front of memory; `room_for_notes` returns it. Left without `commit`, whether by an
    exception or not, it leaves nothing.

    Raises UsageError for segments that cannot be, HostError if the folder cannot be written
    to, or if the file exists and must not be replaced.

    >>> from tagalong.memory import Gpa
    >>> segment = CoreSegment(0x4000_0000, Gpa(0x4000_0000), 0x1000, has_tags=True)
    >>> with CoreWriter(Path("vm.core"), [segment], page_size_bytes=4096) as writer:
    ...     writer.write_tags(0, 0, np.full(128, 0x21, np.uint8))  # and no commit
    >>> Path("vm.core").exists()
    False
    """

    def __init__(
        self,
        path: Path,
        segments: Sequence[CoreSegment],
        *,
        page_size_bytes: int,
        overwrite: bool = True,
        compress: bool = False,
        notes_room_bytes: int = 0,
    ) -> None:
        self._plan = CorePlan(segments, page_size_bytes, notes_room_bytes)
        self._file = NewFile(path, overwrite=overwrite)
        self._behind = WriteBehind(self._file.fd)
        self._compressed: NewFile | None = None
        try:
            if compress:
                self._compressed = NewFile(path, overwrite=overwrite)
            self._data, self._tags = self._extents(path)
        except BaseException:
            self.abort()
            raise

    def _extents(self, path: Path) -> tuple[list[SparseExtent], list[SparseExtent | None]]:
        data: list[SparseExtent] = []
        tags: list[SparseExtent | None] = []
        for segment, place in zip(self._plan.segments, self._plan.places, strict=True):
            size = segment.size_bytes
            data.append(SparseExtent(self._file.fd, path, place.data, size, self._behind))
            tags.append(
                None
                if place.tags is None
                else SparseExtent(
                    self._file.fd, path, place.tags, size // PACKED_RATIO, self._behind
                )
            )
        return data, tags

    def write_data(self, segment: int, offset: int, data: NDArray[np.uint8]) -> None:
        """Write data of a segment from byte `offset` on; zero pages become or stay holes.

        `segment`: its place in `segments`. `offset` and the shape (n,) of `data`: whole
        pages. A writable array may change afterwards, a read-only one not before `flush`. Raises
        UsageError for pages that the segment does not have, RunStateError after the end, HostError
        if the host cannot write these, or what was written before.
        """
        self._check_pages(segment, offset, data.size)
        self._data[segment].write(offset, data)

    def write_pages(self, segment: int, ranges: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
        """Write data to many places of a segment: to each [start, stop) the next of `data`.

        `ranges`: shape (ranges, 2), in order, whole pages, as long together as `data`, shape
        (n,). As `write_data` for each, and faster for many short ones.
        """
        page, sizes = self._plan.page_size_bytes, ranges[:, 1] - ranges[:, 0]
        if sizes.sum() != data.size or (sizes < 0).any() or (ranges % page).any():
            raise UsageError(
                f"{data.size:#x} bytes cannot be written to {len(ranges)} ranges of "
                f"{int(sizes.sum()):#x} bytes, or they are not of whole pages"
            )
        if len(ranges):
            first, last = int(ranges.min()), int(ranges.max())
            self._check_pages(segment, first, last - first)
        self._data[segment].write_scattered(ranges, data)

    def write_tags(self, segment: int, offset: int, packed: NDArray[np.uint8]) -> None:
        """Write the packed tags of a segment's pages from byte `offset` of its data on.

        `packed`: shape (n,), the tags of whole pages: 1/32 of their size. What is zero
        becomes or stays a hole. Raises as `write_data`; UsageError if the segment has none.
        """
        self._check_pages(segment, offset, packed.size * PACKED_RATIO)
        tags = self._tags[segment]
        if tags is None:
            raise UsageError(f"segment {segment} of this core has no tags")
        tags.write(offset // PACKED_RATIO, packed)

    def copy_data(
        self, segment: int, offset: int, source_fd: int, source_offset: int, length: int
    ) -> None:
        """Write `length` bytes of data from a file; its holes become or stay holes.

        Within one file system the kernel copies, or shares, by itself; elsewhere zero
        pages become holes as well. `offset`, `length`: whole pages. Raises as `write_data`,
        and HostError if the source cannot be read or ends too early.
        """
        self._check_pages(segment, offset, length)
        self._data[segment].copy(offset, source_fd, source_offset, length)

    def flush(self) -> None:
        """Wait until all data and tags are in the file.

        Raises HostError if they cannot be; `commit` raises it then, too.
        """
        for extent in self._data:
            extent.flush()

    def commit(self, notes: CoreNotes, progress: PackProgress | None = None) -> WrittenFile:
        """Write notes and headers, bring the file to the disk and give it its name.

        `progress` is called while a core is compressed; what it raises passes through.

        Raises UsageError for notes that the format cannot hold, RunStateError the second
        time, HostError if the host cannot write or rename: what stood under the name before
        is then still there, as it was.
        """
        self._require_open()
        content = encode_notes(notes)
        self.flush()
        self._behind.close()
        self._file.set_size(self._plan.planes_end)  # its last planes may be holes
        self._file.write(self._plan.notes_offset(len(content)), content)
        extra = self._plan.section_header()
        if extra:
            self._file.write(self._plan.section_header_offset(len(content)), extra)
        self._file.write(0, self._plan.headers(len(content)))
        return self._publish(progress)

    def _publish(self, progress: PackProgress | None) -> WrittenFile:
        if self._compressed is None:
            return self._file.publish()
        try:
            fd = self._file.fd
            pack_into(self._compressed, fd, os.fstat(fd).st_size, progress=progress)
            return self._compressed.publish()
        finally:
            self.abort()

    def abort(self) -> None:
        """Give the file up; it leaves nothing. Safe to call twice, and after `commit`."""
        self._behind.close()
        self._file.close()
        if self._compressed is not None:
            self._compressed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def _check_pages(self, segment: int, offset: int, size: int) -> None:
        self._require_open()
        if not 0 <= segment < len(self._plan.segments):
            raise UsageError(f"this core has no segment {segment}")
        page, whole = self._plan.page_size_bytes, self._plan.segments[segment].size_bytes
        if offset < 0 or offset % page or size % page or offset + size > whole:
            raise UsageError(
                f"[{offset:#x}, {offset + size:#x}) are not whole pages of segment {segment}, "
                f"which has {whole:#x} bytes"
            )

    def _require_open(self) -> None:
        if self._file.is_closed:
            raise RunStateError("this core is finished: nothing more can be written to it")
