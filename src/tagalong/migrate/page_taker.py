"""Puts received pages into a machine, and leaves alone what is zero there anyway."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tagalong import wire
from tagalong.machine import Machine
from tagalong.memory import Gpa
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
        self._has_tags = has_tags
        self._placed: memoryview | None = None
        self._page_bytes = machine.description.page_size_bytes
        self._starts = np.array([region.gpa for region in machine.memory.regions], np.int64)
        used = machine.populated_pages()
        # One flag a page, for each region.
        self._data_used, self._tags_used, self._stale = (
            [bitmap.flags() for bitmap in used] for _ in range(3)
        )

    def place(self, gpa: int, size_bytes: int) -> memoryview:
        """Return the guest RAM that the data of a batch of one run are to be received into."""
        self._placed = self._find(gpa, size_bytes)
        return self._placed

    def _is_placed(self, batch: wire.Pages) -> bool:
        return not isinstance(batch.data, wire.NoBytes) and batch.data[0] is self._placed

    def _find(self, gpa: int, size_bytes: int) -> memoryview:
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
            if batch.data is wire.NoBytes.ZERO:
                self._zero_data(number, pages)
            elif not isinstance(batch.data, wire.NoBytes) and not self._is_placed(batch):
                self._scatter(number, pages, batch.data[0], at)
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
            yield number, _expand(first[here], count[here])

    def _scatter(self, number: int, pages: Pages, data: memoryview, at: int) -> None:
        rows = np.frombuffer(data, np.uint8).reshape(-1, self._page_bytes)
        self._rows(number)[pages] = rows[at : at + pages.size]
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
            self._rows(number)[used] = 0
            self._data_used[number][used] = False

    def _zero_tags(self, number: int, pages: Pages) -> None:
        used = pages[self._tags_used[number][pages]]
        if self._has_tags and used.size:
            zeros = np.zeros((used.size, self._page_bytes // PACKED_RATIO), np.uint8)
            self._machine.write_page_tags(number, used, zeros)
            self._tags_used[number][used] = False

    def _rows(self, number: int) -> NDArray[np.uint8]:
        """Return a region's data, a row a page."""
        return self._machine.memory.regions[number].data.reshape(-1, self._page_bytes)


def _expand(first: Pages, count: Pages) -> Pages:
    """Return the numbers of all pages of runs."""
    numbers: Pages = np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
    return numbers
