"""Puts received pages into a machine, and leaves alone what is zero there anyway."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tagalong import wire
from tagalong.machine import Machine
from tagalong.memory import Gpa, GuestMemory, PageBitmap
from tagalong.mte import PACKED_RATIO


class PageTaker:
    """Receives the pages of one migration into `machine`, which is paused.

    Knows which planes of which pages hold something, so that what comes as zero and was
    never used stays a hole. `pages_in_round` counts up to `end_round`.
    """

    def __init__(self, machine: Machine, *, has_tags: bool) -> None:
        self.pages = 0
        self.pages_in_round = 0
        self._machine = machine
        self._has_tags = has_tags
        used = machine.populated_pages()
        self._data_used = _PageFlags(machine.memory, used)
        self._tags_used = _PageFlags(machine.memory, used)
        self._stale = _PageFlags(machine.memory, used)

    def place(self, gpa: int, size_bytes: int) -> memoryview:
        """Return the guest RAM that a batch's data are to be received into."""
        self._data_used.of(gpa, size_bytes)[:] = True
        return self._machine.memory.view(Gpa(gpa), size_bytes).data

    def take(self, batch: wire.Pages) -> None:
        """Complete a batch; its data, if not zero, are in place already.

        Raises what Machine.write_tags raises.
        """
        page = self._machine.description.page_size_bytes
        at = 0
        for run in batch.runs:
            size_bytes = run.page_count * page
            if batch.data is wire.NoBytes.ZERO:
                self._zero_data(run.first_gpa, size_bytes)
            self._take_tags(run.first_gpa, size_bytes, batch.tags, at)
            self._stale.of(run.first_gpa, size_bytes)[:] = False
            at += size_bytes // PACKED_RATIO
        self.pages += batch.page_count
        self.pages_in_round += batch.page_count

    def _take_tags(
        self, gpa: int, size_bytes: int, tags: memoryview | wire.NoBytes, at: int
    ) -> None:
        if not isinstance(tags, memoryview):
            self._zero_tags(gpa, size_bytes)
            return
        packed = np.frombuffer(tags, np.uint8, size_bytes // PACKED_RATIO, at)
        self._machine.write_tags(Gpa(gpa), packed)
        self._tags_used.of(gpa, size_bytes)[:] = True

    def end_round(self) -> int:
        """Return how many pages were taken in this round, and begin the next one."""
        pages, self.pages_in_round = self.pages_in_round, 0
        return pages

    def clear_stale(self) -> None:
        """Zero the pages that held something from the start and were not received.

        A new machine has none; but what is not received has to be zero, not left to luck.
        """
        for region in self._machine.memory.regions:
            for gpa, size_bytes in self._stale.runs(region.gpa, region.size_bytes):
                self._zero_data(gpa, size_bytes)
                self._zero_tags(gpa, size_bytes)

    def _zero_data(self, gpa: int, size_bytes: int) -> None:
        for start, length in self._data_used.runs(gpa, size_bytes):
            self._machine.memory.view(Gpa(start), length).fill(0)
        self._data_used.of(gpa, size_bytes)[:] = False

    def _zero_tags(self, gpa: int, size_bytes: int) -> None:
        if not self._has_tags:
            return
        for start, length in self._tags_used.runs(gpa, size_bytes):
            self._machine.write_tags(Gpa(start), np.zeros(length // PACKED_RATIO, np.uint8))
        self._tags_used.of(gpa, size_bytes)[:] = False


class _PageFlags:
    """One flag a page of guest RAM, found by gpa."""

    def __init__(self, memory: GuestMemory, initial: Sequence[PageBitmap]) -> None:
        self._memory = memory
        self._flags: dict[Gpa, NDArray[np.bool_]] = {}
        for region, bitmap in zip(memory.regions, initial, strict=True):
            flags = np.zeros(region.page_count, np.bool_)
            flags[bitmap.pages()] = True
            self._flags[region.gpa] = flags

    def of(self, gpa: int, size_bytes: int) -> NDArray[np.bool_]:
        """Return the flags of whole pages in one region, as a writable view."""
        region, offset = self._memory.locate(Gpa(gpa), size_bytes)
        page = region.page_size_bytes
        return self._flags[region.gpa][offset // page : (offset + size_bytes) // page]

    def runs(self, gpa: int, size_bytes: int) -> Iterator[tuple[int, int]]:
        """Yield gpa and size in bytes of the runs of flagged pages in a range."""
        flags = self.of(gpa, size_bytes)
        if flags.any():
            page = size_bytes // flags.size
            for first, count in PageBitmap.from_flags(flags).runs().tolist():
                yield gpa + first * page, count * page
