"""Puts received pages into a machine, and leaves alone what is zero there anyway."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tagalong import wire
from tagalong.machine import Machine
from tagalong.memory import Gpa, run_pages
from tagalong.mte import PACKED_RATIO

Flags = list[NDArray[np.bool_]]
Pages = NDArray[np.int64]

# Pages that are zeroed at once: bounds the memory for the zeros.
_ZEROED_AT_ONCE = 4096


class PageTaker:
    """Receives the pages of one migration into `machine`, which is paused.

    Knows which planes of which pages hold something, so that what comes as zero and was
    never used stays a hole. `pages_in_round` counts up to `end_round`.
    """

    def __init__(self, machine: Machine, *, has_tags: bool) -> None:
        self.pages = 0
        self.pages_in_round = 0
        self._machine = machine
        self._landing: NDArray[np.uint8] | None = None
        self._has_tags = has_tags
        self._page_bytes = machine.description.page_size_bytes
        self._starts = np.array([region.gpa for region in machine.memory.regions], np.int64)
        used = machine.populated_pages()
        # One flag a page, for each region.
        self._data_used, self._tags_used, self._stale = (
            [bitmap.flags() for bitmap in used] for _ in range(3)
        )

    def place(self, gpa: int, size_bytes: int) -> memoryview:
        """Return the guest RAM that the data of a batch of one run are to be received into.

        Where guest RAM is written by an access strategy it is memory of ours, until `take`.
        """
        region, _ = self._machine.memory.locate(Gpa(gpa), size_bytes)
        if region.is_routed:
            self._landing = np.empty(size_bytes, np.uint8)
            ram = self._landing
        else:
            ram = self._machine.memory.view(Gpa(gpa), size_bytes)
        number = int(np.searchsorted(self._starts, gpa, "right")) - 1
        first = (gpa - int(self._starts[number])) // self._page_bytes
        self._data_used[number][first : first + size_bytes // self._page_bytes] = True
        return ram.data

    def take(self, batch: wire.Pages) -> None:
        """Complete a batch; data of one run, if not zero, are in place already.

        Raises what Machine.write_page_tags raises.
        """
        at = 0
        for number, pages in self._pages(batch.runs):
            if isinstance(batch.data, wire.NoBytes):
                self._zero_data(number, pages)
            elif len(batch.runs) > 1:
                self._scatter(number, pages, batch.data[0], at)
            elif self._landing is not None:
                region = self._machine.memory.regions[number]
                region.write_data(int(pages[0]) * self._page_bytes, self._landing)
                self._landing = None
            self._take_tags(number, pages, batch.tags, at)
            self._stale[number][pages] = False
            at += pages.size
        self.pages += batch.page_count
        self.pages_in_round += batch.page_count

    def end_round(self) -> int:
        """Return how many pages were taken in this round, and begin the next one."""
        pages, self.pages_in_round = self.pages_in_round, 0
        return pages

    def clear_stale(self) -> None:
        """Zero the pages that held something from the start and were not received.

        A new machine has none; but what is not received has to be zero, not left to luck.
        """
        for number, stale in enumerate(self._stale):
            pages = np.flatnonzero(stale)
            for at in range(0, pages.size, _ZEROED_AT_ONCE):
                self._zero_data(number, pages[at : at + _ZEROED_AT_ONCE])
                self._zero_tags(number, pages[at : at + _ZEROED_AT_ONCE])

    def _pages(self, runs: wire.Runs) -> Iterator[tuple[int, Pages]]:
        """Yield each region's number with the numbers of its pages, in the order of the runs."""
        first, count = runs.array.astype(np.int64).T
        regions = np.searchsorted(self._starts, first, "right") - 1
        first = (first - self._starts[regions]) // self._page_bytes
        for number in np.unique(regions).tolist():
            here = regions == number
            yield number, run_pages(np.stack((first[here], count[here]), axis=1))

    def _scatter(self, number: int, pages: Pages, data: memoryview, at: int) -> None:
        rows = np.frombuffer(data, np.uint8).reshape(-1, self._page_bytes)
        region = self._machine.memory.regions[number]
        region.write_pages(pages, rows[at : at + pages.size])
        self._data_used[number][pages] = True

    def _take_tags(
        self, number: int, pages: Pages, tags: memoryview | wire.NoBytes, at: int
    ) -> None:
        if isinstance(tags, wire.NoBytes):
            self._zero_tags(number, pages)
            return
        rows = np.frombuffer(tags, np.uint8).reshape(-1, self._page_bytes // PACKED_RATIO)
        self._machine.write_page_tags(number, pages, rows[at : at + pages.size])
        self._tags_used[number][pages] = True

    def _zero_data(self, number: int, pages: Pages) -> None:
        used = pages[self._data_used[number][pages]]
        if used.size:
            zero = np.zeros((1, self._page_bytes), np.uint8)
            self._machine.memory.regions[number].write_pages(used, zero)
            self._data_used[number][used] = False

    def _zero_tags(self, number: int, pages: Pages) -> None:
        used = pages[self._tags_used[number][pages]]
        if self._has_tags and used.size:
            zeros = np.zeros((used.size, self._page_bytes // PACKED_RATIO), np.uint8)
            self._machine.write_page_tags(number, used, zeros)
            self._tags_used[number][used] = False
